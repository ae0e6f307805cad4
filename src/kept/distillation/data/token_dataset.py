"""Tokenised documents in a memory-mapped directory, keyed by the sha256 of the files and of the tokenizer."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.json_file import read_json, to_json
from kept.checkpoint.small_files import write_whole
from kept.distillation.data.directory_cache import cached, default_cache
from kept.errors import CheckpointError, InputError
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kept.checkpoint.tokenizer_reader import TokenizerReader
    from kept.distillation.data.documents import Document, TextSource
    from kept.distillation.data.files import DataFile

FORMAT = 3
"""Version of the layout; incremented with every change of it."""

IDS, TABLE, ASSISTANT_MASK, ABOUT = "ids.bin", "documents.bin", "assistant_mask.bin", "about.json"

ROW = np.dtype([("end", "<u8"), ("digest", "<u8"), ("place", "<u8"), ("file", "<u4")])
"""A document: the index after its last token, the first 64 bits of its sha256, its line or row, and its file."""

BATCH = 1 << 20
"""Characters that are tokenised per call."""


@dataclass(frozen=True, eq=False)
class TokenDataset:
    """Token ids of documents, concatenated: uint32, memory-mapped.

    For conversations `assistant_mask` is 1 for tokens of assistant messages and 0 for others, and `skipped` counts
    the conversations without such a token, which are left out.
    """

    ids: NDArray[np.uint32]
    table: NDArray[np.void]
    files: tuple[str, ...]
    largest: int
    assistant_mask: NDArray[np.uint8] | None = None
    skipped: int = 0

    @classmethod
    def open(cls, directory: Path) -> TokenDataset:
        """Map what `writing` wrote. Raises InputError if it was changed since."""
        try:
            about = read_json(directory / ABOUT)
            ids = np.memmap(directory / IDS, dtype="<u4", mode="r", shape=(about["ids"],))
            table = np.memmap(directory / TABLE, dtype=ROW, mode="r", shape=(about["documents"],))
            skipped = about.get("skipped")
            mask = None if skipped is None else np.memmap(directory / ASSISTANT_MASK, np.uint8, "r", shape=ids.shape)
            return cls(ids, table, tuple(about["files"]), about["largest"], mask, skipped or 0)
        except (CheckpointError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{directory}: was changed after it was written ({error}); remove it") from None

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)

    def lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of each document, (D,)."""
        ends_D = self.table["end"].astype(np.int64)
        return ends_D - np.insert(ends_D[:-1], 0, 0)

    def document(self, number: int, begin: int, stop: int) -> NDArray[np.uint32]:
        """Return the tokens from `begin` to `stop` of a document, fewer if it ends before."""
        return self.ids[self._part(number, begin, stop)]

    def loss_mask(self, number: int, begin: int, stop: int) -> NDArray[np.uint8] | int:
        """Return 1 for each of these tokens that counts for the loss, else 0."""
        return 1 if self.assistant_mask is None else self.assistant_mask[self._part(number, begin, stop)]

    def _part(self, number: int, begin: int, stop: int) -> slice:
        first = int(self.table["end"][number - 1]) if number else 0
        return slice(first + begin, min(first + stop, int(self.table["end"][number])))

    def name(self, number: int) -> str:
        """Return the file of a document and its first line or row, as `file:line`."""
        row = self.table[number]
        return f"{self.files[row['file']]}:{row['place']}"


def tokenise(
    source: TextSource, reader: TokenizerReader, cache: Path | None = None, reporter: Reporter | None = None
) -> TokenDataset:
    """Return the tokens of a source, from the cache if it has them.

    The key in the cache is a hash over the sha256 of every file and of the tokenizer. Raises InputError for a file that
    cannot be read, and if no token is left to train on.
    """
    watch, files, conversations = reporter or Silent(), source.files(), source.has_conversations
    total = sum(file.nbytes for file in files)
    with watch.stage("sum", total, "bytes") as advance:
        key = _key(source, files, reader, advance)

    def build(part: Path) -> None:
        names = [file.name for file in files]
        with (
            watch.stage("tokenise", total, "bytes") as advance,
            writing(part, names, conversations=conversations) as writer,
        ):
            for documents in _batches(source.documents()):
                encoded = _conversations(documents, reader) if conversations else _texts(documents, reader)
                for document, (ids, assistant_mask) in zip(documents, encoded, strict=True):
                    writer.add(ids, document.digest, document.file, document.place, assistant_mask)
                    advance(document.nbytes)
        if not writer.end:
            what = "answer of an assistant" if conversations else "text"
            raise InputError(f"{', '.join(map(str, source.paths))}: holds no {what}; name files that do")

    return TokenDataset.open(cached(cache or default_cache(), key, build))


def _texts(documents: Sequence[Document], reader: TokenizerReader) -> Iterator[tuple[NDArray[np.int32], None]]:
    for ids in reader.encode_all([document.text for document in documents]):
        yield ids, None


def _conversations(
    documents: Sequence[Document], reader: TokenizerReader
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
    """Yield token ids, and 1 for each token that overlaps an answer. The template adds special tokens."""
    for document, found in zip(documents, reader.encodings([one.text for one in documents]), strict=True):
        offsets_N2, assistant_mask_N = found.offsets, np.zeros(len(found.ids), dtype=np.uint8)
        for begin, stop in document.answers:
            assistant_mask_N[(offsets_N2[:, 1] > begin) & (offsets_N2[:, 0] < stop)] = 1
        yield found.ids, assistant_mask_N


def _key(source: TextSource, files: Sequence[DataFile], reader: TokenizerReader, advance: Any) -> str:  # noqa: ANN401 - a stage's
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
    if source.has_conversations and source.conversations is not None:
        said["template"] = source.conversations.template.described()
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
class TokenWriter:
    """Adds documents to a directory of tokens; `assistant_mask` is the file of the mask of conversations."""

    ids: IO[bytes]
    table: IO[bytes]
    assistant_mask: IO[bytes] | None = None
    end: int = field(default=0, init=False)
    documents: int = field(default=0, init=False)
    largest: int = field(default=0, init=False)
    skipped: int = field(default=0, init=False)

    def add(
        self,
        ids: Sequence[int] | NDArray[np.int32],
        digest: int,
        file: int,
        place: int,
        assistant_mask: NDArray[np.uint8] | None = None,
    ) -> None:
        """Write one document, unless it has no ids. Conversations without assistant tokens are skipped and counted."""
        if assistant_mask is not None and not assistant_mask.any():
            self.skipped += 1
            return
        if not len(ids):
            return
        if self.assistant_mask is not None and assistant_mask is not None:
            self.assistant_mask.write(assistant_mask.tobytes())
        array = np.asarray(ids, dtype="<u4")
        self.ids.write(array.tobytes())
        self.end += len(array)
        self.documents += 1
        self.largest = max(self.largest, int(array.max()))
        self.table.write(np.array((self.end, digest, place, file), dtype=ROW).tobytes())


@contextmanager
def writing(part: Path, files: Sequence[str], *, conversations: bool = False) -> Iterator[TokenWriter]:
    """A writer of a directory that `TokenDataset.open` reads; what an earlier run left there is written over."""
    with ExitStack() as opened:
        names = (IDS, TABLE, ASSISTANT_MASK) if conversations else (IDS, TABLE)
        written = [opened.enter_context((part / name).open("wb")) for name in names]
        writer = TokenWriter(*written)
        yield writer
        for file in written:
            file.flush()
            os.fsync(file.fileno())
    about = {"ids": writer.end, "documents": writer.documents, "largest": writer.largest, "files": list(files)}
    write_whole(part / ABOUT, to_json({**about, "skipped": writer.skipped} if conversations else about))
