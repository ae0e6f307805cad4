"""A GGUF file as a checkpoint: its model, and the files that would lie beside it, unpacked into a scratch directory."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kept.checkpoint.companions import BUILDING
from kept.checkpoint.disk import no_link
from kept.checkpoint.writer import to_json
from kept.errors import CheckpointError
from kept.fence import FenceError, Worker
from kept.gguf.header import parts, read_header
from kept.gguf.model import model
from kept.gguf.tokenizer import missing, tokenizer_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.gguf.header import Header
    from kept.gguf.model import Model

LOCK = ".lock"

PREFIX = "kept-gguf-"

KEPT = 16
"""Opened files that a process holds on to, whoever uses them."""


class Scratch:
    """A directory with a file's small files: removed when nobody holds it, at exit, or after a kill by the next one.

    Its lock tells others that its process lives.
    """

    def __init__(self, name: str, files: Mapping[str, bytes]) -> None:
        _sweep()
        root, self._lock = _held()
        weakref.finalize(self, _remove, root, os.getpid())
        self.directory = root / name
        self.directory.mkdir()
        for file, content in files.items():
            (self.directory / file).write_bytes(content)


def _held() -> tuple[Path, IO[bytes]]:
    """A new directory and its lock, held: another process may have swept it away just before."""
    while True:
        root = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            lock = open(root / LOCK, "wb", opener=no_link)  # noqa: SIM115 - held as long as the directory
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (root / LOCK).exists():
                return root, lock
            lock.close()


def _remove(root: Path, process: int) -> None:
    """Remove a directory, but not in a child that was forked while it was there."""
    if os.getpid() == process:
        shutil.rmtree(root, ignore_errors=True)


def _sweep() -> None:
    """Remove what killed processes left: directories of ours whose lock nobody holds."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), open(left / LOCK, "rb", opener=no_link) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)


@dataclass(frozen=True)
class Gguf:
    """An opened GGUF file: its model, its files, what its weights are quantised to, and its unpacked small files.

    `remark` says why it has no tokenizer, where that is so.
    """

    model: Model
    files: tuple[Path, ...]
    quantised: str
    remark: str
    scratch: Scratch


def open_gguf(path: Path) -> Gguf:
    """Open a GGUF file, or a part of a split one. Reads its header only, and once for each state of its files.

    Raises CheckpointError in one line that names the file, and what is wrong or not read.
    """
    files = parts(path)
    try:
        stamps = tuple((file.absolute(), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: missing; fetch it again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return _opened(path, stamps)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


@lru_cache(maxsize=KEPT)
def _opened(path: Path, stamps: tuple[tuple[Path, int, int], ...]) -> Gguf:  # noqa: ARG001 - the file's state
    header = read_header(path)
    found, metadata = model(header), header.metadata
    small = {"config.json": to_json(found.config), **_tokenizer(path, metadata), **_card(metadata)}
    reason = missing(metadata)
    remark = f"{path}: {reason}, so that the output has no tokenizer" if reason else ""
    return Gguf(found, header.files, quantised(header), remark, Scratch(path.name, small))


class Building:
    """What the fenced process serves."""

    def files(self, path: str) -> dict[str, str]:
        """The tokenizer's files by name, built from the metadata of a GGUF file."""
        return {name: content.decode() for name, content in tokenizer_files(read_header(Path(path)).metadata).items()}


def _tokenizer(path: Path, metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """The tokenizer's files by name, built in a fenced process: the file says how much work they are."""
    if missing(metadata):
        return {}
    with closing(Worker("kept.gguf.source:Building", limits=BUILDING)) as worker:
        try:
            found = worker.call("files", str(path.absolute())).value
        except FenceError as error:
            raise CheckpointError(f"tokenizer.ggml.tokens: make no tokenizer ({error}); fetch the file again") from None
    return {name: content.encode() for name, content in found.items()}


def quantised(header: Header) -> str:
    """What the tensors are stored as: `Q4_1 (210 tensors), F32 (61 tensors)`, the commonest first."""
    counts = Counter(tensor.kind_name for tensor in header.tensors.values())
    return ", ".join(f"{kind} ({count} tensor{'s' * (count > 1)})" for kind, count in counts.most_common())


def _card(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """The licence that the file states, as the front matter of a model card; nothing where it states none."""
    import yaml  # noqa: PLC0415 - only where there is such a file

    keys = ("license", "license.name", "license.link")
    stated = {key.replace(".", "_"): metadata.get(f"general.{key}") for key in keys}
    front = {key: value for key, value in stated.items() if isinstance(value, str) and value}
    return {"README.md": f"---\n{yaml.safe_dump(front)}---\n".encode()} if front else {}
