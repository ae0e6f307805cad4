"""The sections of the report about healing: held-out figures before and after, and their curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from kept.checkpoint.json_model import JsonModel, Number
from kept.errors import InputError
from kept.output import heal_summary
from kept.pages.blocks import Block, Fact, Paragraph, Section, Table
from kept.pages.charts import DRAWN, Curve, LineChart, Point

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from kept.output.healed_record import HealedRecord, MeasurementRecord
    from kept.output.record import Record

LONGEST = 1 << 20
"""Longest line of metrics, in characters; a longer line is cut, and its parts are not valid JSON."""


class StepMetrics(JsonModel):
    """A line of `metrics.jsonl` about an optimizer step: tokens so far, and the losses of its batch by group."""

    step: int
    tokens: int
    groups: Mapping[str, Mapping[str, Number]]

    def loss(self, group: str) -> float:
        """Return the loss of a group; NaN if it was not trained in this step."""
        return self.groups.get(group, {}).get("loss", math.nan)


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
    return [*_loss_facts(record.healed), Fact(f"{record.healed.trained_tokens:,}", "tokens")]


def _loss_facts(healed: HealedRecord) -> list[Fact]:
    """Return the losses before and after: of the only group, or the median of several."""
    group = healed.only_group
    if healed.kl is not None:
        return [Fact(f"{healed.kl.before:.3g} → {healed.kl.after:.3g}", "KL from the teacher, nats per token")]
    if group is None:
        before, after = heal_summary.median_losses(healed)
        return [Fact(f"{before:.3g} → {after:.3g}", f"held-out loss, median of {len(healed.groups)} groups")]
    key = heal_summary.main_loss(group.first.losses)
    first, best = group.first, group.best
    found = [Fact(f"{first.losses[key]:.3g} → {best.losses[key]:.3g}", f"held-out {heal_summary.LOSSES[key]}")]
    if not math.isnan(first.agreement):
        shares = (f"{100 * one.agreement:.1f}" for one in (first, best))
        found.append(Fact(f"{' → '.join(shares)} %", "top-1 agreement, held out"))
    return found


def healing(record: Record, steps: Sequence[StepMetrics]) -> Section | None:
    """Return the section on healing; `steps` are those of the run, or empty if they are unknown."""
    if record.healed is None:
        return None
    head, rows = heal_summary.held_out(record.healed)
    blocks: list[Block] = [Paragraph(heal_summary.settings_in_words(record.healed)), Table("Held out", head, rows)]
    return Section("healing", "Healing", (*blocks, *_curves(record.healed, steps)))


def _curves(healed: HealedRecord, steps: Sequence[StepMetrics]) -> Iterator[LineChart]:
    group = healed.only_group
    yield from _group_curves(healed) if group is None else _only_curves(group.held_out)
    if steps:
        yield _training_curves(healed, steps)


def _only_curves(measured: Sequence[MeasurementRecord]) -> Iterator[LineChart]:
    """Yield the charts of a run with one group: its main loss, the texts, and the agreement."""
    key = heal_summary.main_loss(measured[0].losses)
    losses = [(one.tokens, one.losses.get(key, math.nan)) for one in measured]
    yield _curve(losses, f"held-out {heal_summary.LOSSES[key]}", "Held out, against trained tokens.")
    yield from _by_text(measured)
    if not math.isnan(measured[0].agreement):
        shares = [(one.tokens, 100 * one.agreement) for one in measured]
        yield _curve(
            shares,
            "top-1 agreement, %",
            "Fraction of tokens for which student and teacher have the same most likely token.",
        )


def _group_curves(healed: HealedRecord) -> Iterator[LineChart]:
    """Yield a chart of the held-out losses of the worst groups."""
    curves = [
        Curve(name, _points((one.tokens, one.loss) for one in group.held_out), style)
        for style, (name, group) in enumerate(heal_summary.worst_groups(healed)[:DRAWN])
    ]
    yield _chart(curves, "held-out loss", f"Held out, against trained tokens.{_left_out(curves, healed.groups)}")


def _training_curves(healed: HealedRecord, steps: Sequence[StepMetrics]) -> LineChart:
    """Return a chart of the training losses: of the only group, or of the worst of several."""
    names = [name for name, _ in heal_summary.worst_groups(healed)][:DRAWN]
    y = "loss of each batch"
    curves = [
        Curve(y if len(healed.groups) == 1 else name, _points((one.tokens, one.loss(name)) for one in steps), style)
        for style, name in enumerate(names)
    ]
    return _chart(curves, y, f"The loss in training, step by step.{_left_out(curves, healed.groups)}")


def _left_out(curves: Sequence[Curve], groups: Collection[str]) -> str:
    return f" The worst {len(curves)} of {len(groups)} groups." if len(groups) > len(curves) else ""


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
