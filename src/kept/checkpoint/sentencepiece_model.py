"""Read a SentencePiece `tokenizer.model` without protobuf, and check that it can become a fast tokenizer."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from tokenizers import normalizers

from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_PIECE = 4096
"""Characters; a trainer stops at 16 unless told otherwise. Every split of every piece is looked at."""

ALGORITHMS = {1: "UNIGRAM", 2: "BPE", 3: "WORD", 4: "CHAR"}

FIXED_SIZES = {1: 8, 5: 4}
"""Bytes of a field by its wire type, where the type fixes them."""


class PieceKind(IntEnum):
    """The type of a piece, by its number in `sentencepiece_model.proto`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """An entry of the vocabulary; its id is its place."""

    text: str
    score: float
    kind: PieceKind


@dataclass(frozen=True)
class SentencePieceModel:
    """The fields of a `tokenizer.model` that ids and text depend on."""

    pieces: tuple[Piece, ...]
    algorithm: str
    byte_fallback: bool
    space_is_suffix: bool
    charsmap: bytes
    dummy_prefix: bool
    trim: bool
    escape: bool
    denormalizes: bool

    def texts(self, *kinds: PieceKind) -> list[str]:
        """The pieces of these kinds, in order of id."""
        return [piece.text for piece in self.pieces if piece.kind in kinds]

    @property
    def unknown(self) -> int:
        """The id of the unknown piece."""
        return next(at for at, piece in enumerate(self.pieces) if piece.kind is PieceKind.UNKNOWN)


def read_model(file: Path) -> SentencePieceModel:
    """Read a `tokenizer.model`, without protobuf: the generated reader demands one version of its runtime.

    Raises CheckpointError naming the file where it is missing, damaged or not what `tokenizers` can express.
    """
    try:
        model = _model(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; the tokenizer is made from it") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error):
        raise CheckpointError(f"{file}: is no SentencePiece model, or not the whole of one; fetch it again") from None
    if reason := _damage(model):
        raise CheckpointError(f"{file}: is damaged, {reason}; fetch it again")
    if reason := _inexpressible(model):
        raise CheckpointError(f"{file}: {reason}, which is not converted; put a tokenizer.json beside it")
    return model


def _model(raw: bytes) -> SentencePieceModel:
    fields = list(_fields(raw))
    parts: dict[int, Any] = dict(fields)  # of fields given twice, the last
    trainer, normalizer = dict(_fields(parts[2])), dict(_fields(parts[3]))
    return SentencePieceModel(
        pieces=tuple(_piece(dict(_fields(value))) for number, value in fields if number == 1),
        algorithm=ALGORITHMS[trainer.get(3, 1)],
        byte_fallback=bool(trainer.get(35, 0)),
        space_is_suffix=bool(trainer.get(24, 0)),
        charsmap=_bytes(normalizer.get(2, b"")),
        dummy_prefix=bool(normalizer.get(3, 1)),
        trim=bool(normalizer.get(4, 1)),
        escape=bool(normalizer.get(5, 1)),
        denormalizes=bool(dict(_fields(parts.get(5, b""))).get(2, b"")),
    )


def _bytes(value: object) -> bytes:
    """The bytes of a field: a number in its place would ask for that many."""
    if not isinstance(value, bytes):
        raise TypeError(value)
    return value


def _piece(fields: dict[int, Any]) -> Piece:
    (score,) = struct.unpack("<f", fields[2]) if 2 in fields else (0.0,)
    return Piece(fields[1].decode("utf-8"), score, PieceKind(fields.get(3, PieceKind.NORMAL)))


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: number, and an int or the bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, wire_type = divmod(key, 8)
        if wire_type == 0:
            value, at = _varint(raw, at)
            yield number, value
            continue
        size, at = _varint(raw, at) if wire_type == 2 else (FIXED_SIZES[wire_type], at)
        if at + size > len(raw):
            raise ValueError(at)
        yield number, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        value |= (raw[at + place] & 0x7F) << (7 * place)
        if raw[at + place] < 0x80:
            return value, at + place + 1
    raise ValueError(at)


def _damage(model: SentencePieceModel) -> str:
    """Why SentencePiece itself would not load this model, or nothing."""
    texts = [piece.text for piece in model.pieces]
    every_byte = {f"<0x{byte:02X}>" for byte in range(256)}
    reasons = {
        f"a piece has more than {LONGEST_PIECE} characters": any(len(text) > LONGEST_PIECE for text in texts),
        "a piece is empty or there twice": len(set(texts)) < len(texts) or "" in texts,
        "it has not one unknown piece": len(model.texts(PieceKind.UNKNOWN)) != 1,
        "a score is NaN or Inf": not all(math.isfinite(piece.score) for piece in model.pieces),
        "its byte pieces are wrong": set(model.texts(PieceKind.BYTE)) != (every_byte if model.byte_fallback else set()),
        "its character map is broken": not _readable(model.charsmap),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _readable(charsmap: bytes) -> bool:
    try:
        return not charsmap or bool(normalizers.Precompiled(charsmap))
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # an interruption
        return False


def _inexpressible(model: SentencePieceModel) -> str:
    unused = model.texts(PieceKind.UNUSED)
    reasons = {
        f"is a {model.algorithm} model": model.algorithm not in {"BPE", "UNIGRAM"},
        "puts spaces behind words (treat_whitespace_as_suffix)": model.space_is_suffix,
        "rewrites what it decodes (denormalizer_spec)": model.denormalizes,
        f"has unused pieces such as {unused[:1]}": bool(unused),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
