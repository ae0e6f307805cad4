"""Open a GGUF file as a checkpoint: its model, and its config and tokenizer files in a temporary directory."""

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

from kept.checkpoint.json_file import to_json
from kept.checkpoint.small_files import no_link
from kept.checkpoint.tokenizer_files import BUILDING
from kept.errors import CheckpointError
from kept.fence import FenceError, Worker
from kept.gguf.header import parts, read_header
from kept.gguf.model import model
from kept.gguf.tokenizer import missing, tokenizer_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.gguf.header import Header
    from kept.gguf.model import GgufModel

LOCK = ".lock"

PREFIX = "kept-gguf-"
"""Prefix of the names of temporary directories."""

CACHED = 16
"""Opened GGUF files that a process caches."""


class Scratch:
    """A temporary directory with the config and tokenizer files of a GGUF file.

    It is removed when this object is garbage-collected and at exit. After a kill, the next process to create one
    removes it. A held lock marks the directories of live processes.
    """

    def __init__(self, name: str, files: Mapping[str, bytes]) -> None:
        _remove_stale()
        root, self._lock = _locked_directory()
        weakref.finalize(self, _remove, root, os.getpid())
        self.directory = root / name
        self.directory.mkdir()
        for file, content in files.items():
            (self.directory / file).write_bytes(content)


def _locked_directory() -> tuple[Path, IO[bytes]]:
    """Create a directory and lock it; try again if another process removed it before the lock was held."""
    while True:
        root = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            lock = open(root / LOCK, "wb", opener=no_link)  # noqa: SIM115 - held as long as the directory exists
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (root / LOCK).exists():
                return root, lock
            lock.close()


def _remove(root: Path, process: int) -> None:
    """Remove a directory, unless this is a forked child of the process that created it."""
    if os.getpid() == process:
        shutil.rmtree(root, ignore_errors=True)


def _remove_stale() -> None:
    """Remove the directories of killed processes: those whose lock is free."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), open(left / LOCK, "rb", opener=no_link) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)


@dataclass(frozen=True)
class Gguf:
    """An opened GGUF file: its model, weight files, tensor types as text, and unpacked config and tokenizer files.

    `remark` is a note on why the tokenizer cannot be rebuilt, or empty.
    """

    model: GgufModel
    files: tuple[Path, ...]
    quantised: str
    remark: str
    scratch: Scratch


def open_gguf(path: Path) -> Gguf:
    """Open a GGUF file, or a split model by one of its files. Reads headers only; cached until a file changes.

    Raises CheckpointError naming the file and what is damaged or not supported.
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


@lru_cache(maxsize=CACHED)
def _opened(path: Path, stamps: tuple[tuple[Path, int, int], ...]) -> Gguf:  # noqa: ARG001 - the key of the cache
    header = read_header(path)
    found, metadata = model(header), header.metadata
    small = {"config.json": to_json(found.config), **_tokenizer(path, metadata), **_card(metadata)}
    reason = missing(metadata)
    remark = f"{path}: {reason}, so the output has no tokenizer" if reason else ""
    return Gguf(found, header.files, quantised(header), remark, Scratch(path.name, small))


class GgufTokenizerBuilder:
    """Builds tokenizer files in the fenced process."""

    def files(self, path: str) -> dict[str, str]:
        """Return the texts of the tokenizer files of a GGUF file, by name."""
        return {name: content.decode() for name, content in tokenizer_files(read_header(Path(path)).metadata).items()}


def _tokenizer(path: Path, metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the tokenizer files by name, built in a fenced process because the file determines the amount of work."""
    if missing(metadata):
        return {}
    with closing(Worker("kept.gguf.source:GgufTokenizerBuilder", limits=BUILDING)) as worker:
        try:
            found = worker.call("files", str(path.absolute())).value
        except FenceError as error:
            raise CheckpointError(
                f"tokenizer.ggml.tokens: cannot be built into a tokenizer ({error}); fetch the file again"
            ) from None
    return {name: content.encode() for name, content in found.items()}


def quantised(header: Header) -> str:
    """Return the types of the tensors as text, most frequent first: `Q4_1 (210 tensors), F32 (61 tensors)`."""
    counts = Counter(tensor.kind_name for tensor in header.tensors.values())
    return ", ".join(f"{kind} ({count} tensor{'s' * (count > 1)})" for kind, count in counts.most_common())


def _card(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Return a model card with the file's licence as front matter; no file if it states none."""
    import yaml  # noqa: PLC0415 - needed for GGUF files only

    keys = ("license", "license.name", "license.link")
    stated = {key.replace(".", "_"): metadata.get(f"general.{key}") for key in keys}
    front = {key: value for key, value in stated.items() if isinstance(value, str) and value}
    return {"README.md": f"---\n{yaml.safe_dump(front)}---\n".encode()} if front else {}
