"""Live display of a healing run: a table on a terminal, otherwise a line for each measurement."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from kept.cli.display import console, group_losses
from kept.cli.display.branch_errors import BranchErrors, refitted
from kept.formatting import amount, duration, parameters, singular

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Group
    from rich.live import Live
    from rich.table import Table

SHOWN = 12
"""Number of measurements in the table: the last ones."""

PRINT_INTERVAL = 30.0
"""Minimum seconds between lines for steps if there is no terminal."""

REFRESHED = 4
"""Maximum redraws of the table per second."""

COLUMNS = ("step", "loss", "held-out", "top-1 agreement", "tokens/s", "time left")
"""Columns of the live table. Evaluation texts have their columns after the held-out losses."""


class HealProgress:
    """Shows the metrics of a run. It is called with each line of metrics."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._rows: deque[tuple[str, ...]] = deque(maxlen=SHOWN)
        self._about: Mapping[str, Any] = {}
        self._last: Mapping[str, Any] = {}
        self._first: tuple[int, float] | None = None
        self._seconds: list[float] = []
        self._printed_at = 0.0
        self._branches = BranchErrors()
        self._batch = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Show a line of metrics."""
        match line["kind"]:
            case "run":
                self._begin(line)
            case "step":
                self._stepped(line)
            case "held-out":
                self._measured(line)
            case "measuring":
                self._measuring(line)
            case "stopped":
                self._branches.stopped.add(line["group"])
                console.hint(f"{line['group']} is stopped: {line['why']}")
            case "refit":
                console.hint(refitted(line))
            case "end":
                self._last = {}
        if self._live is not None:
            self._live.update(self._display())
        if line["kind"] == "end":
            self._stop()

    def _begin(self, line: Mapping[str, Any]) -> None:
        for words in about(line):
            console.hint(words)
        self._about, self._printed_at = line, time.monotonic()
        if sys.stderr.isatty():
            from rich.live import Live

            self._live = Live(console=console.printer(stderr=True), refresh_per_second=REFRESHED)
            self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _stepped(self, line: Mapping[str, Any]) -> None:
        """Add a step to the speed. The first step is slow (compilation) and counts only until the second ends."""
        before, self._last, now = self._last, line, time.monotonic()
        if self._first is None:
            self._first = line["step"], now
        elif before.get("step") == self._first[0]:
            self._seconds.clear()
        self._seconds.append(1 / line["tokens_per_second"])
        if self._live is None and now - self._printed_at > PRINT_INTERVAL:
            self._print(self._row({}))

    def _measured(self, line: Mapping[str, Any]) -> None:
        row = self._row(line)
        self._rows.append(row)
        self._branches.measured(line["groups"])
        if self._live is None:
            self._print(row)

    def _measuring(self, line: Mapping[str, Any]) -> None:
        """Show how far a measurement is: before the first step it is all that there is to see."""
        done, count = line["batch"], line["batches"]
        self._batch = f"measuring {done}/{count}" if done < count else ""
        if self._live is None and self._batch and time.monotonic() - self._printed_at > PRINT_INTERVAL:
            self._printed_at = time.monotonic()
            console.hint(f"step {line['step']}: measuring the held-out losses, batch {done} of {count}")

    def _print(self, row: tuple[str, ...]) -> None:
        self._printed_at = time.monotonic()
        named = zip(self._columns, row, strict=True)
        console.hint(", ".join(f"{name} {value}" for name, value in named if value))

    def _row(self, measured: Mapping[str, Any]) -> tuple[str, ...]:
        last = self._last
        groups = measured.get("groups", {})
        stopped = (str(len(self._branches.stopped)),) if self._several else ()
        return (
            f"{last.get('step', measured.get('step', 0))}/{self._about['steps']}",
            group_losses.loss(last.get("groups", {})),
            group_losses.held_out(groups),
            *(group_losses.eval_data(groups, name) for name in self._about.get("eval_data", ())),
            group_losses.agreement(groups),
            *stopped,
            f"{len(self._seconds) / sum(self._seconds):.0f}" if last else "",
            self._left(),
        )

    @property
    def _columns(self) -> tuple[str, ...]:
        stopped = ("stopped",) if self._several else ()
        return (*COLUMNS[:3], *self._about.get("eval_data", ()), COLUMNS[3], *stopped, *COLUMNS[4:])

    @property
    def _several(self) -> bool:
        """Whether the run has several parameter groups, each of which may stop."""
        return len(self._about["groups"]) > 1

    def _left(self) -> str:
        """Return the remaining time, from the average time of the steps after the first, evaluations included."""
        if not self._last or self._first is None or self._last["step"] <= self._first[0]:
            return ""
        (first, begun), step = self._first, self._last["step"]
        return duration((self._about["steps"] - step) * (time.monotonic() - begun) / (step - first))

    def _display(self) -> Group:
        """Return the table of measurements and, with several groups, the error of each."""
        from rich.console import Group

        return Group(self._table(), *([self._branches.table()] if self._several else []))

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(*self._columns, box=None, header_style="bold")
        for row in self._rows:
            table.add_row(*row)
        if self._last:
            table.add_row(*self._row({}), style="dim")
        if self._batch:
            table.add_row(self._batch, style="dim")
        return table


def _counted(line: Mapping[str, Any]) -> str:
    """Return the number of steps and their tokens, and the requested tokens if the two differ."""
    steps, each, wanted = line["steps"], line["tokens_a_step"], line["tokens_asked"]
    words = f"{steps:,} step{'s' * (steps != 1)} of {each:,} tokens"
    return words if steps * each == wanted else f"{words}: {steps * each:,} of {wanted:,} requested tokens"


def _cached(cache: Mapping[str, Any]) -> str:
    left_out = f"{100 * cache['tail']:.2g} % of the probability left out"
    return f"teacher: {cache['path']}, top {cache['k']} tokens per position, {left_out}"


def _several(count: int, words: str) -> str:
    return f"{parameters(count)} {singular(count, words)}"


def _conversations(found: Mapping[str, Any]) -> str:
    """Return a line on conversations: the trained answer tokens, and conversations without answers."""
    if "cut" not in found:
        return ""
    said = {"without_answer": "without an answer are skipped", "cut": "are longer than a row and are truncated"}
    odd = [f"{parameters(found[key])} {words}" for key, words in said.items() if found[key]]
    return "; ".join((f"; {parameters(found['answer_tokens'])} tokens are answers", *odd))


def about(line: Mapping[str, Any]) -> list[str]:
    """Return the lines before a run: trainable parameters, memory, number of steps, and data."""
    part = f"{parameters(line['parameters'])} of {parameters(line['of'])} parameters"
    size = amount(line["optimiser_bytes"], "bytes")
    lines = [f"{part} are trainable ({line['train']}); with gradients and AdamW states they take {size}"]
    for name, found in line["sources"].items():
        kept, held = (
            f"{_several(found[f'{which}documents'], 'documents')}, {_several(found[f'{which}tokens'], 'tokens')}"
            for which in ("", "held_out_")
        )
        lines.append(f"{name}: {kept}; held out {held}{_conversations(found)}")
    if line["teacher_cache"] is not None:
        lines.append(_cached(line["teacher_cache"]))
    lines.append(f"{_counted(line)}, on {line['ranks']} process{'es' * (line['ranks'] != 1)}")
    if line["step"]:
        lines.append(f"resumes after step {line['step']}")
    if not line["tensorboard"]:
        lines.append("no TensorBoard files are written; to get them: pip install 'kept[heal]'")
    return lines
