"""Tokens for the comparison of two models: a text, the built-in sample, or random ids without a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import torch

from kept.checkpoint.small_files import regular
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.errors import InputError, reason

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

LONGEST = 256
"""Maximum number of tokens in one sequence."""

SAMPLE = "the built-in sample of English, Python, Korean and Chinese"

LONGEST_TEXT = 64 << 20
"""Maximum length of a text that is read whole, in characters."""

LONGEST_TOKEN = 32
"""Characters of a text to read per requested token; large files are not read whole."""


def difference(one: TokenizerReader, other: TokenizerReader) -> str | None:
    """Return how two tokenizers differ, in one line; None if they agree or one is missing.

    They agree if common ids are the same tokens and the built-in sample gives the same ids. Ids that only one of them
    has are ignored, since padding is often added.
    """
    if one.file is None or other.file is None:
        return None
    found = (one.tokenizer.vocabulary, other.tokenizer.vocabulary)
    ours, theirs = ({at: token for token, at in vocabulary.items()} for vocabulary in found)
    at = min((at for at in ours.keys() & theirs.keys() if ours[at] != theirs[at]), default=None)
    if at is not None:
        return f"id {at} is {ours[at]!r} and {theirs[at]!r}"
    cut = [reader.encode(sample_text(), special=False) for reader in (one, other)]
    return None if cut[0] == cut[1] else "they cut the same text into other ids"


@dataclass(frozen=True)
class Sample:
    """Token ids (B, T), and a description of their origin."""

    tokens_BT: Tensor
    origin: str


def sample_text() -> str:
    """Return the built-in sample: a page of English, code, Korean and Chinese."""
    return files("kept.verification").joinpath("sample.txt").read_text(encoding="utf-8")


def sample(directory: Path, vocabulary: int, context: int, count: int, text: Path | None = None) -> Sample:
    """Return about `count` tokens for a checkpoint, in rows of equal length.

    Raises InputError if the text cannot be read or is too short, or if an id is outside the vocabulary.
    """
    length = min(LONGEST, context, count)
    reader = TokenizerReader(directory)
    if reader.file is None and text is None:
        ids = torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(0)).tolist()
        return Sample(_rows(ids, length, count), "random tokens (the checkpoint has no tokenizer)")
    origin = SAMPLE if text is None else str(text)
    ids = reader.encode(sample_text() if text is None else read_text(text, LONGEST_TOKEN * count))
    if len(ids) < 2:
        raise InputError(f"{origin}: has {len(ids)} tokens; give a longer text")
    if max(ids) >= vocabulary:
        raise InputError(f"{directory}: its tokenizer gives id {max(ids)}, the model has {vocabulary} tokens")
    return Sample(_rows(ids, min(length, len(ids)), count), origin)


def read_whole(path: Path) -> str:
    """Return the text of a file. Raises InputError like `read_text`, and for more than `LONGEST_TEXT` characters."""
    text = read_text(path, LONGEST_TEXT + 1)
    if len(text) > LONGEST_TEXT:
        raise InputError(f"{path}: has more than {LONGEST_TEXT >> 20} MB of text; name a part of it")
    return text


def read_text(path: Path, characters: int) -> str:
    """Return the first characters of a file. Raises InputError if it cannot be read or is not UTF-8."""
    try:
        with open(path, encoding="utf-8", opener=regular) as file:
            return file.read(characters)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None


def _rows(ids: list[int], length: int, count: int) -> Tensor:
    rows = max(1, min(len(ids), count) // length)
    return torch.tensor(ids[: rows * length]).view(rows, length)
