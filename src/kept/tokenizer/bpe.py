"""A BPE tokenizer as its file says it (arXiv 1508.07909): pieces, and the pairs that are merged into them, in order."""

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
"""Kinds: pieces are bytes under printable names, or characters of which rare ones are bytes."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Bpe:
    """A BPE tokenizer: its file, the JSON that `tokenizers` writes for it, and the fenced tokenizer."""

    file: Path
    document: Mapping[str, Any]
    tokenizer: FencedTokenizer

    @classmethod
    def read(cls, directory: Path) -> Bpe:
        """The tokenizer of a directory. Raises InputError for one that is no BPE, and as `opened` does."""
        file, tokenizer = opened(directory)
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
        """Pieces and merges."""
        model: Mapping[str, Any] = self.document["model"]
        return model

    @cached_property
    def pieces(self) -> Mapping[str, int]:
        """Ids of all that merging can give."""
        pieces: Mapping[str, int] = self.model["vocab"]
        return pieces

    @cached_property
    def added(self) -> Mapping[str, int]:
        """Ids of what is cut out of a text before it is read: special tokens, and others that were added."""
        return {token["content"]: token["id"] for token in self.document["added_tokens"]}

    @cached_property
    def tokens(self) -> Mapping[str, int]:
        """Ids of all tokens."""
        return {**self.pieces, **self.added}

    @property
    def size(self) -> int:
        """One past the last id."""
        return max(self.tokens.values(), default=-1) + 1

    @cached_property
    def kind(self) -> str:
        """Bytes or characters."""
        parts = [self.document["pre_tokenizer"], self.document["normalizer"]]
        return BYTE_LEVEL if any("ByteLevel" in types(part) for part in parts) else CHARACTERS

    @property
    def merges(self) -> list[Pair]:
        """Pairs in the order of their priority."""
        return [(left, right) for left, right in self.model["merges"]]

    def raw(self) -> dict[str, Any]:
        """The file itself, to be changed and written; of another format than `tokenizer.json`, what it amounts to."""
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


def opened(directory: Path) -> tuple[Path, FencedTokenizer]:
    """A directory's tokenizer and its file. Raises InputError without one, CheckpointError for a damaged one."""
    if not os.path.isdir(directory):  # noqa: PTH112 - a name of any length and any characters is no error
        raise InputError(f"{directory}: is no directory; name one with a tokenizer, as kept tokenizer merge writes")
    reader = TokenizerReader(directory)
    if reader.file is None:
        raise InputError(f"{directory}: has none of {', '.join(TOKENIZERS)}; put its tokenizer there")
    return reader.file, reader.tokenizer


def types(part: object) -> Iterator[str]:
    """The types of a part of a tokenizer's file, and of all within."""
    inside = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    if isinstance(part, dict) and isinstance(part.get("type"), str):
        yield part["type"]
    for one in inside:
        yield from types(one)


LETTERS = letters()
BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}


def whole_characters(piece: str) -> str:
    """The text of a byte-level piece, less characters of which it has only a part."""
    return bytes(BYTES[letter] for letter in piece if letter in BYTES).decode(errors="ignore")


def segments(piece: str, ranks: Mapping[Pair, int]) -> list[str]:
    """What merging makes of a piece's characters: the pair of best rank first, the leftmost of its like."""
    found = [*piece]
    while len(found) > 1:
        pairs = [ranks.get(pair, math.inf) for pair in pairwise(found)]
        best = min(pairs)
        if best == math.inf:
            break
        at = pairs.index(best)
        found[at : at + 2] = [found[at] + found[at + 1]]
    return found
