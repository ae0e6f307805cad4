"""Documents as ids, tokenised once: a memory-mapped directory, keyed by what was read and by what it was read with."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from kept.checkpoint.disk import write_whole
from kept.checkpoint.stream import digest
from kept.checkpoint.writer import to_json
from kept.distillation.cache import cached, default_cache
from kept.errors import InputError
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kept.distillation.documents import Document, Named, Source
    from kept.verification.text import Reader

FORMAT = 1
"""Raised when the same text would be stored in another way."""

IDS, TABLE, ABOUT = "ids.bin", "documents.bin", "about.json"

ROW = np.dtype([("end", "<u8"), ("digest", "<u8"), ("place", "<u8"), ("file", "<u4")])
"""A document in the table: one past its last id, the first 64 bits of its sha256, and where it stood."""

BATCH = 1 << 20
"""Characters that are tokenised at a time."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """The ids of many documents, memory-mapped: uint32, one document after another."""

    ids: NDArray[np.uint32]
    table: NDArray[np.void]
    files: tuple[str, ...]
    largest: int

    @classmethod
    def open(cls, directory: Path) -> Tokens:
        """Map what `writing` wrote. Raises InputError where it was changed since."""
        try:
            about = json.loads((directory / ABOUT).read_bytes())
            ids = np.memmap(directory / IDS, dtype="<u4", mode="r", shape=(about["ids"],))
            table = np.memmap(directory / TABLE, dtype=ROW, mode="r", shape=(about["documents"],))
            return cls(ids, table, tuple(about["files"]), about["largest"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{directory}: is no longer what was written ({error}); remove it") from None

    def __len__(self) -> int:
        """How many ids there are."""
        return len(self.ids)

    def lengths(self) -> NDArray[np.int64]:
        """Ids in each document."""
        ends_D = self.table["end"].astype(np.int64)
        return ends_D - np.insert(ends_D[:-1], 0, 0)

    def document(self, number: int, begin: int, stop: int) -> NDArray[np.uint32]:
        """Ids `begin` to `stop` of a document, fewer where it ends before."""
        first = int(self.table["end"][number - 1]) if number else 0
        return self.ids[first + begin : min(first + stop, int(self.table["end"][number]))]

    def name(self, number: int) -> str:
        """Where a document stood: its file, and the line or row that it begins at."""
        row = self.table[number]
        return f"{self.files[row['file']]}:{row['place']}"


def tokenise(source: Source, reader: Reader, cache: Path | None = None, reporter: Reporter | None = None) -> Tokens:
    """The ids of a source, from the cache or read now.

    The cache's key is made of the sha256 of every file and of the tokenizer's. Raises InputError for what cannot be
    read, and where nothing is left to learn from.
    """
    watch, files = reporter or Silent(), source.files()
    total = sum(file.nbytes for file in files)
    with watch.stage("sum", total, "bytes") as advance:
        key = _key(source, files, reader, advance)

    def build(part: Path) -> None:
        with watch.stage("tokenise", total, "bytes") as advance, writing(part, [file.name for file in files]) as writer:
            for documents in _batches(source.documents()):
                for document, ids in zip(documents, reader.encode_all([d.text for d in documents]), strict=True):
                    writer.add(ids, document.digest, document.file, document.place)
                    advance(document.nbytes)
        if not writer.end:
            raise InputError(f"{', '.join(map(str, source.paths))}: holds no text; name files that do")

    return Tokens.open(cached(cache or default_cache(), key, build))


def _key(source: Source, files: Sequence[Named], reader: Reader, advance: Any) -> str:  # noqa: ANN401 - a stage's
    if reader.file is None:
        reader.encode("")  # says what is missing
        raise AssertionError
    said = {
        "format": FORMAT,
        "files": [[file.name, digest(file.path, advance)] for file in files],
        "field": source.field,
        "piece": source.piece,
        "tokenizer": [reader.file.name, digest(reader.file)],
    }
    return sha256(to_json(said)).hexdigest()


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    held: list[Document] = []
    size = 0
    for document in documents:
        held.append(document)
        size += len(document.text)
        if size >= BATCH:
            yield held
            held, size = [], 0
    if held:
        yield held


@dataclass
class Writer:
    """Adds documents to a directory of tokens."""

    ids: IO[bytes]
    table: IO[bytes]
    end: int = field(default=0, init=False)
    documents: int = field(default=0, init=False)
    largest: int = field(default=0, init=False)

    def add(self, ids: Sequence[int], digest: int, file: int, place: int) -> None:
        """Write one document; one without ids is left out."""
        if not ids:
            return
        array = np.asarray(ids, dtype="<u4")
        self.ids.write(array.tobytes())
        self.end += len(array)
        self.documents += 1
        self.largest = max(self.largest, int(array.max()))
        self.table.write(np.array((self.end, digest, place, file), dtype=ROW).tobytes())


@contextmanager
def writing(part: Path, files: Sequence[str]) -> Iterator[Writer]:
    """A writer of a directory that `Tokens.open` reads; what an earlier run left there is written over."""
    with (part / IDS).open("wb") as ids, (part / TABLE).open("wb") as table:
        writer = Writer(ids, table)
        yield writer
        for file in (ids, table):
            file.flush()
            os.fsync(file.fileno())
    about = {"ids": writer.end, "documents": writer.documents, "largest": writer.largest, "files": list(files)}
    write_whole(part / ABOUT, to_json(about))
