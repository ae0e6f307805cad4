"""Checkpoint directories as they are found in the wild: raw safetensors files, shards, tokenizers, remote code."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from support.models import write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

INDEX = "model.safetensors.index.json"

BYTES_VOCABULARY = 320
"""Enough for the tokenizer of `write_tokenizer`: three special tokens and every byte."""

PROSE = "The keeper of the light counted seven ships, and one of them was late. " * 12


def write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=1), encoding="utf-8")


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def change_json(file: Path, **changes: object) -> None:
    write_json(file, {**(read_json(file) if file.exists() else {}), **changes})


def write_raw(file: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """A safetensors file of any header; `length` is what it claims to be long."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return file


def entry(dtype: object, shape: object, offsets: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a directory, whatever its shards."""
    return {name: t for file in sorted(directory.glob("*.safetensors")) for name, t in load_file(file).items()}


def split_into_shards(directory: Path, count: int) -> Path:
    """Spread a single-file checkpoint over shards with an index, as large models come."""
    tensors = tensors_of(directory)
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for part in range(count):
        file = f"model-{part + 1:05}-of-{count:05}.safetensors"
        mine = names[part::count]
        save_file({name: tensors[name] for name in mine}, directory / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(mine, file))
    write_json(directory / INDEX, {"metadata": {}, "weight_map": weight_map})
    return directory


def write_tokenizer(directory: Path, **config: object) -> Path:
    """A fast tokenizer of single bytes: ids 0, 1 and 2 are special, then come the 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<unk>", "<s>", "</s>"]
    vocab = {token: at for at, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.save(str(directory / "tokenizer.json"))
    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **ends, **config})
    return directory


def write_sentencepiece(directory: Path, size: int = 300) -> Path:
    """A `tokenizer.model` with byte fallback and Orion's ids: 0 unknown and padding, 1 begins, 2 ends."""
    import sentencepiece

    corpus = directory / "corpus.tmp"
    corpus.write_text(PROSE, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(directory / "tokenizer"),
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        normalization_rule_name="identity",
        minloglevel=3,
    )
    corpus.unlink()
    (directory / "tokenizer.vocab").unlink()
    return directory


def write_readable(directory: Path, family: str, **overrides: Any) -> Path:
    """A tiny checkpoint with a tokenizer."""
    return write_tokenizer(write_checkpoint(directory, family, vocab_size=BYTES_VOCABULARY, **overrides))


def booby_trap(file: Path, marker: Path) -> Path:
    """A Python file that leaves a mark where anyone runs it."""
    file.write_text(f"open({str(marker)!r}, 'w').close()\n", encoding="utf-8")
    return file


def all_bytes(directory: Path) -> Mapping[str, bytes]:
    """Every file of a directory by name."""
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}
