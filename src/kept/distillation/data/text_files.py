"""Open text files, also compressed ones, as streams of lines of bounded length."""

from __future__ import annotations

import gzip
import io
from contextlib import contextmanager
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any

from kept.checkpoint.small_files import regular
from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST = 64 << 20
"""Maximum length of a line of JSON, a field of a table or a parquet row, in characters."""

EXPANSION = 200
"""Maximum ratio of decompressed to compressed size, so that a small file does not decode to terabytes."""

ALWAYS = 64 << 20
"""Decompressed bytes that any file may have, whatever its ratio."""


def suffixes(path: Path) -> tuple[str, str]:
    """Return the suffix of a file's kind and that of its compression, or an empty one: `.jsonl` and `.gz`."""
    last = path.suffix.lower()
    return (path.with_suffix("").suffix.lower(), last) if last in COMPRESSED else (last, "")


@contextmanager
def opened_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a text file, decompressing it if its name says so. Raises InputError for a file that expands too much."""
    kind = suffixes(path)[1]
    with open(path, "rb", opener=regular) as file:
        raw: Any = COMPRESSED[kind](path, file) if kind else file
        with io.TextIOWrapper(raw, encoding="utf-8", newline=newline) as text:
            yield text


def lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a text file. Raises InputError for a line of more than `LONGEST` characters."""
    with opened_text(path, newline) as file:
        number = 1
        while line := file.readline(LONGEST + 1):
            if len(line) > LONGEST:
                raise InputError(f"{path}: line {number} has more than {LONGEST >> 20} MB; split it")
            yield line
            number += 1


class _Bounded(io.RawIOBase):
    """A decompressed stream that ends with an error if it is too long for its file."""

    def __init__(self, path: Path, stream: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        self.path, self.stream = path, stream
        self.left = max(ALWAYS, EXPANSION * path.stat().st_size)

    def readable(self) -> bool:
        """Return true."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        """Read the next bytes. Raises InputError naming the file if it is damaged or expands too much."""
        try:
            found = self.stream.read(len(buffer))
        except (EOFError, OSError, ValueError) as error:
            raise InputError(f"{self.path}: cannot be decompressed ({error}); compress it again") from None
        self.left -= len(found)
        if self.left < 0:
            raise InputError(f"{self.path}: expands to more than {EXPANSION} times its size; decompress it yourself")
        buffer[: len(found)] = found
        return len(found)


def _gzip(path: Path, file: IO[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Bounded(path, gzip.GzipFile(fileobj=file)))


def _zstd(path: Path, file: IO[bytes]) -> io.BufferedReader:
    if find_spec("pyarrow") is None:
        raise InputError(f"{path}: pyarrow is needed to read it: pip install 'kept[heal]'")
    import pyarrow as pa  # noqa: PLC0415 - needed for such files only

    return io.BufferedReader(_Bounded(path, pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")))


COMPRESSED = {".gz": _gzip, ".zst": _zstd}
"""Decompressors, by suffix."""
