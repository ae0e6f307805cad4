"""What a record says of healing: held-out figures before and after, and how they went."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.distillation.settings import SELF
from kept.errors import InputError
from kept.pages.blocks import Block, Curve, Fact, Lines, Point, Section, Table, Words
from kept.pages.stated import blamed, listed, mapped, number, text, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Record = Mapping[str, Any]

NAMES = {
    "kl": "KL from the teacher, nats a token",
    "reverse": "reverse KL, nats a token",
    "jsd": "Jensen-Shannon divergence, nats a token",
    "ce": "cross-entropy with the text, nats a token",
    "hidden": "error of the streams",
    "loss": "the weighted sum that is minimised",
}
"""The losses in words, the one that counts most first."""


def in_words(record: Record) -> list[str]:
    """What healing did, in a sentence; it says too that what else is measured was measured before."""
    if "healed" not in record:
        return []
    first, best = _ends(_measurements(record))
    key = _main(first)
    name, before, after = NAMES[key].partition(",")[0], number(first[key]), number(best[key])
    said = f"Healing on {whole(best['tokens']):,} tokens took the held-out {name} from {before:.3g} to {after:.3g}."
    return [*["What is said above was measured before healing."] * bool(record.get("verification")), said]


def facts(record: Record) -> list[Fact]:
    """The figures that count, before and after."""
    if "healed" not in record:
        return []
    first, best = _ends(_measurements(record))
    key = _main(first)
    found = [Fact(f"{number(first[key]):.3g} → {number(best[key]):.3g}", f"held-out {NAMES[key]}")]
    if not math.isnan(number(first["agreement"])):
        shares = (f"{100 * number(one['agreement']):.1f}" for one in (first, best))
        found.append(Fact(f"{' → '.join(shares)} %", "same first choice, held out"))
    return [*found, Fact(f"{whole(best['tokens']):,}", "tokens")]


def healing(record: Record, steps: Sequence[Record]) -> Section | None:
    """What learned, from what, and the curves; `steps` are those of the run, where they are known."""
    if "healed" not in record:
        return None
    measured = _measurements(record)
    blocks: list[Block] = [Words(_asked(mapped(record["healed"]["settings"]))), _before_and_after(measured)]
    key = _main(measured[0])
    blocks.append(_curve(measured, key, f"held-out {NAMES[key]}", "Held out, against tokens learned from."))
    if not math.isnan(number(measured[0]["agreement"])):
        shares = [{**one, "agreement": 100 * number(one["agreement"])} for one in measured]
        blocks.append(
            _curve(shares, "agreement", "same first choice, %", "How often both models' first choice is one.")
        )
    if steps:
        blocks.append(_curve(steps, "loss", "loss of each batch", "The loss in training, step by step."))
    return Section("healing", "Healing", tuple(blocks))


def _measurements(record: Record) -> list[dict[str, Any]]:
    found = [mapped(one) for one in listed(record["healed"]["held_out"])]
    if not found:
        raise ValueError("it has no measurement")
    return found


def _ends(measured: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first measurement, and the best, which is what was written."""
    known = [one for one in measured if not math.isnan(number(one["loss"]))] or [measured[0]]
    return measured[0], min(known, key=lambda one: number(one["loss"]))


def _main(one: Record) -> str:
    """The loss that says most: the divergence from the teacher where it was measured."""
    return next(key for key in ("kl", "jsd", "reverse", "loss") if key in one)


def _asked(settings: Record) -> str:
    """The settings that decide the result, in a sentence."""
    names = (text(one).rpartition("=") for one in listed(settings["data"]))
    texts = ", ".join(name or Path(path).stem for name, _, path in names)
    teacher = settings["teacher"]
    whose = "" if teacher is None else f" from {Path(text(teacher)).name}"
    heard = "texts that the teacher wrote" if texts == SELF else texts
    rows = whole(settings["batch"]) * whole(settings["accumulate"])
    how = f"rate {number(settings['rate']):g}, {text(settings['schedule'])}; {text(settings['precision'])}"
    return (
        f"What learned: {text(settings['train'])}{whose}; on: {heard}. "
        f"Rows of {whole(settings['length']):,} tokens, {rows} a step; {how}."
    )


def _before_and_after(measured: Sequence[dict[str, Any]]) -> Table:
    first, best = _ends(measured)
    keys = [key for key in NAMES if key in first and not (key == "loss" and first[key] == first[_main(first)])]
    rows = [(NAMES[key], *(f"{number(one[key]):.4g}" for one in (first, best))) for key in keys]
    if "ce" in first:
        rows.append(("perplexity of the text", *(_perplexity(number(one["ce"])) for one in (first, best))))
    rows.append(("same first choice", *(f"{100 * number(one['agreement']):.2f} %" for one in (first, best))))
    return Table("Held out", ("what", "before", f"after {whole(best['tokens']):,} tokens"), tuple(rows))


def _perplexity(nats: float) -> str:
    return f"{math.exp(nats):.4g}" if nats < 700 else "beyond what a float holds"


def _curve(measured: Iterable[Record], key: str, y: str, caption: str) -> Lines:
    points = tuple(Point(whole(one["tokens"]), number(one[key])) for one in measured)
    ends = f"from {points[0].y:.4g} to {points[-1].y:.4g}" if points else "nothing"
    finite = [point.y for point in points if point.y > 0]
    steep = bool(finite) and max(finite) > 3 * min(finite)
    summary = f"{y} over {len(points)} measurements: {ends}."
    return Lines(caption, summary, "tokens", y, (Curve(y, points, 0),), log_y=steep)


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
        written = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    for line in written.splitlines():
        with suppress(ValueError, RecursionError):
            one = json.loads(line)
            if isinstance(one, dict) and one.get("kind") == "step":
                yield one
