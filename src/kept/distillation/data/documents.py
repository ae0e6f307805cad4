"""Stream documents from text, JSON, CSV and parquet files, and from directories of them.

Files are read in the order of their names, one document at a time, and nothing is copied. Memory is bounded: a long
line of a text file may be split into several documents, and a line of JSON or a row of a parquet file has at most
`LONGEST` characters.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kept.distillation.data.files import DataFile, files_of
from kept.distillation.data.parquet import rows
from kept.distillation.data.tables import SEPARATORS, array_rows, begins_array, table_rows
from kept.distillation.data.text_files import COMPRESSED, LONGEST, lines, opened_text, suffixes
from kept.errors import InputError, KeptError, reason
from kept.naming import split_name

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from kept.distillation.data.conversations import ConversationRenderer, RenderedConversation

PIECE = 16_384
"""Characters after which a text file may be cut into another document, at the next blank line."""

MARK = "\ufeff"
"""Byte-order mark with which some editors begin a file; it is not JSON."""

PART = 1 << 20
"""Characters of a line of text that are read at once."""


class Document(NamedTuple):
    """A text and where it stands: the file's number in its source, and a line or row of it, counted from 1.

    `nbytes` is its share of the file, for progress. `digest` is the first 64 bits of the text's sha256. `answers` are
    the ranges of characters of a conversation's assistant messages.
    """

    text: str
    digest: int
    file: int
    place: int
    nbytes: int
    answers: tuple[tuple[int, int], ...] = ()


def named_paths(data: Sequence[str], key: str = "data") -> dict[str, Path]:
    """Return paths by name: `english=corpus/en` gives the name, any other path is named as its file without suffix.

    An existing path is a path even if it has `=` in it. Raises InputError for an empty path and for two paths of the
    same name; `key` is the setting that the message names.
    """
    found: dict[str, Path] = {}
    for given in data:
        name, path = split_name(given)
        if not path.strip():
            raise InputError(f"{key}: {given!r} names no file or directory; write it as corpus/en or english=corpus/en")
        name = name or _name(Path(path))
        if name in found:
            raise InputError(
                f"{key}: {found[name]} and {path} are both named {name!r}; name them: a={found[name]}, b={path}"
            )
        found[name] = Path(path)
    return found


def _name(path: Path) -> str:
    """Return the name of a file or directory without the suffixes of its kind and its compression."""
    plain = path.with_suffix("") if suffixes(path)[1] else path
    return plain.stem or path.resolve().stem


@dataclass(frozen=True)
class TextSource:
    """Files and directories of documents.

    A line or element of a JSON file and a row of a table is a document, in `field`. A text file is cut at the first
    blank line after `piece` characters, or at the first line after twice as many, so that what is appended to it leaves
    the documents before as they are. With `conversations` a line or row is a conversation; text files stay text.
    """

    paths: tuple[Path, ...]
    field: str = "text"
    piece: int = PIECE
    conversations: ConversationRenderer | None = None

    def files(self) -> tuple[DataFile, ...]:
        """Return every file in the order of names. Raises InputError for a missing file or an unknown suffix."""
        found: list[DataFile] = []
        for path in self.paths:
            with _blamed(path):
                found += files_of(path)
        if not found:
            raise InputError(f"{', '.join(map(str, self.paths)) or 'data'}: holds no file; name one of {_known()}")
        for file in found:
            if _reader(file.path) is None:
                raise InputError(f"{file.path}: is none of {_known()}; convert it, or leave it out of the data")
        if self.conversations is not None and len({is_text(file.path) for file in found}) > 1:
            both = ", ".join(map(str, self.paths))
            raise InputError(f"{both}: holds conversations and texts; give each a name: chat=a.jsonl, old=b.txt")
        return tuple(found)

    @property
    def has_conversations(self) -> bool:
        """Whether its documents are conversations."""
        return self.conversations is not None and not any(is_text(file.path) for file in self.files())

    def documents(self) -> Generator[Document]:
        """Yield every document that is not empty.

        Raises InputError, with file and line or row, for content that is not text.
        """
        for number, file in enumerate(self.files()):
            with _blamed(file.path):
                for place, found, nbytes in _places(file, self):
                    text, answers = (found, ()) if isinstance(found, str) else self._rendered(file.path, place, found)
                    if text:
                        yield Document(text, _digest(file.path, place, text), number, place, nbytes, answers)

    def _rendered(self, path: Path, place: int, row: Mapping[str, Any]) -> RenderedConversation:
        assert self.conversations is not None, "or a list is refused"
        try:
            return self.conversations.read(row, self.field)
        except KeptError as error:
            raise InputError(f"{path}: line {place}: {error}") from None

    def is_document(self, value: object) -> bool:
        """Return whether the value of a line or row is a document: text, or a list of messages."""
        return isinstance(value, str if self.conversations is None else list)

    def content(self, row: Mapping[str, Any]) -> str | Mapping[str, Any]:
        """Return the part of a line or row that makes a document: the text, or for a conversation the whole row."""
        return row[self.field] if self.conversations is None else row


Place = tuple[int, "str | Mapping[str, Any]", int]
"""The line or row where a document begins, counted from 1; its text, or its row with messages; its size in bytes."""


def _text(path: Path, source: TextSource) -> Iterator[Place]:
    """Yield pieces of a text file, made of whole lines."""
    held: list[str] = []
    size, begun = 0, 1
    number = 1
    with opened_text(path) as file:
        while line := file.readline(PART):
            held.append(line)
            size += len(line)
            number += line.endswith("\n")
            if size >= source.piece and (not line.strip() or size >= 2 * source.piece):
                yield begun, *_joined(held)
                held, size, begun = [], 0, number
    if held:
        yield begun, *_joined(held)


def _joined(lines: list[str]) -> tuple[str, int]:
    text = "".join(lines)
    return text, len(text.encode())


def _json(path: Path, source: TextSource) -> Iterator[Place]:
    """Yield the field of each line. Lines may differ in their other fields; blank lines are skipped."""
    for number, line in enumerate(lines(path), 1):
        if not line.removeprefix(MARK).strip():
            continue
        try:
            found = json.loads(line.removeprefix(MARK))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is not JSON ({error}); correct the line or leave it out") from None
        if not isinstance(found, dict) or not source.is_document(found.get(source.field)):
            raise InputError(f"{path}: line {number} {_lacks(found, source)}")
        yield number, source.content(found), len(line.encode())


def _lacks(found: object, source: TextSource) -> str:
    field, what = source.field, "text" if source.conversations is None else "list of messages"
    if not isinstance(found, dict):
        value = '"..."' if source.conversations is None else "[...]"
        return "is not a JSON object; each line must be one, as {" + f'"{field}": {value}' + "}"
    if field in found:
        short = json.dumps(found[field])[:40]
        return f"has no {what} in {field!r} but {short}; correct the line or name another with --text-field"
    return f"has no field {field!r}, only {', '.join(found) or 'none'}; --text-field names the one with the {what}"


def _array(path: Path, source: TextSource) -> Iterator[Place]:
    """Yield the field of each element of a JSON array."""
    for number, row, nbytes in array_rows(path):
        if not source.is_document(row.get(source.field)):
            raise InputError(f"{path}: element {number} {_lacks(row, source)}")
        yield number, source.content(row), nbytes


def _lines_or_array(path: Path, source: TextSource) -> Iterator[Place]:
    """Yield the field of each line of a JSON file, or of each element if the file is an array."""
    yield from (_array if begins_array(path) else _json)(path, source)


def _table(path: Path, source: TextSource) -> Iterator[Place]:
    """Yield the column of each row of a table with a header."""
    for number, row, nbytes in table_rows(path, SEPARATORS[suffixes(path)[0]]):
        if not source.is_document(row.get(source.field)):
            raise InputError(f"{path}: the row that ends in line {number} {_lacks(row, source)}")
        yield number, source.content(row), nbytes


def _parquet(path: Path, source: TextSource) -> Iterator[Place]:
    """Yield the field, or the whole conversation, of each row of a parquet file."""
    values = rows(path, partial(_columns, path, source), LONGEST)
    share = path.stat().st_size // max(1, next(values))
    for number, row in enumerate(values, 1):
        if not source.is_document(row[source.field]):
            what = "text" if source.conversations is None else "list of messages"
            raise InputError(
                f"{path}: row {number} has no {what} in {source.field!r}; "
                "drop it or name another column with --text-field"
            )
        yield number, source.content(row), share


def _columns(path: Path, source: TextSource, names: Sequence[str]) -> list[str]:
    """Return the columns to read. Raises InputError if the source's field is not among `names`."""
    if source.field not in names:
        raise InputError(
            f"{path}: has no column {source.field!r}, only {', '.join(names)}; --text-field names the one with the text"
        )
    return [source.field] if source.conversations is None else source.conversations.columns(source.field, names)


KINDS: dict[str, Callable[[Path, TextSource], Iterator[Place]]] = {
    ".txt": _text,
    ".text": _text,
    ".md": _text,
    ".py": _text,
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _lines_or_array,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
}
"""Readers of files, by suffix. All but parquet files may be compressed, with the suffix of `COMPRESSED` at the end."""


def _reader(path: Path) -> Callable[[Path, TextSource], Iterator[Place]] | None:
    """Return the reader of a file; None for an unknown suffix."""
    kind, compression = suffixes(path)
    return None if kind == ".parquet" and compression else KINDS.get(kind)


def _places(file: DataFile, source: TextSource) -> Iterator[Place]:
    """Yield what a file's reader yields, with shares of at most the file's size in all: it may be compressed."""
    reader, left = _reader(file.path), file.nbytes
    assert reader is not None, "files() refuses it"
    for place, found, nbytes in reader(file.path, source):
        share = min(left, nbytes)
        left -= share
        yield place, found, share


def is_text(path: Path) -> bool:
    """Return whether a file is plain text, without fields."""
    return _reader(path) is _text


def _known() -> str:
    return f"{', '.join(KINDS)}, also with {' or '.join(COMPRESSED)}"


def _digest(path: Path, place: int, text: str) -> int:
    try:
        return int.from_bytes(sha256(text.encode()).digest()[:8], "little")
    except UnicodeEncodeError:
        raise InputError(f"{path}: line {place} has half of a surrogate pair, which is not text; correct it") from None


@contextmanager
def _blamed(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into an InputError that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason}); convert it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None
