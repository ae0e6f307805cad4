"""What a record says of healing: held-out figures before and after, and how they went."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.json_values import blamed, mapped, number, whole
from kept.output import heal_summary
from kept.pages.blocks import DRAWN, Block, Curve, Fact, LineChart, Paragraph, Point, Section, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    Record = Mapping[str, Any]

LONGEST = 1 << 20
"""Longest line of metrics, in characters; a longer line is cut, and its parts are not valid JSON."""


def in_words(record: Record) -> list[str]:
    """What healing did, and what there is to say where no teacher was."""
    if "healed" not in record:
        return []
    alone = [heal_summary.unmeasured(record["healed"])] if heal_summary.from_texts(record["healed"]) else []
    return [heal_summary.in_words(record["healed"]), *alone]


def facts(record: Record) -> list[Fact]:
    """The figures that count, before and after."""
    if "healed" not in record:
        return []
    first, best = heal_summary.ends(heal_summary.measurements(record["healed"]))
    key = heal_summary.main_loss(first)
    found = [Fact(f"{number(first[key]):.3g} → {number(best[key]):.3g}", f"held-out {heal_summary.LOSSES[key]}")]
    if not math.isnan(number(first["agreement"])):
        shares = (f"{100 * number(one['agreement']):.1f}" for one in (first, best))
        found.append(Fact(f"{' → '.join(shares)} %", "same first choice, held out"))
    return [*found, Fact(f"{whole(best['tokens']):,}", "tokens")]


def healing(record: Record, steps: Sequence[Record]) -> Section | None:
    """What learned, from what, and the curves; `steps` are those of the run, where they are known."""
    if "healed" not in record:
        return None
    measured = heal_summary.measurements(record["healed"])
    head, rows = heal_summary.held_out(record["healed"])
    key = heal_summary.main_loss(measured[0])
    blocks: list[Block] = [
        Paragraph(heal_summary.asked(record["healed"])),
        Table("Held out", head, rows),
        _curve(measured, key, f"held-out {heal_summary.LOSSES[key]}", "Held out, against tokens learned from."),
    ]
    blocks += _by_text(measured)
    if not math.isnan(number(measured[0]["agreement"])):
        shares = [{**one, "agreement": 100 * number(one["agreement"])} for one in measured]
        blocks.append(
            _curve(shares, "agreement", "same first choice, %", "How often both models' first choice is one.")
        )
    if steps:
        blocks.append(_curve(steps, "loss", "loss of each batch", "The loss in training, step by step."))
    return Section("healing", "Healing", tuple(blocks))


def _curve(measured: Iterable[Record], key: str, y: str, caption: str) -> LineChart:
    return _picture([Curve(y, _points(measured, key), 0)], y, caption)


def _by_text(measured: Sequence[Record]) -> Iterator[LineChart]:
    """Each text by itself, where one is only watched or there are several: what one gains another may lose."""
    named = [(key, name) for key in ("watched", "sources") for name in mapped(measured[0].get(key, {}))]
    if [key for key, _ in named] in ([], ["sources"]):
        return
    curves = []
    for style, (key, name) in enumerate(named[:DRAWN]):
        points = _points([{"tokens": one["tokens"], **mapped(mapped(one[key])[name])} for one in measured], "ce")
        curves.append(Curve(f"{name}, only watched" if key == "watched" else name, points, style))
    left = f" The first {len(curves)} of {len(named)}." if len(named) > len(curves) else ""
    yield _picture(curves, "cross-entropy, nats a token", f"Each text by itself, against tokens learned from.{left}")


def _points(measured: Iterable[Record], key: str) -> tuple[Point, ...]:
    return tuple(Point(whole(one["tokens"]), number(one[key])) for one in measured)


def _picture(curves: Sequence[Curve], y: str, caption: str) -> LineChart:
    """Curves over tokens, on a logarithm where they are steep."""
    said = []
    for curve in curves:
        ends = f"from {curve.points[0].y:.4g} to {curve.points[-1].y:.4g}" if curve.points else "nothing"
        said.append(f"{f'{curve.name} ' * (len(curves) > 1)}{ends}")
    finite = [point.y for curve in curves for point in curve.points if point.y > 0]
    steep = bool(finite) and max(finite) > 3 * min(finite)
    summary = f"{y} over {len(curves[0].points)} measurements: {'; '.join(said)}."
    return LineChart(caption, summary, "tokens", y, tuple(curves), log_y=steep)


def steps(file: Path) -> list[dict[str, Any]]:
    """The steps of a run's metrics, each as it was last: a run that was killed repeats some, and may break a line.

    Raises InputError where there is none, CheckpointError for a step that is damaged.
    """
    found: dict[int, dict[str, Any]] = {}
    with blamed(file, "a line", "give the metrics.jsonl of a run of kept heal"):
        for one in _lines(file):
            found[whole(one["step"])] = {"tokens": whole(one["tokens"]), "loss": number(one["loss"])}
    if not found:
        raise InputError(f"{file}: has no steps; kept heal writes metrics.jsonl beside its output")
    return [found[step] for step in sorted(found)]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """What is said of steps, less what is no JSON."""
    try:
        with file.open(encoding="utf-8") as written:
            while line := written.readline(LONGEST):
                with suppress(ValueError, RecursionError):
                    one = json.loads(line)
                    if isinstance(one, dict) and one.get("kind") == "step":
                        yield one
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
