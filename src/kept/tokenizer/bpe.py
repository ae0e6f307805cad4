"""BPE tokenizers (arXiv 1508.07909) from their files: pieces, and merges in order of priority."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kept.checkpoint.file_names import TOKENIZERS
from kept.checkpoint.json_file import MOST_IN_RESULTS, read_json
from kept.checkpoint.sentencepiece import SPACE
from kept.checkpoint.tiktoken import letters
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from kept.checkpoint.tokenizer_reader import FencedTokenizer

BYTE_LEVEL, CHARACTERS = "byte-level", "byte-fallback"
"""Kinds: pieces of bytes under printable names, or pieces of characters with bytes for rare ones."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Bpe:
    """A BPE tokenizer: its file, the JSON that `tokenizers` writes for it, and the fenced tokenizer."""

    file: Path
    document: Mapping[str, Any]
    tokenizer: FencedTokenizer

    @classmethod
    def read(cls, directory: Path) -> Bpe:
        """Return the tokenizer of a directory. Raises InputError if it has none, or one that is not BPE."""
        file, tokenizer = read_tokenizer(directory)
        found = cls(file, tokenizer.document, tokenizer)
        kind = found.model["type"]
        if kind != "BPE":
            raise InputError(f"{file}: is a {kind} tokenizer, and only BPE grows by merges; use a BPE model")
        odd = next((k for k in ("continuing_subword_prefix", "end_of_word_suffix") if found.model.get(k)), None)
        if odd is not None:
            raise InputError(f"{file}: marks its pieces ({odd}), which is not merged; use a model without")
        return found

    @property
    def model(self) -> Mapping[str, Any]:
        """The model of the file: pieces and merges."""
        model: Mapping[str, Any] = self.document["model"]
        return model

    @cached_property
    def pieces(self) -> Mapping[str, int]:
        """Ids of all pieces, without added tokens."""
        pieces: Mapping[str, int] = self.model["vocab"]
        return pieces

    @cached_property
    def added(self) -> Mapping[str, int]:
        """Ids of added tokens, special ones included, which are split off a text before BPE."""
        return {token["content"]: token["id"] for token in self.document["added_tokens"]}

    @cached_property
    def tokens(self) -> Mapping[str, int]:
        """Ids of all tokens."""
        return {**self.pieces, **self.added}

    @property
    def size(self) -> int:
        """The vocabulary size: largest id + 1."""
        return max(self.tokens.values(), default=-1) + 1

    @cached_property
    def kind(self) -> str:
        """The kind: `BYTE_LEVEL` or `CHARACTERS`."""
        parts = [self.document["pre_tokenizer"], self.document["normalizer"]]
        return BYTE_LEVEL if any("ByteLevel" in types(part) for part in parts) else CHARACTERS

    @property
    def merges(self) -> list[Pair]:
        """Merged pairs in order of priority."""
        return [(left, right) for left, right in self.model["merges"]]

    def raw(self) -> dict[str, Any]:
        """Return a mutable copy of `tokenizer.json`; other formats are converted to it."""
        if self.file.name == "tokenizer.json":
            return read_json(self.file, MOST_IN_RESULTS)
        copied: dict[str, Any] = json.loads(json.dumps(self.document))
        return copied

    def reaching(self, pieces: Sequence[str]) -> frozenset[str]:
        """Return the pieces that fit into one word after this tokenizer's normalizer and pre-tokenizer."""
        open_ones = [piece for piece in pieces if not any(token in piece for token in self.added)]
        spelled = [self._spelled(piece) for piece in open_ones]
        words = self.tokenizer.words([text for text, _ in spelled])
        found = zip(open_ones, spelled, words, strict=True)
        return frozenset(piece for piece, (_, whole), cut in found if not whole or any(whole in word for word in cut))

    def _spelled(self, piece: str) -> tuple[str, str]:
        """Return a text that contains a piece, and the part of the piece that is whole characters."""
        if self.kind != BYTE_LEVEL:
            return piece.replace(SPACE, " "), piece
        text = whole_characters(piece)
        return text, "".join(LETTERS[byte] for byte in text.encode())


def read_tokenizer(directory: Path) -> tuple[Path, FencedTokenizer]:
    """Return a directory's tokenizer file and tokenizer.

    Raises InputError if it has none, CheckpointError if it is damaged.
    """
    if not os.path.isdir(directory):  # noqa: PTH112 - a name of any length and any characters is no error
        raise InputError(f"{directory}: is not a directory; name one with a tokenizer, as kept tokenizer merge writes")
    reader = TokenizerReader(directory)
    if reader.file is None:
        raise InputError(f"{directory}: has none of {', '.join(TOKENIZERS)}; put its tokenizer there")
    return reader.file, reader.tokenizer


def types(part: object) -> Iterator[str]:
    """Yield the type of a component of a tokenizer's file, and those of all nested components."""
    inside = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    if isinstance(part, dict) and isinstance(part.get("type"), str):
        yield part["type"]
    for one in inside:
        yield from types(one)


LETTERS = letters()
BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}


def whole_characters(piece: str) -> str:
    """Return the text of a byte-level piece without incomplete characters."""
    return bytes(BYTES[letter] for letter in piece if letter in BYTES).decode(errors="ignore")


def apply_merges(piece: str, ranks: Mapping[Pair, int]) -> list[str]:
    """Apply merges to a piece's characters, lowest rank first, leftmost first; return the remaining parts."""
    found = [*piece]
    while len(found) > 1:
        pairs = [ranks.get(pair, math.inf) for pair in pairwise(found)]
        best = min(pairs)
        if best == math.inf:
            break
        at = pairs.index(best)
        found[at : at + 2] = [found[at] + found[at + 1]]
    return found
