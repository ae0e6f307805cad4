"""The tokenizer of a checkpoint, run in a fenced process with bounds on time and memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kept.checkpoint.file_names import TOKENIZERS
from kept.errors import CheckpointError, InputError
from kept.fence import FenceError, Limits, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kept.fence import Reply

LIMITS = Limits(seconds=8, memory=2 << 30)
"""Limits of the fenced tokenizer process. `seconds` is for one call, and grows with the text (`SLOWEST`)."""

LOADING = 30.0
"""Time limit for loading a tokenizer, in seconds."""

SLOWEST = 20_000
"""Minimum speed of a tokenizer, in characters per second: a tenth of the slowest one's on an old processor."""

TOGETHER = 1 << 20
"""Characters that are sent to the tokenizer process in one call."""

PLACES = 4
"""Number of columns that `encode_with_places` returns: id, first character, one past the last, special."""


class EncodedText(NamedTuple):
    """A tokenised text of N tokens: ids (N,), character offsets (N, 2), and 1 for each added special token (N,)."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    special: NDArray[np.int32]


@dataclass(frozen=True)
class TokenizerReader:
    """The tokenizer of a checkpoint directory, run in a fenced process with bounded time and memory.

    Methods raise InputError if the directory has no tokenizer, and CheckpointError naming its file if the tokenizer is
    damaged or exceeds the limits.
    """

    directory: Path

    @property
    def file(self) -> Path | None:
        """The tokenizer's file, or the file that a tokenizer is built from; None if the directory has neither."""
        return next((file for file in (self.directory / name for name in TOKENIZERS) if file.is_file()), None)

    @cached_property
    def tokenizer(self) -> FencedTokenizer:
        """The directory's tokenizer."""
        if self.file is None:
            raise InputError(f"{self.directory}: has none of {', '.join(TOKENIZERS)} to read text with")
        try:
            stat = self.file.stat()
        except OSError as error:
            raise CheckpointError(f"{self.file}: cannot be read ({error.strerror})") from None
        return _opened(self.file, stat.st_size, stat.st_mtime_ns)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids of a text, with the special tokens that the tokenizer adds if `special`."""
        return [int(at) for ids in self.tokenizer.encode([text], special=special) for at in ids]

    def encoding(self, text: str) -> EncodedText:
        """Return the ids of a text with their character offsets, including the special tokens of the tokenizer."""
        (found,) = self.tokenizer.encode_with_places([text], special=True)
        return found

    def encode_all(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the ids of each text, with special tokens; tokenises on all cores."""
        return [*self.tokenizer.encode(texts, special=True)]

    def encodings(self, texts: Sequence[str]) -> list[EncodedText]:
        """Return the ids of each text with their character offsets, without added special tokens."""
        return [*self.tokenizer.encode_with_places(texts, special=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; the ids themselves where there is no tokenizer."""
        return " ".join(map(str, ids)) if self.file is None else self.tokenizer.decode(ids)

    def continuation(self, old: list[int], new: list[int]) -> str:
        """The text that new ids add after old ones; decoding them alone would lose a space at their start."""
        return self.decode(old + new)[len(self.decode(old)) :]


class FencedTokenizer:
    """A tokenizer in a fenced process. `document` is the text of a `tokenizer.json` to load instead of the file."""

    def __init__(self, file: Path, document: str | None = None) -> None:
        self.file, self._loaded = file, False
        given = (str(file),) if document is None else (str(file), document)
        self._worker = Worker("kept.checkpoint.tokenizer_worker:TokenizerWorker", *given, limits=LIMITS)

    def encode(self, texts: Sequence[str], *, special: bool) -> Iterator[NDArray[np.int32]]:
        """Yield the ids of each text, (N,)."""
        for group in _groups(texts):
            sizes, data = self._call("encode", group, special, characters=_characters(group))
            yield from _split(np.frombuffer(data, dtype="<i4"), sizes)

    def encode_with_places(self, texts: Sequence[str], *, special: bool) -> Iterator[EncodedText]:
        """Yield the ids of each text with their character offsets."""
        for group in _groups(texts):
            sizes, data = self._call("encode_with_places", group, special, characters=_characters(group))
            columns = np.frombuffer(data, dtype="<i4").reshape(PLACES, -1)
            for ids, starts, ends, own in zip(*(_split(column, sizes) for column in columns), strict=True):
                yield EncodedText(ids, np.stack((starts, ends), 1), own)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        text: str = self._call("decode", [int(at) for at in ids], characters=len(ids)).value
        return text

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        """All tokens with their ids."""
        found: dict[str, int] = self._call("vocabulary").value
        return found

    @cached_property
    def document(self) -> dict[str, Any]:
        """The tokenizer's content as a `tokenizer.json`, as the installed `tokenizers` writes it."""
        found: dict[str, Any] = json.loads(self._call("document").data)
        return found

    def words(self, texts: Iterable[str], mark: str | None = None) -> Iterator[list[str]]:
        """Yield the pre-tokenised parts of each text; with `mark`, texts are also split before each `mark`."""
        for group in _groups(texts):
            more = () if mark is None else (mark,)
            method = "words" if mark is None else "words_between"
            yield from self._call(method, group, *more, characters=_characters(group)).value

    def parts(self, tokens: Sequence[str], plain: Sequence[bool]) -> list[list[int]]:
        """Return the ids of each token's text: a plain one by the model alone, others by the whole tokenizer."""
        found: list[list[int]] = self._call("parts", tokens, plain, characters=_characters(tokens)).value
        return found

    def _call(self, method: str, *arguments: object, characters: int = 0) -> Reply:
        try:
            if not self._loaded:
                self._worker.call("ready", seconds=LOADING)
                self._loaded = True
            return self._worker.call(method, *arguments, seconds=LIMITS.seconds + characters / SLOWEST)
        except FenceError as error:
            raise CheckpointError(f"{self.file}: its tokenizer fails ({error}); use another one") from None


@lru_cache(maxsize=4)
def _opened(file: Path, size: int, written: int) -> FencedTokenizer:  # noqa: ARG001 - a changed file is loaded again
    return FencedTokenizer(file)


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in groups of at least `TOGETHER` characters, and the rest."""
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= TOGETHER:
            yield held
            held, size = [], 0
    if held:
        yield held


def _characters(texts: Iterable[str]) -> int:
    return sum(map(len, texts))


def _split(column: NDArray[np.int32], sizes: Sequence[int]) -> Iterator[NDArray[np.int32]]:
    at = 0
    for size in sizes:
        yield column[at : at + size]
        at += size
