"""The sections of the report about a conversion: passes, sizes, parity and generated texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.formatting import amount, parameters
from kept.ir.promise import Promise
from kept.output.lineage import lineage, weaker
from kept.output.verification_words import double_runs, equal_runs, figures, headline, text_of, tokens_of
from kept.pages.blocks import (
    Block,
    Change,
    Changes,
    Fact,
    Notes,
    Paragraph,
    Section,
    Table,
    TextPair,
    TextPairs,
)
from kept.pages.charts import Curve, LineChart, Point
from kept.passes import SUMMARIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from kept.output.healed_record import ContinuationRecord
    from kept.output.record import PassRecord, Record
    from kept.output.verification_words import Measured


STATED = 3
"""Number of columns that the table of passes always has; empty columns of costs are left out."""


def passes(record: Record) -> Section | None:
    """Return the section on the passes, with their promises and costs."""
    if record.passes is None:
        return None
    rows = tuple(_step(step) for step in record.passes)
    names = ("pass", "effect", "promise", "layers", "parameters")
    used = [n for n in range(len(names)) if n < STATED or any(row[n] for row in rows)]
    columns, cells = (names[n] for n in used), (tuple(row[n] for n in used) for row in rows)
    blocks: list[Block] = [Table("Passes, in order", tuple(columns), tuple(cells), STATED)]
    if not rows:
        where = "" if weakest(record) is None else " in the last step"
        blocks = [Paragraph(f"Nothing had to change{where}: the architecture was already expressible.")]
    holds = tuple(f"The promise holds {one}" for one in record.domain)
    blocks += [Notes(holds)] * bool(holds)
    return Section("passes", "Passes", tuple(blocks))


def _step(step: PassRecord) -> tuple[str, ...]:
    """Return the cells of a pass: name with options, summary, promise, layers and parameters added."""
    given = {key: value for key, value in step.options.items() if value is not None and value != []}
    values = {
        key: ", ".join(map(str, value)) if isinstance(value, list | dict) else str(value)
        for key, value in given.items()
    }
    words = ", ".join(values.values() if len(values) < 2 else (f"{key} {value}" for key, value in values.items()))
    layers = f"{step.layers:+,}" if step.layers else ""
    added = f"{'-' if step.parameters < 0 else '+'}{parameters(abs(step.parameters))}" if step.parameters else ""
    name = f"{step.name} ({words})" if words else step.name
    return (name, SUMMARIES.get(step.name, ""), str(step.promise), layers, added)


def sizes(record: Record) -> Section | None:
    """Return the section on parameters, bytes and KV cache before and after."""
    if record.before is None or record.after is None:
        return None
    both = record.before, record.after
    changes = (
        _change("parameters", [one.parameters for one in both], parameters),
        _change("bytes of the weights", [one.bytes for one in both], _bytes),
        *_kv_cache(record.before.kv_cache, record.after.kv_cache),
    )
    before, after = (one.dtype for one in both)
    stored = f"Weights are in {after}" + ("." if before == after else f"; they were in {before}.")
    return Section("sizes", "Size and KV cache", (Changes(changes), Paragraph(stored)))


def _kv_cache(before: Mapping[int, int], after: Mapping[int, int]) -> Iterator[Change]:
    """Yield the change of the KV cache at the numbers of tokens for which both models have it."""
    for tokens in sorted(before.keys() & after.keys()):
        yield _change(f"KV cache at {tokens:,} tokens", [before[tokens], after[tokens]], _bytes)


def _change(name: str, both: Sequence[int], in_words: Callable[[int], str]) -> Change:
    before, after = both
    return Change(name, before, after, (in_words(before), in_words(after)))


def _bytes(count: int) -> str:
    return amount(count, "bytes")


# --------------------------------------------------------------------------------------------------------------- parity


def verdict(record: Record) -> tuple[bool | None, str]:
    """Return whether the promise is kept (None if nothing was measured), and the verdict in words."""
    promise, found = record.promise, record.verification
    if promise is None:
        return None, "no conversion is recorded"
    if found is None:
        return None, _badge(record, f"promise {promise}: {_unmeasured(record)}")
    free = promise is Promise.LOSSY or weakest(record) is not None
    kept = None if free and found.failure is None else found.failure is None
    return kept, _badge(record, f"promise {promise}: {promise.verdict(found.failure)}")


def weakest(record: Record) -> str | None:
    """Return the weakest promise since the first source if it is weaker than that of the last step; None otherwise."""
    if record.promise is None or record.healed is not None:  # a healed model promises nothing, and says so
        return None
    return weaker(lineage(record), record.promise)


def _badge(record: Record, verdict: str) -> str:
    """Return a verdict. If an earlier step promised less, it is marked as the verdict of the last step alone."""
    since = weakest(record)
    return verdict if since is None else f"last step: {verdict}; since the first source: {since}"


def history(record: Record) -> Section | None:
    """Return the section on the lineage; None if it has one step."""
    steps = enumerate(lineage(record), 1)
    rows = tuple((str(n), one.description, str(one.promise or "not known")) for n, one in steps)
    table = Table("All steps, oldest first", ("number", "step", "promise"), rows, STATED)
    return Section("lineage", "Lineage", (table,)) if len(rows) > 1 else None


def _unmeasured(record: Record) -> str:
    """Return why nothing was measured: a model that was trained on texts alone has no teacher to compare it with."""
    alone = record.healed is not None and not record.healed.has_teacher
    return "trained on texts alone" if alone else "not measured"


def in_words(record: Record) -> list[str]:
    """Return the measurements in sentences."""
    found, since = record.verification, weakest(record)
    if found is None:
        return _since(record)
    source, same = ("the source", "") if since is None else ("its own source", " as that")
    result = headline(found, source)
    sentences = [f"{result[0].upper()}{result[1:]}.", *_since(record)]
    if found.proof is not None:
        sentences.append(
            f"The promise is judged in float64, before anything is rounded: no logit differs from "
            f"{source}'s by more than {found.proof.max_logit_error:.2g}, where logits spread by "
            f"{found.proof.logit_std:.2f}: the same function{same}."
        )
    return sentences


def _since(record: Record) -> list[str]:
    """Return what the last step kept, and of which source, if an earlier step promised less."""
    since = weakest(record)
    if since is None:
        return []
    done, name = lineage(record), "its source" if record.source is None else record.source.name
    first = f"the first source, {done[0].model}" if done[0].model else "the first source"
    own = f"its own source, {name} as step {len(done) - 1} left it"
    return [
        f"The last step promises {record.promise} against {own}.",
        f"Since {first}, the weakest promise is {since}.",
    ]


def facts(record: Record) -> list[Fact]:
    """Return the most important figures: how far the output is from the source, both in the output's dtype."""
    found = record.verification
    if found is None or (found.same is None and not found.copied):
        return []
    if found.same is None or found.same.max_logit_error == 0:
        return [Fact("identical", "to the bit")]
    same = found.same
    own = [] if found.floor is None else [(found.floor, f"the source's own rounding ({found.floor.tokens:,} tokens)")]
    tokens = f"{same.tokens:,} tokens"
    return [
        Fact(f"{same.max_logit_error:.2g}", f"largest logit difference ({tokens}, {found.dtype})"),
        *(Fact(f"{floor.max_logit_error:.2g}", name) for floor, name in own),
        Fact(_percent(same.top1), f"top-1 agreement ({tokens}, {found.dtype})"),
        Fact(f"{same.perplexity_reference:.4g} → {same.perplexity:.4g}", f"perplexity of {text_of(found)} ({tokens})"),
    ]


def parity(record: Record) -> Section | None:
    """Return the section on the verification: the result, a table against float64, and the error layer by layer."""
    found = record.verification
    if found is None:
        return None
    result = headline(found)
    blocks: list[Block] = [Paragraph(f"{result[0].upper()}{result[1:]}.")]
    runs = double_runs(found, "the source itself")
    if found.output is not None:
        columns = ("run", "max logit error", "mean", "KL, nats per token", "top-1 agreement", "perplexity")
        title = f"Against the source in float64, on {found.output.tokens:,} {tokens_of(found)}"
        spread = f"Logits have a standard deviation of {found.output.logit_std:.3g}."
        blocks += [
            Paragraph(" ".join(filter(None, (f"Text: {found.text}.", spread, equal_runs(runs))))),
            Table(title, columns, tuple((name, *figures(run)) for name, run in runs)),
            _layers(runs),
        ]
    blocks += [Notes(found.notes)] * bool(found.notes)
    return Section("parity", "Difference from the source", tuple(blocks))


def _layers(runs: Sequence[tuple[str, Measured]]) -> Block:
    """Return a chart of the error of the residual stream after each layer, on a logarithmic scale."""
    curves = []
    for style, (name, run) in enumerate(runs):
        curves.append(Curve(name, tuple(Point(n, error) for n, error in enumerate(run.layers[1:], 1)), style))
    seen = [(curve.name, [point.y for point in curve.points if point.y > 0]) for curve in curves]
    ranges = [f"{name} from {min(errors):.1e} to {max(errors):.1e}" for name, errors in seen if errors]
    if not ranges:
        return Paragraph("No layer differs at all.")
    summary = f"Relative error after each layer: {'; '.join(ranges)}."
    caption = "Error of the residual stream, as the next norm reads it, layer by layer. Lower is better."
    return LineChart(caption, summary, "after layer", "relative error", tuple(curves), log_y=True)


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


# ---------------------------------------------------------------------------------------------------------- generations


def continuations(record: Record) -> Iterator[tuple[str, TextPairs]]:
    """Yield a title and what two models wrote: before and after training, and when the output was verified."""
    found, healed = record.verification, record.healed
    if healed is not None and healed.continuations:
        yield "Before and after healing", _pairs(("before", "after"), healed.continuations)
    if found is not None and found.continuations:
        source = "the source" if healed is None else "the teacher"
        yield "When it was verified", _pairs((source, "the output"), found.continuations)


def _pairs(names: tuple[str, str], found: Iterable[ContinuationRecord]) -> TextPairs:
    return TextPairs(names, tuple(TextPair(one.prompt, one.source, one.output) for one in found))
