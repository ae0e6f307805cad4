"""The tokens on which a pair is compared: the user's text, a built-in sample, or random ids without a tokenizer."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING

import torch

from kept.checkpoint.companions import TIKTOKEN, TOKENIZERS
from kept.checkpoint.sentencepiece import fast_tokenizer
from kept.checkpoint.tiktoken import tiktoken_tokenizer
from kept.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tokenizers import Encoding, Tokenizer
    from torch import Tensor

LONGEST = 256
"""Tokens in one sequence, where the context allows it."""

SAMPLE = "the built-in sample of English, Python, Korean and Chinese"

LONGEST_TEXT = 64 << 20
"""Characters of a text that is read whole."""

LONGEST_TOKEN = 32
"""Characters of a text that are read for each token that is wanted: a corpus of any size is quick."""


@contextmanager
def damaged(file: Path, what: str) -> Iterator[None]:
    """Blame the file for whatever `tokenizers` raises: Exception itself, and where it panics, BaseException."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # an interruption
        raise CheckpointError(f"{file}: {what} ({error}); fetch it again") from None


@dataclass(frozen=True)
class Reader:
    """Text to ids and back for a checkpoint directory."""

    directory: Path

    @property
    def file(self) -> Path | None:
        """What its tokenizer is in, or is built from."""
        return next((file for file in (self.directory / name for name in TOKENIZERS) if file.is_file()), None)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The directory's `tokenizer.json`, or one built from its `tokenizer.model` or `qwen.tiktoken`."""
        from tokenizers import Tokenizer  # noqa: PLC0415 - only where there is text

        if self.file is None:
            return None
        if self.file.name == "tokenizer.model":
            return fast_tokenizer(self.file)
        if self.file.name == TIKTOKEN:
            return tiktoken_tokenizer(self.file)
        with damaged(self.file, "is no tokenizer"):
            made = Tokenizer.from_buffer(self.file.read_bytes())  # a path may be no text
        # Stored with some checkpoints, for batches: a text is read as it is.
        made.no_truncation()
        made.no_padding()
        return made

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Raises InputError where there is no tokenizer."""
        return self.encoding(text).ids

    def encoding(self, text: str, *, special: bool = True) -> Encoding:
        """Ids of a text with the place of each in it; `special` puts the tokenizer's own tokens around it.

        Raises InputError where there is no tokenizer.
        """
        with self._reading() as tokenizer:
            return tokenizer.encode(text, add_special_tokens=special)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each of several texts, on all cores. Raises InputError where there is no tokenizer."""
        with self._reading() as tokenizer:
            return [found.ids for found in tokenizer.encode_batch_fast(texts)]

    def encodings(self, texts: Sequence[str]) -> list[Encoding]:
        """Ids of several texts, with the place of each, and no tokens that the tokenizer would put around them."""
        with self._reading() as tokenizer:
            found: list[Encoding] = tokenizer.encode_batch(texts, add_special_tokens=False)
        return found

    def decode(self, ids: list[int]) -> str:
        """The text of ids; the ids themselves where there is no tokenizer."""
        if self.file is None or self.tokenizer is None:
            return " ".join(map(str, ids))
        with damaged(self.file, "fails to write a text"):
            text: str = self.tokenizer.decode(ids)
        return text

    def continuation(self, old: list[int], new: list[int]) -> str:
        """The text that new ids add after old ones; decoding them alone would lose a space at their start."""
        return self.decode(old + new)[len(self.decode(old)) :]

    @contextmanager
    def _reading(self) -> Iterator[Tokenizer]:
        if self.file is None or self.tokenizer is None:
            raise InputError(f"{self.directory}: has none of {', '.join(TOKENIZERS)} to read text with")
        with damaged(self.file, "fails to read a text"):
            yield self.tokenizer


def difference(one: Reader, other: Reader) -> str | None:
    """What two tokenizers read differently, whatever files they are in; None where nothing, or where one is missing.

    Ids that only one of them has are no difference: padding is often added. The built-in sample must give the same ids.
    """
    if one.tokenizer is None or other.tokenizer is None:
        return None
    found = (one.tokenizer.get_vocab(), other.tokenizer.get_vocab())
    ours, theirs = ({at: token for token, at in vocabulary.items()} for vocabulary in found)
    at = min((at for at in ours.keys() & theirs.keys() if ours[at] != theirs[at]), default=None)
    if at is not None:
        return f"id {at} is {ours[at]!r} and {theirs[at]!r}"
    cut = [reader.encoding(sample_text(), special=False).ids for reader in (one, other)]
    return None if cut[0] == cut[1] else "they cut the same text into other ids"


@dataclass(frozen=True)
class Sample:
    """Token ids (B, T), and where they came from in words."""

    tokens_BT: Tensor
    origin: str


def sample_text() -> str:
    """The built-in sample: a page of English, code, Korean and Chinese."""
    return files("kept.verification").joinpath("sample.txt").read_text(encoding="utf-8")


def sample(directory: Path, vocabulary: int, context: int, count: int, text: Path | None = None) -> Sample:
    """About `count` tokens for a checkpoint, in rows of equal length.

    Raises InputError where the text cannot be read, is too short, or does not fit the model's vocabulary.
    """
    length = min(LONGEST, context, count)
    reader = Reader(directory)
    if reader.tokenizer is None and text is None:
        ids = torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(0)).tolist()
        return Sample(_rows(ids, length, count), "random tokens (the checkpoint has no tokenizer)")
    origin = SAMPLE if text is None else str(text)
    ids = reader.encode(sample_text() if text is None else read_text(text, LONGEST_TOKEN * count))
    if len(ids) < 2:
        raise InputError(f"{origin}: gives {len(ids)} tokens; a longer text is needed")
    if max(ids) >= vocabulary:
        raise InputError(f"{directory}: its tokenizer gives id {max(ids)}, the model has {vocabulary} tokens")
    return Sample(_rows(ids, min(length, len(ids)), count), origin)


def read_whole(path: Path) -> str:
    """A file's text. Raises InputError as `read_text`, and for one that is too long to be held."""
    text = read_text(path, LONGEST_TEXT + 1)
    if len(text) > LONGEST_TEXT:
        raise InputError(f"{path}: has more than {LONGEST_TEXT >> 20} MB of text; name a part of it")
    return text


def read_text(path: Path, characters: int) -> str:
    """A file's first characters. Raises InputError where it cannot be read or is no UTF-8."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(characters)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except (OSError, ValueError) as error:  # the latter of a path with a NUL
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _rows(ids: list[int], length: int, count: int) -> Tensor:
    rows = max(1, min(len(ids), count) // length)
    return torch.tensor(ids[: rows * length]).view(rows, length)
