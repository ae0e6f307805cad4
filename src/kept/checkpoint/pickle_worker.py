"""Find the tensors of a `.bin` file with torch's restricted unpickler. Runs in a fenced process; reads no weight.

torch maps the file into memory, and the zip archive's directory tells where each storage must be in it. The two are
compared, because torch takes a storage's size from the pickle and maps a compressed entry as if it were plain bytes.
"""

from __future__ import annotations

import pickle
import re
import struct
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch

from kept.checkpoint.pickled import ARCHIVE
from kept.errors import CheckpointError, reason

LOCAL = struct.Struct("<4s22xHH")
"""The header of a zip entry: first bytes as in `ARCHIVE`, lengths of its name and extra field."""

LARGEST_PICKLE = 100_000_000
"""Bytes of the pickle itself (`data.pkl`), without storages; a model's has less than a megabyte."""

MOST_TENSORS = 1 << 17

GLOBAL = re.compile(r"GLOBAL (\S+) (?:was not|whose)|unrecognized function (.+)|but got (.+)")
"""torch's messages about a pickle that asks for a global or function outside its allow-list."""

REASON = re.compile(r"WeightsUnpickler error:\s*(.{1,300})")
"""torch's reason for rejecting any other pickle."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


class Unpickler:
    """Finds the tensors of one file per call."""

    def tensors(self, path: str) -> list[list[Any]]:
        """Return name, dtype, shape, strides (in elements) and offset (in bytes) of each tensor of a state dict.

        Raises CheckpointError for a pickle that asks for anything but tensors, and for a file that torch would not
        write.
        """
        try:
            records = _records(path)
            seen: dict[int, int] = {}
            found = _load(path, seen)
        except (BadZipFile, EOFError, IndexError, KeyError, RuntimeError, struct.error, TypeError, ValueError) as error:
            raise CheckpointError(f"is damaged ({reason(error)[:300]}); fetch it again") from None
        except pickle.UnpicklingError as error:
            raise CheckpointError(_asked(error)) from None
        base = _base(records, seen)
        return [_described(name, tensor, base, seen) for name, tensor in _state_dict(found).items()]


def _records(path: str) -> dict[int, int]:
    """Return the size in bytes of each storage in the archive, by its offset in the file."""
    with open(path, "rb") as file, ZipFile(file) as archive:  # noqa: PTH123 - the parent sends a string
        entries = archive.infolist()
        _check(archive, entries)
        return dict(_place(file, one) for one in entries if "/data/" in one.filename and one.file_size)


def _check(archive: ZipFile, entries: list[ZipInfo]) -> None:
    names = {one.filename for one in entries}
    if len(names) < len(entries):
        raise CheckpointError("has two entries with one name; fetch it again")
    odd = next((one for one in entries if one.compress_type != ZIP_STORED or one.flag_bits & 1), None)
    if odd is not None:
        raise CheckpointError(f"has a compressed entry ({odd.filename}), which torch does not write; fetch it again")
    for one in entries:
        _, _, name = one.filename.partition("/")
        if name == "data.pkl" and one.file_size > LARGEST_PICKLE:
            raise CheckpointError(f"describes its tensors in {one.file_size} bytes, more than {LARGEST_PICKLE}")
        if name == "byteorder" and (one.file_size > 16 or archive.read(one) != b"little"):
            raise CheckpointError("was written on a big-endian machine; save it again on a little-endian one")


def _place(file: BinaryIO, entry: ZipInfo) -> tuple[int, int]:
    file.seek(entry.header_offset)
    mark, name, extra = LOCAL.unpack(file.read(LOCAL.size))
    if mark != ARCHIVE:
        raise CheckpointError(
            f"has no entry at the offset that its zip directory gives for {entry.filename}; fetch it again"
        )
    return entry.header_offset + LOCAL.size + name + extra, entry.file_size


def _load(path: str, seen: dict[int, int]) -> Any:  # noqa: ANN401 - whatever was pickled
    """Return the unpickled object. Fills `seen` with the size in bytes of each storage, by its address."""

    def note(storage: Any, _: str) -> Any:  # noqa: ANN401 - torch annotates another type
        if storage.nbytes():
            seen[storage.data_ptr()] = storage.nbytes()
        return storage

    return torch.load(path, map_location=note, weights_only=True, mmap=True)


def _base(records: dict[int, int], seen: dict[int, int]) -> int:
    """Return the address of the mapped file. Raises CheckpointError unless each storage is exactly one zip entry."""
    base = min(seen, default=0) - min(records, default=0)
    if {address - base: size for address, size in seen.items()} != records:
        raise CheckpointError("has tensors that do not match the entries of its zip archive; fetch it again")
    return base


def _state_dict(found: object) -> dict[str, torch.Tensor]:
    """Return `found` as a plain state dict (tensors by name). Raises CheckpointError for anything else."""
    if not isinstance(found, dict):
        raise CheckpointError(f"holds {type(found).__name__}, not a state dict")
    if len(found) > MOST_TENSORS:
        raise CheckpointError(f"holds {len(found)} tensors, more than {MOST_TENSORS}")
    odd = next((name for name, one in found.items() if not isinstance(one, torch.Tensor)), None)
    if odd is not None:
        raise CheckpointError(
            f"holds {type(found[odd]).__name__} under {odd!r} where transformers expects tensors alone: a training "
            "checkpoint? save its state dict by itself"
        )
    return found


def _described(name: object, tensor: torch.Tensor, base: int, seen: dict[int, int]) -> list[Any]:
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not isinstance(name, str) or not dense or tensor.dtype not in DTYPES:
        raise CheckpointError(f"{name!r} is of dtype {tensor.dtype} and layout {tensor.layout}, which is not read")
    address, offset = tensor.untyped_storage().data_ptr(), tensor.storage_offset() * tensor.element_size()
    if tensor.numel() and address not in seen:
        raise CheckpointError(f"{name} has no storage in the file; save its state dict again")
    if tensor.is_conj() or tensor.is_neg():
        raise CheckpointError(f"{name} is a conjugate or negative view; save its state dict again")
    place = address - base + offset if tensor.numel() else 0
    return [name, DTYPES[tensor.dtype], [*tensor.shape], [*tensor.stride()], place]


def _asked(error: Exception) -> str:
    """Return a message that names what the pickle asked for."""
    named, said = GLOBAL.search(str(error)), REASON.search(str(error))
    if named is None:
        # The first line of torch's message advises loading without weights_only, which would run the pickle.
        why = said[1] if said else reason(error)[:300]
        return f"is not a pickle of weights ({why}); nothing in it was run"
    return f"a pickle that asks for {next(filter(None, named.groups()))}, which is not a tensor; nothing in it was run"
