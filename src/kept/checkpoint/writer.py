"""Writing a directory of safetensors: streamed, atomic, resumable, and the same bytes every time.

Everything is written into a hidden sibling of the output and renamed at the end. A finished shard is renamed into
its name there, so that the same command run again skips it. Bytes that did not change are copied by the kernel.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import IO, TYPE_CHECKING

from kept.errors import KeptError, OutputError
from kept.ir.tensors import DTYPE_BYTES, Lazy, Stored, torch_dtype, working_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import torch

    Progress = Callable[[int], None]

BLOCK_ELEMENTS = 8 << 20
"""Elements computed at a time where rows are independent: 32 MB in float32."""

INDEX = "model.safetensors.index.json"

SHARD_BYTES = 5_000_000_000
"""The usual size of a shard."""

JOURNAL = ".kept-journal.json"

KERNEL_CANNOT = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


@dataclass(frozen=True)
class Shard:
    """One safetensors file: its name, and its tensors in the order of their bytes.

    `whole` is a file that holds just these bytes already.
    """

    name: str
    tensors: tuple[tuple[str, Lazy], ...]
    whole: Path | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for _, tensor in self.tensors)

    def header(self) -> bytes:
        """The safetensors header, padded to eight bytes as the format's own writer does."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, tensor in self.tensors:
            start, end = end, end + tensor.nbytes
            entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


def shards(tensors: Mapping[str, Lazy], limit: int = SHARD_BYTES) -> list[Shard]:
    """Tensors in files of at most `limit` bytes (a larger tensor has its own), in the order of the mapping.

    Within a file wider dtypes come first and then names in order, as the format's own writer has them.
    """
    groups: list[list[tuple[str, Lazy]]] = [[]]
    held = 0
    for name, tensor in tensors.items():
        if held and held + tensor.nbytes > limit:
            groups.append([])
            held = 0
        groups[-1].append((name, tensor))
        held += tensor.nbytes
    ordered = [tuple(sorted(group, key=lambda item: (-DTYPE_BYTES[item[1].dtype], item[0]))) for group in groups]
    if len(ordered) == 1:
        return [Shard("model.safetensors", ordered[0])]
    total = len(ordered)
    return [Shard(f"model-{i:05}-of-{total:05}.safetensors", group) for i, group in enumerate(ordered, 1)]


def unchanged(tensors: Mapping[str, Lazy], stored: Mapping[str, Stored]) -> list[Shard] | None:
    """The source's own files, where they hold exactly these tensors under names that stock tools look for."""
    files = sorted({tensor.file for tensor in stored.values()})
    listed = len(files) > 1 and (files[0].parent / INDEX).is_file()
    if dict(tensors) != dict(stored) or not (listed or [file.name for file in files] == ["model.safetensors"]):
        return None
    return [Shard(f.name, tuple((n, t) for n, t in stored.items() if t.file == f), f) for f in files]


def index(parts: list[Shard]) -> bytes | None:
    """The index that names each tensor's file; None where there is one file."""
    if len(parts) == 1:
        return None
    weight_map = {name: part.name for part in parts for name, _ in part.tensors}
    total = sum(part.nbytes for part in parts)
    return to_json({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def to_json(value: object) -> bytes:
    """JSON as checkpoints have it: two spaces, a newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class Staging:
    """The hidden sibling in which an output is built."""

    path: Path
    target: Path

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self._file(name) as file:
            file.write(content)

    def copy(self, name: str, source: Path) -> None:
        """Copy a whole file."""
        with self._file(name) as file, source.open("rb") as opened:
            _copy(opened, file, 0, os.fstat(opened.fileno()).st_size)

    def write_shard(self, shard: Shard, progress: Progress) -> None:
        """Write a shard unless an earlier run finished it; `progress` is called with bytes as they are done."""
        if (self.path / shard.name).exists():
            progress(shard.nbytes)
            return
        if shard.whole is not None:
            self.copy(shard.name, shard.whole)
            progress(shard.nbytes)
            return
        with self._file(shard.name) as file:
            file.write(shard.header())
            for _, tensor in shard.tensors:
                _write_tensor(tensor, file, progress)

    def publish(self) -> None:
        """Give the finished directory its name."""
        if self.target.exists():
            raise OutputError(f"{self.target}: appeared while the conversion ran; the result is in {self.path}")
        (self.path / JOURNAL).unlink(missing_ok=True)
        _sync_directory(self.path)
        self.path.rename(self.target)
        _sync_directory(self.target.parent)

    @contextmanager
    def _file(self, name: str) -> Iterator[IO[bytes]]:
        part = self.path / f"{name}.part"
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.rename(self.path / name)
        except OSError as error:
            raise OutputError(
                f"{self.target}: cannot be written ({error.strerror or error}); free space or permissions?"
            ) from error


@contextmanager
def staging(target: Path, fingerprint: Mapping[str, object]) -> Iterator[Staging]:
    """The directory to build `target` in; of an earlier run with the same `fingerprint`, what that run finished.

    Raises OutputError where the target exists, cannot be made, or another run is at work on it.
    """
    check_target(target)
    path = target.parent / f".{target.name}.kept-partial"
    if path.is_symlink() or (path.is_dir() and any(path.iterdir()) and not (path / JOURNAL).is_file()):
        raise OutputError(f"{path}: is in the way and not from an earlier run; remove it or choose another output")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True)
        journal = (path / JOURNAL).open("a+")
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror})") from None
    with journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"{target}: another run is writing it; wait for it or choose another output") from None
        journal.seek(0)
        wanted = to_json(fingerprint).decode()
        if journal.read() != wanted:
            _empty(path)
            journal.truncate(0)
            journal.write(wanted)
            journal.flush()
        try:
            yield Staging(path, target)
        except KeptError as error:
            # A full disk may be freed and the run continued; of any other end nothing is worth keeping.
            if path.exists() and not (isinstance(error, OutputError) and any(path.glob("*.safetensors"))):
                shutil.rmtree(path)
            raise


def check_target(target: Path) -> None:
    """Raise OutputError where the target exists."""
    if target.exists() or target.is_symlink():
        raise OutputError(f"{target}: exists already; choose another output or remove it")


def digest(file: Path, progress: Progress | None = None) -> str:
    """The sha256 of a file, in hexadecimal."""
    hashed = sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 22):
            hashed.update(block)
            if progress is not None:
                progress(len(block))
    return hashed.hexdigest()


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name != JOURNAL:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _write_tensor(tensor: Lazy, file: IO[bytes], progress: Progress) -> None:
    if isinstance(tensor, Stored):
        with tensor.file.open("rb") as source:
            _copy(source, file, tensor.offset, tensor.nbytes, progress)
        return
    for block in _blocks(tensor):
        data = _raw(block)
        file.write(data)
        progress(data.nbytes)


def _blocks(tensor: Lazy) -> Iterator[torch.Tensor]:
    precision, dtype = working_precision(tensor.dtype), torch_dtype(tensor.dtype)
    rows = tensor.shape[0]
    row = max(1, math.prod(tensor.shape[1:]))
    step = max(1, BLOCK_ELEMENTS // row) if tensor.by_rows else rows
    for start in range(0, rows, step):
        yield tensor.rows(start, min(rows, start + step), precision).to(dtype)


def _raw(block: torch.Tensor) -> memoryview:
    import torch  # noqa: PLC0415 - planning needs no torch

    return block.contiguous().view(-1).view(torch.uint8).numpy().data


def _copy(source: IO[bytes], file: IO[bytes], offset: int, count: int, progress: Progress | None = None) -> None:
    """Copy bytes within the kernel where it can, through this process where it cannot."""
    file.flush()
    done = 0
    while done < count:
        size = min(count - done, 1 << 26)
        try:
            moved = _kernel_copy(source, file, size, offset + done)
        except OSError as error:
            if error.errno not in KERNEL_CANNOT:
                raise
            source.seek(offset + done)
            moved = file.write(source.read(min(size, 1 << 22)))
            file.flush()
        if not moved:
            raise OutputError(f"{source.name}: ended early; did it change during the run?")
        done += moved
        if progress is not None:
            progress(moved)


def _kernel_copy(source: IO[bytes], file: IO[bytes], size: int, offset: int) -> int:
    if not hasattr(os, "copy_file_range"):  # Linux has it
        raise OSError(errno.ENOSYS, "no copy_file_range")
    return os.copy_file_range(source.fileno(), file.fileno(), size, offset_src=offset)


def _sync_directory(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
