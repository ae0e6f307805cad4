"""What a record says of a conversion: what was done, what it costs to run, what was measured, how it is loaded."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Any

from kept.checkpoint.tokenizer_config import loader
from kept.families import is_stock
from kept.formatting import amount, parameters
from kept.ir.promise import Promise
from kept.json_values import listed, mapped, number, text, whole
from kept.output import heal_summary
from kept.output.lineage import lineage, weaker
from kept.output.record import domain, target
from kept.pages.blocks import (
    Block,
    Change,
    Changes,
    Code,
    Curve,
    Fact,
    LineChart,
    Notes,
    Paragraph,
    Point,
    Section,
    Table,
    TextPair,
    TextPairs,
)
from kept.passes import SUMMARIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Record = Mapping[str, Any]


STATED = 3
"""Columns of the passes that are always there; what they cost has one only where it costs."""


def passes(record: Record) -> Section | None:
    """The passes with their promises and costs, and the architecture before and after."""
    if "passes" not in record:
        return None
    rows = tuple(_step(mapped(step)) for step in listed(record["passes"]))
    names = ("pass", "what it does", "promise", "layers", "parameters")
    said = [n for n in range(len(names)) if n < STATED or any(row[n] for row in rows)]
    columns, cells = (names[n] for n in said), (tuple(row[n] for n in said) for row in rows)
    blocks: list[Block] = [Table("Passes, in order", tuple(columns), tuple(cells), STATED)]
    if not rows:
        where = "" if weakest(record) is None else " in the last step"
        blocks = [Paragraph(f"Nothing had to change{where}: the architecture was already expressible.")]
    holds = tuple(f"The promise holds {one}" for one in domain(record))
    blocks += [Notes(holds)] * bool(holds)
    for when in ("before", "after"):
        if when in record:
            lines = [text(line) for line in listed(record[when]["spec"])]
            blocks.append(Code(f"The architecture {when}", "\n".join(lines)))
    return Section("passes", "What was done", tuple(blocks))


def _step(step: Record) -> tuple[str, ...]:
    name, options = text(step["name"]), mapped(step["options"])
    said = {key: value for key, value in options.items() if value is not None and value != []}
    values = {key: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in said.items()}
    words = ", ".join(values.values() if len(values) < 2 else (f"{key} {value}" for key, value in values.items()))
    summary = SUMMARIES.get(name, "")
    counts = (f"{whole(step[key]):+,}" if step[key] else "" for key in ("layers", "parameters"))
    return (f"{name} ({words})" if words else name, summary, text(step["promise"]), *counts)


def sizes(record: Record) -> Section | None:
    """Parameters, bytes and key-value cache before and after."""
    if not {"before", "after"} <= record.keys():
        return None
    both = mapped(record["before"]), mapped(record["after"])
    changes = (
        _change("parameters", "parameters", both, parameters),
        _change("bytes of the weights", "bytes", both, _bytes),
        _change("key-value cache, for each token of context", "cache_bytes", both, _bytes),
    )
    before, after = (text(one["dtype"]) for one in both)
    stored = f"Weights are in {after}" + ("." if before == after else f"; they were in {before}.")
    return Section("sizes", "What it costs to run", (Changes(changes), Paragraph(stored)))


def _change(name: str, key: str, both: tuple[Record, Record], shown: Callable[[int], str]) -> Change:
    before, after = (whole(one[key]) for one in both)
    return Change(name, before, after, (shown(before), shown(after)))


def _bytes(count: int) -> str:
    return amount(count, "bytes")


# --------------------------------------------------------------------------------------------------------------- parity


def verdict(record: Record) -> tuple[bool | None, str]:
    """Whether the promise is kept (None where none was measured), and the verdict in words."""
    if "promise" not in record:
        return None, "no conversion is recorded"
    promise = Promise(text(record["promise"]))
    found = record.get("verification")
    if found is None:
        return None, _badge(record, f"promise {promise}: {_unmeasured(record)}")
    failure = None if found["failure"] is None else text(found["failure"])
    free = promise is Promise.LOSSY or weakest(record) is not None
    kept = None if free and failure is None else failure is None
    return kept, _badge(record, f"promise {promise}: {promise.verdict(failure)}")


def weakest(record: Record) -> str | None:
    """The weakest promise since the first source, where it is weaker than what the last step promised."""
    if "promise" not in record or "healed" in record:  # what is healed promises nothing, and says so
        return None
    return weaker(lineage(record), Promise(text(record["promise"])))


def _badge(record: Record, verdict: str) -> str:
    """A verdict that says what it is of: of the last step alone, where an earlier one promised less."""
    since = weakest(record)
    return verdict if since is None else f"last step: {verdict}; since the first source: {since}"


def the_way(record: Record) -> Section | None:
    """All that was done, oldest first, where it was more than one thing."""
    rows = tuple((str(n), one.said, str(one.promise or "not known")) for n, one in enumerate(lineage(record), 1))
    table = Table("All that was done, oldest first", ("step", "what was done", "promise"), rows, STATED)
    return Section("way", "The whole way", (table,)) if len(rows) > 1 else None


def _unmeasured(record: Record) -> str:
    """Why nothing was measured: a model that learned from texts alone has no teacher to compare it with."""
    alone = "healed" in record and heal_summary.from_texts(mapped(record["healed"]))
    return "learned from texts alone" if alone else "not measured"


def in_words(record: Record) -> list[str]:
    """What was measured, in plain sentences."""
    found = record.get("verification")
    if found is None:
        return _since(record)
    output, floor, dtype = found["output"], found["floor"], text(found["dtype"])
    said, since = _since(record), weakest(record)
    source, same = ("the source", "") if since is None else ("its own source", " as that")
    if found["proof"] is not None:
        largest, spread = number(found["proof"]["max_logit_error"]), number(output["logit_std"])
        said.append(
            f"In float64, before anything is rounded, no logit differs from {source}'s by more than {largest:.2g}, "
            f"where logits spread by {spread:.2f}: the same function{same}."
        )
    said.append(
        f"As written, in {dtype}, each token is {_kl(output)} nats (KL) from {source} in exact arithmetic; "
        f"{source} itself, run in {dtype}, is {_kl(floor)} from it."
    )
    said.append(f"The first choice is the same at {_percent(output['top1'])} of {whole(output['tokens']):,} tokens.")
    return said


def _since(record: Record) -> list[str]:
    """What the last step kept, and of which source, where an earlier one promised less."""
    since = weakest(record)
    if since is None:
        return []
    done = lineage(record)
    own = f"its own source, {text(record['source']['name'])} as step {len(done) - 1} left it"
    first = f"the first source, {done[0].model}" if done[0].model else "the first source"
    last = f"The last step promises {text(record['promise'])} against {own}."
    return [last, f"Since {first}, the weakest promise is {since}."]


def facts(record: Record) -> list[Fact]:
    """The figures that count."""
    found = record.get("verification")
    if found is None:
        return []
    output = found["output"]
    before, after = number(output["perplexity_reference"]), number(output["perplexity"])
    return [
        Fact(_kl(output), "nats per token from the source (KL)"),
        Fact(_percent(output["top1"]), "same first choice"),
        Fact(f"{before:.4g} → {after:.4g}", "perplexity"),
    ]


def parity(record: Record) -> Section | None:
    """The measurements as a table, and the error layer by layer."""
    found = record.get("verification")
    if found is None:
        return None
    dtype = text(found["dtype"])
    runs = [
        ("the output", f"the output, in {dtype}", found["output"]),
        ("the source itself", f"the source itself, in {dtype}", found["floor"]),
    ]
    if found["proof"] is not None:
        runs.append(("the map", "the map before rounding, in float64", found["proof"]))
    columns = ("run", "largest logit error", "mean", "KL, nats a token", "same first choice", "perplexity")
    table = Table(
        "Against the source in float64", columns, tuple(_measured(name, mapped(run)) for _, name, run in runs)
    )
    spread = number(found["output"]["logit_std"])
    opening = (
        f"On {whole(found['output']['tokens']):,} tokens of {text(found['text'])}. Logits have a standard deviation of "
    )
    blocks: list[Block] = [Paragraph(f"{opening}{spread:.3g}."), table, _layers([(name, run) for _, name, run in runs])]
    notes = tuple(text(note) for note in listed(found.get("notes", [])))
    blocks += [Notes(notes)] * bool(notes)
    return Section("parity", "How near it is", tuple(blocks))


def _measured(name: str, run: Record) -> tuple[str, ...]:
    errors = (f"{number(run[key]):.2g}" for key in ("max_logit_error", "mean_logit_error"))
    return (name, *errors, _kl(run), _percent(run["top1"]), f"{number(run['perplexity']):.4f}")


def _layers(runs: Sequence[tuple[str, Record]]) -> Block:
    """The error of the residual stream after each layer, on a logarithmic scale."""
    curves = []
    for style, (name, run) in enumerate(runs):
        errors = [number(error) for error in listed(run["layers"])][1:]
        curves.append(Curve(name, tuple(Point(n, error) for n, error in enumerate(errors, 1)), style))
    seen = [(curve.name, [point.y for point in curve.points if point.y > 0]) for curve in curves]
    ranges = [f"{name} from {min(errors):.1e} to {max(errors):.1e}" for name, errors in seen if errors]
    if not ranges:
        return Paragraph("No layer differs at all.")
    summary = f"Relative error after each layer: {'; '.join(ranges)}."
    caption = "Error of the residual stream, as the next norm reads it, layer by layer. Lower is better."
    return LineChart(caption, summary, "after layer", "relative error", tuple(curves), log_y=True)


def _kl(run: Record) -> str:
    found = number(run["kl"])
    return f"{found if math.isnan(found) else max(found, 0):.2g}"  # what rounding leaves of zero may be negative


def _percent(value: object) -> str:
    return f"{100 * number(value):.2f} %"


# ---------------------------------------------------------------------------------------------------------- generations


def continuations(record: Record) -> TextPairs | None:
    """What both models wrote when the output was verified."""
    found = record.get("verification")
    if found is None or not found["continuations"]:
        return None
    pairs = (mapped(pair) for pair in listed(found["continuations"]))
    return TextPairs(
        ("the source", "the output"),
        tuple(TextPair(*(text(p[k]) for k in ("prompt", "source", "output"))) for p in pairs),
    )


# -------------------------------------------------------------------------------------------------------------- loading


def loading(record: Record, out: str) -> Section:
    """How the output is loaded: what to type, and what does not take it as it is."""
    return Section("load", "Load it", tuple(_ways(record, out)))


def _ways(record: Record, out: str) -> Iterator[Block]:
    known = {"source", "recipe"} <= record.keys()
    if known and not is_stock(target(record)):
        yield Paragraph(
            f"transformers has no class for {target(record)}; kept generate runs it, and kept convert changes it."
        )
        return
    reads = loader(text(record["source"]["family"]), target(record)) if known else "AutoTokenizer"
    trusted = ", trust_remote_code=False" if reads == "AutoTokenizer" else ""
    yield Code(
        "transformers",
        f"from transformers import AutoModelForCausalLM, {reads}\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({out!r}, trust_remote_code=False)\n"
        f"tokenizer = {reads}.from_pretrained({out!r}{trusted})",
    )
    yield Code("vLLM, which takes the stock class; kept has not measured it", f"vllm serve {shlex.quote(out)}")
    yield Code(
        "llama.cpp",
        f"python convert_hf_to_gguf.py {shlex.quote(out)} --outtype bf16 --outfile model.gguf\n"
        "llama-cli -m model.gguf -p 'Once upon a time'",
    )
    notes = tuple(f"Not as it is for {text(note)}" for note in listed(record.get("runtimes", [])))
    yield from [Notes(notes)] * bool(notes)
