"""Building a directory: atomic, and resumable.

Everything is written into a hidden sibling of the output and renamed at the end. A finished shard is renamed into
its name there, so that the same command run again skips it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING

from kept.checkpoint.byte_stream import copy, digest, write_tensors
from kept.checkpoint.direct_io import Output
from kept.checkpoint.json_file import to_json
from kept.checkpoint.small_files import check_writable, no_link, refused, sync_directory
from kept.errors import KeptError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kept.checkpoint.byte_stream import Progress
    from kept.checkpoint.safetensors_writer import Shard

JOURNAL = ".kept-journal.json"


@dataclass(frozen=True)
class Staging:
    """The hidden sibling in which an output is built; `sums` are those of the shards that an earlier run finished."""

    path: Path
    target: Path
    sums: Mapping[str, str] = field(default_factory=dict)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self._file(name) as file:
            file.write(content)

    def copy(self, name: str, source: Path) -> None:
        """Copy a whole file."""
        with source.open("rb") as opened, self._file(name) as file:
            shutil.copyfileobj(opened, file)

    def write_shard(self, shard: Shard, progress: Progress) -> str:
        """Write a shard unless an earlier run finished it; `progress` is called with bytes as they are done.

        Returns its sha256.
        """
        finished, part = self.path / shard.name, self._part(shard.name)
        if shard.name in self.sums and digest(finished) == self.sums[shard.name]:
            progress(shard.nbytes)
            return self.sums[shard.name]
        with refused(self.target):
            with Output(part) as out:
                _write(shard, out, progress)
                found = out.finish()
            part.rename(finished)
            with _journal(self.path, "a") as journal:
                journal.write(f"{found} {shard.name}\n")
        return found

    def publish(self) -> None:
        """Give the finished directory its name."""
        if self.target.exists():
            raise OutputError(f"{self.target}: appeared while the conversion ran; the result is in {self.path}")
        sync_directory(self.path)
        self.path.rename(self.target)
        # The journal goes last: killed before, the same command continues; killed here, it finds the output finished.
        (self.target / JOURNAL).unlink(missing_ok=True)
        sync_directory(self.target)
        sync_directory(self.target.parent)

    def clear(self, *, keep_finished: bool) -> None:
        """Remove what no later run can use: everything, or everything but the finished shards and their journal."""
        if not self.path.exists():
            return
        if not (keep_finished and any(self.path.glob("*.safetensors"))):
            shutil.rmtree(self.path)
            return
        for part in self.path.rglob("*.part"):
            part.unlink()

    @contextmanager
    def _file(self, name: str) -> Iterator[IO[bytes]]:
        part = self._part(name)
        with refused(self.target):
            part.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb", opener=no_link) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.rename(self.path / name)

    def _part(self, name: str) -> Path:
        return self.path / f"{name}.part"


@contextmanager
def staging(target: Path, fingerprint: Mapping[str, object]) -> Iterator[Staging]:
    """The directory to build `target` in; of an earlier run with the same `fingerprint`, what that run finished.

    Raises OutputError where the target exists, cannot be made, or another run is at work on it.
    """
    check_target(target)
    path = _hidden(target)
    if path.is_symlink() or (path.is_dir() and any(path.iterdir()) and not (path / JOURNAL).is_file()):
        raise OutputError(f"{path}: is in the way and not from an earlier run; remove it or choose another output")
    with refused(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True)
        journal = _journal(path, "a+")
    with journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"{target}: another run is writing it; wait for it or choose another output") from None
        stage = Staging(path, target)
        try:
            check_target(target)  # again: the run that had the lock may just have finished
            stage = replace(stage, sums=_begin(stage, journal, to_json(fingerprint).decode()))
            yield stage
        except BaseException as error:
            # An interrupted run is continued, and so is one whose full disk was freed; what a KeptError of another
            # kind says is no different the next time.
            stage.clear(keep_finished=isinstance(error, OutputError) or not isinstance(error, KeptError))
            raise


def _journal(path: Path, mode: str) -> IO[str]:
    return open(path / JOURNAL, mode, encoding="utf-8", errors="replace", opener=no_link)


def _hidden(target: Path) -> Path:
    """The directory in which an output is built."""
    return target.parent / f".{target.name}.kept-partial"


def check_target(target: Path) -> None:
    """Raise OutputError where the target exists, or cannot be made."""
    try:
        for place in (target, _hidden(target)):
            place.exists()
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror}); choose another output") from None
    if not target.is_symlink() and (target / JOURNAL).is_file():  # finished by a run that was killed at the very end
        (target / JOURNAL).unlink()
    if target.exists() or target.is_symlink():
        raise OutputError(f"{target}: exists already; choose another output, or --force, which renames the old one")
    check_writable(target)


def _begin(stage: Staging, journal: IO[str], fingerprint: str) -> dict[str, str]:
    """Keep the shards that a run with this fingerprint finished; of any other run nothing. Returns their sums.

    The journal is the fingerprint, and behind it a line for each finished shard.
    """
    journal.seek(0)
    found = journal.read()
    lines = found.removeprefix(fingerprint).splitlines() if found.startswith(fingerprint) else []
    sums = {name: value for value, _, name in (line.partition(" ") for line in lines)}
    entries = [*stage.path.iterdir()]
    there = {entry.name for entry in entries if entry.is_file() and not entry.is_symlink()}
    finished = {name: value for name, value in sums.items() if name in there}
    for entry in entries:
        if entry.name != JOURNAL and entry.name not in finished:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    if not lines:
        journal.truncate(0)
        journal.write(fingerprint)
        journal.flush()
    return finished


def _write(shard: Shard, out: Output, progress: Progress) -> None:
    if shard.whole is None:
        out.write(shard.header())
        write_tensors(shard.tensors, out, progress)
        return
    header = shard.whole.stat().st_size - shard.nbytes
    copy(shard.whole, out, 0, header)
    copy(shard.whole, out, header, shard.nbytes, progress)
