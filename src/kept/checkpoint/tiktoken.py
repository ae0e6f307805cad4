"""A fast `tokenizer.json` from the `qwen.tiktoken` of the first Qwen, which ships only that and remote code.

The file lists byte strings with their ranks, which are their ids. A text is put into composed form and cut into words
by a pattern; within a word the two neighbours whose bytes together have the lowest rank are merged, until none have
one. Names of special tokens are matched anywhere in a text.

Where two splits of one token overlap in a word, `tokenizers` merges by the split's own order and not leftmost first.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from kept.checkpoint.file_names import TIKTOKEN
from kept.checkpoint.json_file import json_if_there, to_json
from kept.checkpoint.tokenizer_config import CARRIED, portable
from kept.checkpoint.tokenizer_json import serialized
from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pattern of the segments before merging: contractions, letters, single digits, signs, line ends, spaces."""

END = "<|endoftext|>"

SPECIAL = (END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
"""Tokens behind those of the file, in order of id."""


def read_ranks(file: Path) -> dict[bytes, int]:
    """The byte strings of a `.tiktoken` file and their ranks.

    Raises CheckpointError naming the file where it is missing, damaged, or its ranks are not 0 to the last.
    """
    try:
        lines = [line.split() for line in file.read_bytes().splitlines() if line]
        ranks = {b64decode(token, validate=True): int(rank) for token, rank in lines}
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; the tokenizer is made from it") from None
    except (OSError, ValueError, binascii.Error):
        raise CheckpointError(f"{file}: is not a tiktoken vocabulary, or is incomplete; fetch it again") from None
    whole = sorted(ranks.values()) == list(range(len(lines))) and all(bytes([byte]) in ranks for byte in range(256))
    if not whole:
        raise CheckpointError(f"{file}: is damaged, a byte or a rank is missing or there twice; fetch it again")
    return ranks


def tiktoken_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer of a `qwen.tiktoken`. Raises CheckpointError naming the file where it cannot be read."""
    ranks = read_ranks(file)
    named = letters()
    spelled = {token: "".join(named[byte] for byte in token) for token in ranks}
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    merges = [(spelled[left], spelled[right]) for left, right in _merges(ranks)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(WORD), "isolated")
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, spelling])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return tokenizer


def _merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every split of a token into two tokens, lowest rank first."""
    for token in sorted(ranks, key=ranks.__getitem__):
        for cut in range(1, len(token)):
            if token[:cut] in ranks and token[cut:] in ranks:
                yield token[:cut], token[cut:]


def letters() -> list[str]:
    """The character that byte-level tokenizers write for each byte: itself where it prints, else one from U+0100 on."""
    prints = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in prints]
    return [chr(byte if byte in prints else 256 + others.index(byte)) for byte in range(256)]


def tiktoken_files(directory: Path) -> dict[str, bytes]:
    """`tokenizer.json` and `tokenizer_config.json` for a directory with a `qwen.tiktoken`, by name.

    Raises CheckpointError naming the file that is missing or damaged.
    """
    file = directory / "tokenizer_config.json"
    given = portable(json_if_there(file))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **{key: given[key] for key in CARRIED if given.get(key) is not None},
    }
    tokenizer = tiktoken_tokenizer(directory / TIKTOKEN)
    return {"tokenizer.json": to_json(serialized(tokenizer)), "tokenizer_config.json": to_json(config)}
