"""A teacher cache: the top-k tokens of a teacher at every position of a corpus, read instead of running the teacher.

The rows are packed once (`data/packed_rows.py`), so one cache serves any order, batch size, mixture, number of epochs
and number of ranks. Texts, tokenizer, row length and held-out part must be those of the cache; they are compared first.

Shapes: B rows of T tokens, N = B T of them, K listed tokens.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any
from zlib import crc32

import numpy as np
import torch
from annotated_types import Gt
from pydantic import AllowInfNan, NonNegativeInt, PositiveInt

from kept.checkpoint.json_file import read_json, to_json
from kept.checkpoint.json_model import JsonModel
from kept.checkpoint.small_files import write_whole
from kept.distillation.cache_bias import measure
from kept.distillation.data.directory_cache import cached
from kept.distillation.data.packed_rows import PackedRows
from kept.distillation.loss.top_k import TopK, top_k
from kept.distillation.train.nonfinite import first_fault, nonfinite_message, nonfinite_parts
from kept.errors import CheckpointError, InputError, Overflow
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from kept.distillation.data.mixture import Mixture
    from kept.distillation.data.packing import Batch
    from kept.distillation.data.token_dataset import TokenDataset
    from kept.distillation.train.backbone import Backbone

FORMAT = 2
"""Version of the layout; incremented with every change of it."""

ROWS, ABOUT, PROGRESS = "rows.bin", "about.json", "progress.json"

SYNCED = 16
"""Batches between two updates of the progress file: at most these are computed again after an interruption."""


class CacheFormat(JsonModel):
    """The version of a cache, which every version has."""

    format: int


class CacheShape(JsonModel):
    """The keys of `about.json` that say how the rows are stored."""

    rows: PositiveInt
    sequence_length: PositiveInt
    k: PositiveInt
    vocabulary: PositiveInt
    temperature: Annotated[float, Gt(0), AllowInfNan(False)]
    counts: list[NonNegativeInt]


class CacheProgress(JsonModel):
    """`progress.json`: the description of a cache that is being written, and the number of finished rows."""

    about: dict[str, Any]
    rows: NonNegativeInt


@dataclass(frozen=True, eq=False)
class TeacherCache:
    """The stored distributions of a teacher.

    `about` describes the teacher, the data and the format. `rows` is memory-mapped, (rows, T); an entry has `ids` (K),
    `log_probs` (K), `tail` and their checksum, which is compared whenever an entry is read.
    """

    path: Path
    about: Mapping[str, Any]
    rows: NDArray[np.void]

    @classmethod
    def open(cls, path: Path) -> TeacherCache:
        """Open a directory that `write` wrote. Raises InputError if it is not a teacher cache, or was changed since."""
        if not (path / ABOUT).is_file():
            raise InputError(f"{path}: is not a teacher cache; kept cache-teacher writes one")
        try:
            about = read_json(path / ABOUT)
            version = CacheFormat.checked(about).format
            if version == FORMAT:
                return cls(path, about, _mapped_rows(path / ROWS, CacheShape.checked(about)))
        except (CheckpointError, OSError, ValueError, ArithmeticError) as error:
            raise InputError(f"{path}: was changed after it was written ({error}); remove it") from None
        raise InputError(f"{path}: is of format {version}, this version reads {FORMAT}; remove it")

    def packed_rows(self, mixture: Mixture) -> PackedRows:
        """Return the rows of a mixture. Raises InputError if their numbers differ from those in `about`."""
        counts = self.about["counts"]
        if len(counts) == len(mixture.names):
            rows = PackedRows(mixture, self.about["sequence_length"], counts)
            if len(rows) == self.about["rows"]:
                return rows
        raise InputError(f"{self.path}: was changed after it was written (it counts other rows); remove it")

    @property
    def tail(self) -> float:
        """The mean probability mass outside the top k, on the tokens of the measurement."""
        found: float = next(one["tail"] for one in self.about["bias"]["by_k"] if one["k"] == self.about["k"])
        return found

    def require(self, wanted: Mapping[str, Any]) -> None:
        """Raise InputError if the cache was made with another teacher, other texts, another sequence length, ..."""
        for key, value in wanted.items():
            if self.about.get(key) != value:
                short = isinstance(value, int | float)
                told = f": {self.about.get(key)}, asked for is {value}" if short else ""
                raise InputError(
                    f"{self.path}: was made with another {key.replace('_', ' ')}{told}; "
                    "ask for the same, or make a cache under another name"
                )

    def top_k(self, batch: Batch) -> TopK:
        """Return the teacher's top-k tokens at the N tokens of a batch.

        Raises InputError if the entries are not as they were written, or have NaN.
        """
        assert batch.numbers_B is not None, "packed rows have numbers"
        found_BT = self.rows[batch.numbers_B.cpu().numpy()]
        if (found_BT["sum"] != _sums(found_BT)).any():
            raise InputError(f"{self.path / ROWS}: was changed after it was written; remove {self.path}")
        if np.isnan(found_BT["log_probs"]).any():
            raise InputError(f"{self.path / ROWS}: has NaN: the teacher's logits were not finite; remove {self.path}")
        return self._top(found_BT.reshape(-1), batch.tokens_BT.device)

    def _top(self, found_N: NDArray[np.void], device: torch.device) -> TopK:
        ids_NK = torch.from_numpy(found_N["ids"].astype(np.int64))
        log_probs_NK, tail_N = (torch.from_numpy(found_N[name].copy()) for name in ("log_probs", "tail"))
        return TopK(ids_NK.to(device), log_probs_NK.to(device), tail_N.to(device), self.about["temperature"])


def _mapped_rows(file: Path, about: CacheShape) -> NDArray[np.void]:
    """Return the memory-mapped rows. Raises ValueError, ArithmeticError or OSError if the file is damaged."""
    shape, kept = (about.rows, about.sequence_length), entry(about.k, about.vocabulary)
    if file.stat().st_size != math.prod(shape) * kept.itemsize:
        raise ValueError(f"{file.name} has {file.stat().st_size} bytes")
    return np.memmap(file, dtype=kept, mode="r", shape=shape)


def entry(k: int, vocabulary: int) -> np.dtype[np.void]:
    """Return the dtype of a position: `k` ids (2 bytes, 4 above 65,536 tokens), `k` float32 values, tail, checksum."""
    ids = "<u2" if vocabulary <= 1 << 16 else "<u4"
    return np.dtype([("ids", ids, (k,)), ("log_probs", "<f4", (k,)), ("tail", "<f4"), ("sum", "<u4")])


def _sums(entries: NDArray[np.void]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each entry, over all bytes before its checksum."""
    bytes_N = np.ascontiguousarray(entries).view(np.uint8).reshape(-1, entries.itemsize)[:, : -np.uint32().itemsize]
    return np.fromiter(map(crc32, bytes_N), np.uint32, len(bytes_N)).reshape(entries.shape)


def data_sum(sources: Mapping[str, TokenDataset]) -> str:
    """Return the sha256 of sources: of their names, documents and ids."""
    found = sha256()
    for name, tokens in sources.items():
        found.update(to_json([name, len(tokens), len(tokens.table)]))
        for array in filter(lambda array: array is not None, (tokens.ids, tokens.table, tokens.assistant_mask)):
            found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.hexdigest()


def write(
    path: Path,
    about: Mapping[str, Any],
    rows: PackedRows,
    teacher: Backbone,
    student: Backbone | None = None,
    *,
    batch: int = 8,
    reporter: Reporter | None = None,
) -> TeacherCache:
    """Run a teacher over all rows and store its top-k tokens. After an interruption, the same call continues.

    `about` has `k`, `vocabulary`, `temperature` and the identity of teacher and data; an existing directory must have
    the same. The bias of the top-k KL is measured on held-out rows against `student`, or, without one, against the
    teacher without its last layer. Raises OutputError if the disk refuses, InputError if the directory is another
    cache, and Overflow if the teacher's logits are NaN or Inf.
    """
    watch = reporter or Silent()

    def build(part: Path) -> None:
        with watch.stage("cache", len(rows), "rows") as advance, (part / ROWS).open("ab") as file:
            done = _resume(part, file, about)
            advance(done)
            try:
                for count, begin in enumerate(range(done, len(rows), batch), start=1):
                    stop = min(begin + batch, len(rows))
                    file.write(_entries(teacher, rows.batch(range(begin, stop)), about).tobytes())
                    done = stop
                    advance(stop - begin)
                    if count % SYNCED == 0 or stop == len(rows):
                        _mark(part, file, about, done)
            except KeyboardInterrupt:
                _mark(part, file, about, done)
                raise
        bias = measure(teacher, student, rows, about)
        write_whole(part / ABOUT, to_json({**about, "rows": len(rows), "bias": bias}))
        (part / PROGRESS).unlink(missing_ok=True)

    found = TeacherCache.open(cached(path.parent, path.name, build))
    found.require(about)
    return found


def _resume(part: Path, file: BinaryIO, about: Mapping[str, Any]) -> int:
    """Return the number of rows that an interrupted run has written, and truncate the file after them."""
    row = about["sequence_length"] * entry(about["k"], about["vocabulary"]).itemsize
    done = _done(part, about)
    if file.tell() < done * row:
        done = 0  # the file is shorter than the progress file says
    file.truncate(done * row)
    file.seek(0, os.SEEK_END)
    if not done:
        _mark(part, file, about, 0)
    return done


def _done(part: Path, about: Mapping[str, Any]) -> int:
    """Return the number of rows that the progress file says are written; 0 if it is damaged or of another cache."""
    wanted = json.loads(to_json(about))
    with suppress(CheckpointError, ValueError):
        marked = CacheProgress.checked(read_json(part / PROGRESS))
        return marked.rows if marked.about == wanted else 0
    with suppress(CheckpointError, ValueError):  # killed between the last write and the rename
        made = read_json(part / ABOUT)
        return CacheShape.checked(made).rows if wanted.items() <= made.items() else 0
    return 0


def _mark(part: Path, file: BinaryIO, about: Mapping[str, Any], done: int) -> None:
    file.flush()
    os.fsync(file.fileno())
    write_whole(part / PROGRESS, to_json({"about": about, "rows": done}))


@torch.no_grad()
def _entries(teacher: Backbone, batch: Batch, about: Mapping[str, Any]) -> NDArray[np.void]:
    device = teacher.model.embedding.weight.device
    found = top_k(teacher.output(batch.to(device)).head.first(about["vocabulary"]), about["k"], about["temperature"])
    made = np.empty(len(found.tail_N), dtype=entry(about["k"], about["vocabulary"]))
    for name, value in (("ids", found.ids_NK), ("log_probs", found.log_probs_NK), ("tail", found.tail_N)):
        made[name] = value.cpu().numpy()
    if np.isnan(made["log_probs"]).any():
        where = first_fault(nonfinite_parts(teacher, batch.to(device))) or "the head"
        raise Overflow(nonfinite_message("the teacher", about["dtype"], where))
    made["sum"] = _sums(made)
    return made
