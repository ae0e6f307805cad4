"""Read the header of a GGUF file: metadata by key, and the type, shape and offset of each tensor. Reads no weight.

The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Every count is
checked against the bytes that are left before anything is allocated for it, so a damaged header costs no more memory
than its own size.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import IO, TYPE_CHECKING, Any

from kept.checkpoint.small_files import regular
from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MAGIC = b"GGUF"

LONGEST_HEADER = 100_000_000
"""Bytes of a header; a vocabulary of 250,000 tokens with its merges takes 15 MB."""

MOST_ENTRIES = 1 << 16
"""Metadata keys of a file, and tensors of a file."""

MOST_ELEMENTS = 1 << 22
"""Strings in all metadata arrays together."""

MOST_AXES = 4
"""Dimensions of a tensor; the format's own limit."""

MOST_PARTS = 10_000
"""Files of a split model."""

SHOWN = 60
"""Characters of a damaged value that an error message repeats."""

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""struct format of each scalar metadata type."""

STRING, ARRAY = 8, 9

PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
"""Pattern of the file names of a split model."""


@dataclass(frozen=True)
class Packed:
    """A stored tensor: ggml's type by number and name, shape (rows first), offset and size in bytes."""

    file: Path
    kind: int
    kind_name: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """The metadata of a model's GGUF files, and their tensors by name."""

    files: tuple[Path, ...]
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Packed]


def is_gguf(path: Path) -> bool:
    """Return whether a path is a GGUF file, by its suffix or its first bytes."""
    try:
        with open(path, "rb", opener=regular) as file:
            return path.suffix.lower() == ".gguf" or file.read(4) == MAGIC
    except (OSError, ValueError):  # ValueError for a path with a NUL byte
        return path.suffix.lower() == ".gguf" and not os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for a long name


def read_header(path: Path) -> Header:
    """Return the header of a GGUF file, or the joint header of a split model.

    Raises CheckpointError naming the file that is missing, damaged, or of an unsupported version or byte order.
    """
    files = parts(path)
    headers = [_read_one(file) for file in files]
    first = headers[0]
    stated = first.metadata.get("split.count", 1)
    if stated not in (0, len(files)):
        raise CheckpointError(f"{path}: says that it is one of {stated} files; its name must say so: -00001-of-00002")
    tensors: dict[str, Packed] = {}
    for header in headers:
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise CheckpointError(f"{name}: stored twice, in {tensors[name].file.name} and {tensor.file.name}")
            tensors[name] = tensor
    total = first.metadata.get("split.tensors.count", len(tensors))
    if len(files) > 1 and total != len(tensors):
        raise CheckpointError(f"{path}: its files have {len(tensors)} tensors, it says {total}; fetch them again")
    return Header(files, first.metadata, tensors)


def parts(path: Path) -> tuple[Path, ...]:
    """Return all files of a model from the path of one. Raises CheckpointError for an impossible part number."""
    match = PART.fullmatch(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= MOST_PARTS:
        raise CheckpointError(f"{path}: its name says part {int(match['number'])} of {count}; fetch the files again")
    return tuple(path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))


def _read_one(file: Path) -> Header:
    """Return the header of one file."""
    try:
        with open(file, "rb", opener=regular) as opened:
            return _Reader(file, opened, os.fstat(opened.fileno()).st_size).header()
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; fetch it again") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None


class _Reader:
    """One pass over a header. `left` counts the bytes, and `elements` the array strings, that may still come."""

    def __init__(self, file: Path, opened: IO[bytes], size: int) -> None:
        self.file, self.opened, self.size = file, opened, size
        self.left, self.elements = min(size, LONGEST_HEADER), MOST_ELEMENTS

    def header(self) -> Header:
        """Read the whole header."""
        tensor_count, key_count = self._start()
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._text("a key")
            if key in metadata:
                raise self._wrong(f"has the key {key[:SHOWN]!r} twice")
            metadata[key] = self._value(self._number("<I"), key)
        entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(tensor_count):
            name = self._text("a tensor's name")
            if name in entries:
                raise self._wrong(f"has the tensor {name[:SHOWN]!r} twice")
            entries[name] = self._entry(name)
        return Header((self.file,), metadata, dict(self._placed(entries, self._data(metadata))))

    def _start(self) -> tuple[int, int]:
        """Check magic and version; return the numbers of tensors and of metadata keys."""
        if self._take(4) != MAGIC:
            raise self._wrong("is not a GGUF file; fetch it again")
        version = self._number("<I")
        if version & 0xFFFF == 0:
            raise self._wrong("is big-endian; gguf-convert-endian of the gguf package makes a little-endian one")
        if version not in {2, 3}:
            raise self._wrong(f"is GGUF version {version}; versions 2 and 3 are read")
        tensor_count, key_count = self._number("<Q"), self._number("<Q")
        for count, what, least in ((tensor_count, "tensors", 24), (key_count, "keys", 13)):
            if count > min(MOST_ENTRIES, self.left // least):
                raise self._wrong(f"claims {count} {what}, more than it can have; fetch it again")
        return tensor_count, key_count

    def _value(self, kind: int, key: str) -> Any:  # noqa: ANN401 - any metadata
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == STRING:
            return self._text(key)
        if kind != ARRAY:
            raise self._wrong(f"has metadata {key[:SHOWN]!r} of type {kind}, which is not a GGUF type")
        return self._array(key)

    def _array(self, key: str) -> list[Any]:
        kind, count = self._number("<I"), self._number("<Q")
        if kind == STRING:
            if count > min(self.elements, self.left // 8):
                raise self._wrong(f"claims {count} strings for {key[:SHOWN]!r}, more than it can have")
            self.elements -= count
            return [self._text(key) for _ in range(count)]
        if kind not in SCALARS:
            raise self._wrong(f"has metadata {key[:SHOWN]!r} as an array of type {kind}; arrays of arrays are not read")
        letter, size = SCALARS[kind][1:], struct.calcsize(SCALARS[kind])
        if count > self.left // size:
            raise self._wrong(f"claims {count} numbers for {key[:SHOWN]!r}, more than it can have")
        return [*struct.unpack(f"<{count}{letter}", self._take(count * size))]

    def _entry(self, name: str) -> tuple[tuple[int, ...], int, int]:
        """Return the shape, type number and relative offset of a tensor."""
        axes = self._number("<I")
        if not 1 <= axes <= MOST_AXES:
            raise self._wrong(f"has a tensor {name[:SHOWN]!r} with {axes} dimensions, 1 to {MOST_AXES} are allowed")
        shape = tuple(self._number("<Q") for _ in range(axes))[::-1]
        return shape, self._number("<I"), self._number("<Q")

    def _data(self, metadata: Mapping[str, Any]) -> int:
        """Return the offset in bytes of the tensor data: the end of the header, rounded up to the alignment."""
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= LONGEST_HEADER or alignment & (alignment - 1):
            raise self._wrong(f"has general.alignment {alignment!r}, it must be a power of two")
        return -(-self.opened.tell() // alignment) * alignment

    def _placed(
        self, entries: Mapping[str, tuple[tuple[int, ...], int, int]], data: int
    ) -> Iterator[tuple[str, Packed]]:
        """Yield the tensors in order of offset. Raises CheckpointError if they overlap or exceed the file."""
        end = data
        for name, (shape, kind, offset) in sorted(entries.items(), key=lambda item: item[1][2]):
            kind_name, nbytes = self._bytes(name, shape, kind)
            begin = data + offset
            if begin < end:
                raise self._wrong(f"{name[:SHOWN]} overlaps another tensor; fetch it again")
            end = begin + nbytes
            if end > self.size:
                raise self._wrong(f"is cut short: {name[:SHOWN]} ends at byte {end} of {self.size}; fetch it again")
            yield name, Packed(self.file, kind, kind_name, shape, begin, nbytes)

    def _bytes(self, name: str, shape: tuple[int, ...], kind: int) -> tuple[str, int]:
        """Return the name of a tensor's type and its size in bytes."""
        if kind not in types():
            raise self._wrong(f"{name[:SHOWN]} has type {kind}, which the installed gguf package cannot dequantise")
        kind_name, block, size = types()[kind]
        if not all(0 < axis < 1 << 40 for axis in shape) or prod(shape) >= 1 << 50:
            raise self._wrong(f"{name[:SHOWN]} has shape {list(shape)}; fetch it again")
        if shape[-1] % block:
            raise self._wrong(f"{name[:SHOWN]} is {kind_name} with rows of {shape[-1]}, not a multiple of {block}")
        return kind_name, prod(shape) // block * size

    def _text(self, what: str) -> str:
        length = self._number("<Q")
        if length > self.left:
            raise self._wrong(f"claims {length} bytes for {what[:SHOWN]!r}; fetch it again")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self._wrong(f"has a string in {what[:SHOWN]!r} that is not UTF-8") from None

    def _number(self, form: str) -> Any:  # noqa: ANN401 - int, float or bool, by format
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, count: int) -> bytes:
        if count > self.left:
            what = "has a header of more than 100 MB" if self.size > LONGEST_HEADER else "is cut short"
            raise self._wrong(f"{what}; fetch it again")
        self.left -= count
        found = self.opened.read(count)
        if len(found) != count:
            raise self._wrong("is cut short; fetch it again")
        return found

    def _wrong(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {what}")


@cache
def types() -> Mapping[int, tuple[str, int, int]]:
    """Return name, elements per block and bytes per block of each type that can be dequantised, by ggml's number."""
    from gguf import quants  # noqa: PLC0415 - takes 0.25 s; needed for GGUF files only
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: PLC0415 - the same

    plain = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.F64}
    known = {*plain, *quants._type_traits}  # noqa: SLF001 - the package has no public list
    return {int(kind): (kind.name, *GGML_QUANT_SIZES[kind]) for kind in known}
