"""A checkpoint's tokenizer as the metadata of a GGUF file.

llama.cpp knows pre-tokenizers by name. The name is found by trying those that kept reads: the one whose patterns give
the ids of the model's own tokenizer on a text with words, numbers, signs and several scripts.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from kept.checkpoint.chat_template import special_texts
from kept.checkpoint.templates import DEFAULT, chat_templates
from kept.checkpoint.tokenizer_reader import FencedTokenizer, TokenizerReader
from kept.errors import InputError
from kept.gguf.pretokenizers import PRE_TOKENIZERS
from kept.gguf.tokenizer import NAMED, TEMPLATE
from kept.gguf.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SIGNS = (
    "I'll SAY it's 3 or 14159 times: (a+b)*c != 0x1F;\n\n\t  end.\r\n  café, ÄÖÜ — naïve…  한국어 2026년 中文字 ελλ\n"
)

WAY_OUT = "run the model in transformers or vLLM"

PREFERRED = ("llama-bpe", "qwen2", "smollm", "gpt-2")
"""Names to try first, of those with equal patterns."""


def tokenizer_keys(directory: Path, vocabulary: int) -> dict[str, Any]:
    """Return the keys of a tokenizer and its chat template; `vocabulary` is the number of the model's tokens.

    Raises InputError for a tokenizer that llama.cpp has no name for.
    """
    reader = TokenizerReader(directory)
    if reader.file is None:
        return {"tokenizer.ggml.model": "no_vocab"}
    document = reader.tokenizer.document
    model = document["model"]
    _check_kind(reader.file, model)
    tokens, kinds = _tokens(document, vocabulary)
    named = {name: tokens.index(text) for name, text in special_texts(directory).items() if text in tokens}
    ids = {f"tokenizer.ggml.{NAMED[name]}_token_id": at for name, at in named.items() if name in NAMED}
    begins = reader.encode("a") != reader.encode("a", special=False)
    keys = {"tokens": tokens, "token_type": kinds, "add_bos_token": begins, **_algorithm(reader, document, tokens)}
    template = chat_templates(directory).get(DEFAULT)
    return {
        **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
        **ids,
        **({TEMPLATE: template} if template else {}),
    }


def _check_kind(file: Path, model: Mapping[str, Any]) -> None:
    """Raise InputError for a model that is not BPE with merges, the kind that a GGUF file from `kept` can hold."""
    if model.get("type") != "BPE":
        raise InputError(f"{file}: is a {model.get('type')} tokenizer; only BPE is written as GGUF; {WAY_OUT}")
    if not model.get("merges"):
        raise InputError(f"{file}: is a BPE tokenizer without merges, which llama.cpp needs; {WAY_OUT}")


def _tokens(document: Mapping[str, Any], vocabulary: int) -> tuple[list[str], list[int]]:
    """Return the texts and types of all ids."""
    added = {one["id"]: one for one in document["added_tokens"]}
    texts = {at: text for text, at in document["model"]["vocab"].items()} | {
        at: o["content"] for at, o in added.items()
    }
    tokens = [texts.get(at, f"[PAD{at}]") for at in range(vocabulary)]
    unknown = document["model"].get("unk_token")

    def kind(at: int) -> int:
        if at not in texts:
            return UNUSED
        if texts[at] == unknown:
            return UNKNOWN
        if at in added:
            return CONTROL if added[at]["special"] else USER_DEFINED
        return (
            BYTE if document["model"].get("byte_fallback") and re.fullmatch(r"<0x[0-9A-F]{2}>", texts[at]) else NORMAL
        )

    return tokens, [*map(kind, range(vocabulary))]


def _algorithm(reader: TokenizerReader, document: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    """Return the keys of the algorithm: SentencePiece BPE with scores, or byte-level BPE with merges."""
    model = document["model"]
    merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    if model.get("byte_fallback"):
        ranks = {merge.replace(" ", ""): -float(rank) for rank, merge in reversed([*enumerate(merges)])}
        return {
            "model": "llama",
            "scores": [ranks.get(text, -float(len(merges) + at)) for at, text in enumerate(tokens)],
        }
    return {"model": "gpt2", "merges": merges, "pre": _pre_tokenizer(reader, document)}


def _pre_tokenizer(reader: TokenizerReader, document: Mapping[str, Any]) -> str:
    assert reader.file is not None
    text = files("kept").joinpath("verification/sample.txt").read_text(encoding="utf-8") + SIGNS * 2
    wanted = reader.encode(text, special=False)
    for name, candidate in _candidates(document):
        found = FencedTokenizer(reader.file, json.dumps(candidate))
        if [int(at) for ids in found.encode([text], special=False) for at in ids] == wanted:
            return name
    raise InputError(f"{reader.file}: splits text into words as none of llama.cpp's pre-tokenizers does; {WAY_OUT}")


def _candidates(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names of pre-tokenizers, and the tokenizer with the patterns of each."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    for name in dict.fromkeys((*PREFERRED, *filter(None, PRE_TOKENIZERS))):
        pre = PRE_TOKENIZERS[name]
        splits = [
            {"type": "Split", "pattern": {"Regex": one}, "behavior": "Isolated", "invert": False}
            for one in pre.patterns
        ]
        model = {**document["model"], "ignore_merges": pre.ignore_merges}
        split = {"type": "Sequence", "pretokenizers": [*splits, byte_level]}
        yield name, {**document, "model": model, "pre_tokenizer": split, "normalizer": None}
