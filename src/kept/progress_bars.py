"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kept.errors import shown
from kept.formatting import amount, duration, parameters
from kept.terminal import hint, printer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


SHOWN_AFTER = 2.0
"""Seconds after which a stage gets a line if there is no terminal."""


class ProgressBars:
    """Progress on stderr: a bar with rate and ETA on a terminal, a line now and then elsewhere."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """A stage of `total` bytes or layers."""
        if sys.stderr.isatty():
            yield from _bar(name, total, unit)
        else:
            yield from _lines(name, total, unit)


def _bar(name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.progress import (  # noqa: PLC0415 - imported when a bar is shown
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counted = TextColumn("{task.fields[counts]}", markup=False)
    counts = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (counted,)
    columns = (TextColumn("{task.description:10}", markup=False), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=printer(stderr=True), transient=True) as progress:
        task, done = progress.add_task(shown(name), total=total, counts=_counts(0, total, unit)), [0]

        def advance(count: int) -> None:
            done[0] += count
            progress.update(task, completed=done[0], counts=_counts(done[0], total, unit))

        yield advance


def _lines(name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    begun, shown, done, calls = time.monotonic(), [time.monotonic()], [0], [0]

    def advance(count: int) -> None:
        done[0] += count
        calls[0] += 1
        now = time.monotonic()
        if now - shown[0] > 5 * SHOWN_AFTER and done[0] < total:
            shown[0] = now
            # The first item may take as long as ten others, so it says nothing about the speed.
            rest = _rest(total - done[0], done[0] / (now - begun), unit) if calls[0] > 1 else ""
            hint(f"{name}: {_counts(done[0], total, unit)}{rest}")

    yield advance
    took = time.monotonic() - begun
    if took > SHOWN_AFTER:
        hint(f"{name}: {_amount(total, unit)} in {took:.1f} s")


def _counts(done: int, total: int, unit: str) -> str:
    """Return how much is done, as `31 of 120 layers` or `126.6 of 134.5 M parameters`."""
    if unit == "bytes":
        return f"{amount(done, unit)} of {amount(total, unit)}"
    for size, name in ((10**9, "B"), (10**6, "M")):
        if total >= size:
            return f"{done / size:.1f} of {total / size:.1f} {name} {unit}"
    return f"{done} of {amount(total, unit)}"


def _amount(count: float, unit: str) -> str:
    return f"{parameters(int(count))} {unit}" if count >= 10**6 and unit != "bytes" else amount(count, unit)


def _rest(left: int, rate: float, unit: str) -> str:
    """Return speed and remaining time. Below one item per second, the speed is in seconds per item."""
    speed = f"{_amount(rate, unit)} per second" if rate >= 1 else f"{1 / rate:.1f} s per item"
    return f", {speed}, {duration(left / rate)} left"
