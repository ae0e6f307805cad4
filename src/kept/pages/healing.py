"""The sections of the report about healing: held-out figures before and after, and their curves."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING

from kept.checkpoint.json_model import JsonModel, Number
from kept.errors import InputError
from kept.output import heal_summary
from kept.pages.blocks import DRAWN, Block, Curve, Fact, LineChart, Paragraph, Point, Section, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from kept.output.healed_record import HealedRecord, MeasurementRecord
    from kept.output.record import Record

LONGEST = 1 << 20
"""Longest line of metrics, in characters; a longer line is cut, and its parts are not valid JSON."""


class StepMetrics(JsonModel):
    """A line of `metrics.jsonl` about an optimizer step: tokens so far, and the loss of its batch."""

    step: int
    tokens: int
    loss: Number


def in_words(record: Record) -> list[str]:
    """Return sentences on what healing changed, and on why nothing was measured against a teacher."""
    healed = record.healed
    if healed is None:
        return []
    return [heal_summary.result_in_words(healed), *([] if healed.has_teacher else [heal_summary.unmeasured(healed)])]


def facts(record: Record) -> list[Fact]:
    """Return the most important figures, before and after."""
    if record.healed is None:
        return []
    first, best = record.healed.held_out[0], heal_summary.best_measurement(record.healed)
    key = heal_summary.main_loss(first.computed_losses)
    found = [Fact(f"{getattr(first, key):.3g} → {getattr(best, key):.3g}", f"held-out {heal_summary.LOSSES[key]}")]
    if not math.isnan(first.agreement):
        shares = (f"{100 * one.agreement:.1f}" for one in (first, best))
        found.append(Fact(f"{' → '.join(shares)} %", "top-1 agreement, held out"))
    return [*found, Fact(f"{best.tokens:,}", "tokens")]


def healing(record: Record, steps: Sequence[StepMetrics]) -> Section | None:
    """Return the section on healing; `steps` are those of the run, or empty if they are unknown."""
    if record.healed is None:
        return None
    head, rows = heal_summary.held_out(record.healed)
    blocks: list[Block] = [Paragraph(heal_summary.settings_in_words(record.healed)), Table("Held out", head, rows)]
    return Section("healing", "Healing", (*blocks, *_curves(record.healed, steps)))


def _curves(healed: HealedRecord, steps: Sequence[StepMetrics]) -> Iterator[LineChart]:
    measured = healed.held_out
    key = heal_summary.main_loss(measured[0].computed_losses)
    losses = [(one.tokens, one.computed_losses.get(key, math.nan)) for one in measured]
    yield _curve(losses, f"held-out {heal_summary.LOSSES[key]}", "Held out, against trained tokens.")
    yield from _by_text(measured)
    if not math.isnan(measured[0].agreement):
        shares = [(one.tokens, 100 * one.agreement) for one in measured]
        yield _curve(
            shares,
            "top-1 agreement, %",
            "Fraction of tokens for which student and teacher have the same most likely token.",
        )
    if steps:
        trained = [(one.tokens, one.loss) for one in steps]
        yield _curve(trained, "loss of each batch", "The loss in training, step by step.")


def _curve(measured: Iterable[tuple[int, float]], y: str, caption: str) -> LineChart:
    return _chart([Curve(y, _points(measured), 0)], y, caption)


def _by_text(measured: Sequence[MeasurementRecord]) -> Iterator[LineChart]:
    """Yield a chart of the losses by text, if there are evaluation texts or several sources."""
    named = [(key, name) for key in ("eval_data", "sources") for name in getattr(measured[0], key)]
    if [key for key, _ in named] in ([], ["sources"]):
        return
    curves = []
    for style, (key, name) in enumerate(named[:DRAWN]):
        losses = ((one.tokens, getattr(one, key).get(name, {}).get("ce", math.nan)) for one in measured)
        curves.append(Curve(f"{name} (evaluation data)" if key == "eval_data" else name, _points(losses), style))
    left = f" The first {len(curves)} of {len(named)}." if len(named) > len(curves) else ""
    yield _chart(curves, "cross-entropy, nats per token", f"Each text by itself, against trained tokens.{left}")


def _points(measured: Iterable[tuple[int, float]]) -> tuple[Point, ...]:
    return tuple(Point(tokens, value) for tokens, value in measured)


def _chart(curves: Sequence[Curve], y: str, caption: str) -> LineChart:
    """Return a chart of curves over tokens, with a logarithmic scale if they span more than a factor of three."""
    ranges = []
    for curve in curves:
        ends = f"from {curve.points[0].y:.4g} to {curve.points[-1].y:.4g}" if curve.points else "nothing"
        ranges.append(f"{f'{curve.name} ' * (len(curves) > 1)}{ends}")
    finite = [point.y for curve in curves for point in curve.points if point.y > 0]
    steep = bool(finite) and max(finite) > 3 * min(finite)
    summary = f"{y} over {len(curves[0].points)} measurements: {'; '.join(ranges)}."
    return LineChart(caption, summary, "tokens", y, tuple(curves), log_y=steep)


def read_steps(file: Path) -> list[StepMetrics]:
    """Return the steps in a run's metrics, in order. A run that was killed repeats some; the last line of each counts.

    Raises InputError if there is none, CheckpointError for a line that is damaged.
    """
    way_out = "give the metrics.jsonl of a run of kept heal"
    found = {one.step: one for one in (StepMetrics.parse(line, file, "a line", way_out) for line in _lines(file))}
    if not found:
        raise InputError(f"{file}: has no steps; kept heal writes metrics.jsonl beside its output")
    return [found[step] for step in sorted(found)]


def _lines(file: Path) -> Iterator[dict[str, object]]:
    """Yield the lines about steps. Lines that are not valid JSON, such as a torn last line, are left out."""
    try:
        with file.open(encoding="utf-8") as written:
            while line := written.readline(LONGEST):
                with suppress(ValueError, RecursionError):
                    one = json.loads(line)
                    if isinstance(one, dict) and one.get("kind") == "step":
                        yield one
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
