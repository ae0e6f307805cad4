"""Check the bytes of a checkpoint: sha256 against its record, and NaN or Inf in its weights."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.file_names import TOKENIZERS
from kept.checkpoint.nonfinite import not_finite, runs
from kept.checkpoint.weights import INDEX
from kept.output.record import RECORD, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from kept.commands.findings import Findings
    from kept.ir.tensors import Lazy
    from kept.reporting import Reporter

    Advance = Callable[[int], None]

WORKERS = 2
"""Threads: one computes the sha256 of a file while the other reads its weights."""


def file_sums(directory: Path, found: Findings) -> dict[Path, str] | None:
    """The sum of each file that `kept.json` names; None where it names none."""
    if not (directory / RECORD).exists():
        found.remarks.append(f"no {RECORD}: there are no sums to compare with")
        return None
    record = found.attempt(read_record, directory)
    if record is None:
        return None
    if "files" not in record.model_fields_set:
        found.damage.append(f"{directory / RECORD}: has no files with their sums; is it a record of a conversion?")
        return None
    return dict(_beside(directory, record.files, found))


def check_unlisted(directory: Path, files: list[Path], sums: Mapping[Path, str], found: Findings) -> None:
    """Report files that change the model's function or text and are not in the record."""
    others = (directory / name for name in ("config.json", INDEX, *TOKENIZERS))
    added = [file for file in (*files, *others) if file.is_file() and file not in sums]
    found.damage.extend(f"{file.name}: is not in {RECORD}; it was added later" for file in added)


def _beside(directory: Path, stated: Mapping[str, str], found: Findings) -> Iterator[tuple[Path, str]]:
    for name, value in stated.items():
        file = directory / name
        if not {"", "..", "."}.isdisjoint(name.split("/")):
            found.damage.append(f"{directory / RECORD}: names {name!r}, which is not a file of this directory")
        elif not os.path.isfile(file):  # noqa: PTH113 - a name of any length and any characters is no error
            found.damage.append(f"{file}: missing; {RECORD} lists it")
        else:
            yield file, value


def check_bytes(
    files: list[Path], tensors: Mapping[str, Lazy], sums: Mapping[Path, str], found: Findings, reporter: Reporter
) -> None:
    """Sum the files and look at every weight, on two cores; findings in the order of the files."""
    total = sum(file.stat().st_size for file in sums) + sum(tensor.nbytes for tensor in tensors.values())
    pool = ThreadPoolExecutor(WORKERS)
    try:
        with reporter.stage("check", total, "bytes") as advance:
            step = _locked(advance)
            for start in [*_starts(pool, files, tensors, sums, step)]:
                found.damage.extend(found.attempt(start.result) or ())
    finally:
        pool.shutdown(cancel_futures=True)


def _starts(
    pool: ThreadPoolExecutor,
    files: list[Path],
    tensors: Mapping[str, Lazy],
    sums: Mapping[Path, str],
    advance: Advance,
) -> Iterator[Future[list[str]]]:
    """The work, a file's sum beside its weights, so that the second reading comes from memory."""
    for file in dict.fromkeys((*files, *sums)):
        if file in sums:
            yield pool.submit(_differs, file, sums[file], advance)
        mine = {name: tensor for name, tensor in tensors.items() if stored_in(tensor) == file}
        if mine:
            yield pool.submit(_no_numbers, mine, advance)


def _differs(file: Path, wanted: str, advance: Advance) -> list[str]:
    return [] if digest(file, advance) == wanted else [f"{file}: changed since the conversion wrote it"]


def _no_numbers(tensors: Mapping[str, Lazy], advance: Advance) -> list[str]:
    counted = ((name, run.file, not_finite(run, advance)) for name, one in tensors.items() for run in runs(one))
    return [f"{file}: {name} holds {count}" for name, file, count in counted if count]


def stored_in(tensor: Lazy) -> Path:
    """Return the file that holds a tensor."""
    return runs(tensor)[0].file


def _locked(advance: Advance) -> Advance:
    """Progress that two threads may report."""
    lock = Lock()

    def step(count: int) -> None:
        with lock:
            advance(count)

    return step
