"""What the command line shows. stdout is data; progress, hints and errors go to stderr; plain where nobody looks."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import click

from kept.errors import UNSHOWN, printable, shown
from kept.formatting import amount, duration, parameters, percent, uncertain
from kept.output.runtimes import notes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kept.commands.check import CheckReport
    from kept.commands.convert import Conversion, DryRun
    from kept.commands.forecast import Forecast
    from kept.commands.generate import GeneratedText
    from kept.commands.heal_run import HealResult
    from kept.commands.inspect import Inspection
    from kept.commands.recipe_steps import RecipeStep, StepRecipe
    from kept.commands.run_recipe import RecipeRun, Result
    from kept.commands.shrink import ShrinkResult
    from kept.commands.write_teacher_cache import CachedTeacher
    from kept.demo import Demo
    from kept.distillation.cost import CostEstimate
    from kept.evaluation.estimate import Figure
    from kept.evaluation.forgetting import Forgetting
    from kept.evaluation.run import Evaluation, EvaluationRow
    from kept.loaded import LoadedModel
    from kept.pages.page import Report
    from kept.passes.plan import Plan
    from kept.tokenizer.merge import MergedTokenizer
    from kept.tokenizer.train import TrainedTokenizer
    from kept.verification.parity import Parity
    from kept.verification.verify import Verification

CENT = 0.01
"""The least price that is told."""

SHOWN_AFTER = 2.0
"""Seconds after which a stage is worth a line where there is no terminal."""


def complain(message: str) -> None:
    """One line on stderr."""
    line = printable(message)
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    click.echo(click.style(f"kept: {line}", fg="red") if coloured else f"kept: {line}", err=True)


def hint(message: str) -> None:
    """One line on stderr that is no error."""
    click.echo(shown(message), err=True)


def out_json(value: object) -> None:
    """JSON on stdout, with null for NaN and infinity, which JSON does not have."""
    from kept.checkpoint.json_file import finite

    plain = [asdict(v) for v in value] if isinstance(value, list) else value
    table = asdict(plain) if is_dataclass(plain) and not isinstance(plain, type) else plain
    text = json.dumps(finite(table), indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def take_any_name() -> None:
    """Let stdout show file names that are not text: spelled out, which in JSON is an escape."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


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
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn("{task.description:10}", markup=False), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=printer(stderr=True), transient=True) as progress:
        task = progress.add_task(shown(name), total=total)
        yield lambda done: progress.advance(task, done)


def _lines(name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    begun, shown, done, calls = time.monotonic(), [time.monotonic()], [0], [0]

    def advance(count: int) -> None:
        done[0] += count
        calls[0] += 1
        now = time.monotonic()
        if now - shown[0] > 5 * SHOWN_AFTER and done[0] < total:
            shown[0] = now
            # The first item may take as long as ten others: one alone tells nothing of those that are left.
            so_far = amount(done[0], unit) if unit == "bytes" else str(done[0])
            rest = _rest(total - done[0], done[0] / (now - begun), unit) if calls[0] > 1 else ""
            hint(f"{name}: {so_far} of {amount(total, unit)}{rest}")

    yield advance
    took = time.monotonic() - begun
    if took > SHOWN_AFTER:
        hint(f"{name}: {amount(total, unit)} in {took:.1f} s")


def _rest(left: int, rate: float, unit: str) -> str:
    """How fast it goes, and how long it will: seconds for one where a second is too short for it."""
    speed = f"{amount(rate, unit)} a second" if rate >= 1 else f"{1 / rate:.1f} s for each"
    return f", {speed}, {duration(left / rate)} left"


def printer(*, stderr: bool = False) -> Any:  # noqa: ANN401 - rich is imported late
    """Return the console for tables and lines, on stdout or stderr."""
    from rich.console import Console

    class Shown(Console):
        """A console that escapes control characters in the text of models and files."""

        def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - as in rich
            return super().render_str(shown(text), **options)

    if stderr:
        return Shown(stderr=True, markup=False, emoji=False, highlight=False)
    width = None if sys.stdout.isatty() else 110
    return Shown(width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def inspection(found: Inspection) -> None:
    """`kept inspect`."""
    console = printer()
    size = amount(found.nbytes, "bytes")
    console.print(f"{found.path}: {found.family}, {parameters(found.parameters)} parameters, {found.dtype}, {size}")
    if found.quantised:
        console.print(f"the file stores {found.quantised}; sizes are of the dequantised weights")
    for line in found.description:
        console.print(f"  {line}")
    console.print(f"  key-value cache: {amount(found.cache_bytes, 'bytes')} a token")
    biased = [norm.bias_to_gain for norm in found.norms if norm.bias_to_gain]
    if biased:
        console.print(f"  norm biases: {min(biased):.3g} to {max(biased):.3g} of their gains' length")
    for norm in found.norms:
        if norm.mean_to_std is not None:
            errors = f"as RMSNorm off by {norm.error_copied:.3g}, calibrated by {norm.error_calibrated:.3g}"
            console.print(f"  {norm.name}: |mean| / std {norm.mean_to_std:.3g}, {errors}", markup=False)
    for reach in found.targets:
        how = (
            f"{reach.promise}: {', '.join(reach.passes) or 'nothing to do'}"
            if reach.promise
            else f"refused: {reach.refusal}"
        )
        console.print(f"  to {reach.target}: {how}")
        for where in reach.domain:
            console.print(f"    it holds {where}", markup=False)


def checked(found: CheckReport) -> None:
    """`kept check`: a line a finding, then the verdict."""
    console = printer()
    size = amount(found.nbytes, "bytes")
    console.print(f"{found.path}: {found.family or 'unknown family'}, {found.tensors} tensors, {size}")
    for line in found.damage:
        console.print(f"  {line}")
    for line in found.remarks:
        hint(line)
    if found.summed:
        console.print(f"  {found.summed} files summed")
    console.print(found.verdict)


def plan_table(found: Plan) -> dict[str, Any]:
    """A plan as plain data."""
    steps = [
        {
            "name": s.rewrite.name,
            "promise": str(s.promise),
            "layers": s.layers,
            "parameters": s.parameters,
            "bytes": s.nbytes,
        }
        for s in found.steps
    ]
    return {
        "promise": str(found.promise),
        "domain": [*found.domain],
        "passes": steps,
        "parameters": found.program.parameters,
        "runtimes": [asdict(note) for note in notes(found)],
    }


def plan(opened: LoadedModel, found: Plan, target: str) -> None:
    """`kept plan`."""
    from kept.checkpoint.companion_files import tokenizer_note

    console = printer()
    console.print(f"{opened.family.name} to {target}: {found.promise}")
    table = _table("pass", "promise", "cost", "what it does")
    for step in found.steps:
        cost = [f"{step.layers:+d} layer"] if step.layers else []
        cost += (
            [f"{'+' if step.parameters > 0 else '-'}{parameters(abs(step.parameters))} parameters"]
            if step.parameters
            else []
        )
        table.add_row(step.rewrite.name, str(step.promise), ", ".join(cost) or "none", step.rewrite.summary)
    if found.steps:
        console.print(table)
    before, after = opened.program, found.program
    console.print(
        f"parameters {parameters(before.parameters)} -> {parameters(after.parameters)}, "
        f"bytes {amount(before.nbytes, 'bytes')} -> {amount(after.nbytes, 'bytes')}, "
        f"layers {before.spec.depth} -> {after.spec.depth}"
    )
    _domain(console, found.domain)
    for runtime in notes(found):
        console.print(f"not as it is for {runtime}")
    for note in (*opened.notes, tokenizer_note(opened.path, opened.family.name, target)):
        if note is not None:
            hint(note)


def forecast_table(found: Forecast) -> dict[str, Any]:
    """A plan of healing as plain data; sizes in bytes."""

    def table(cost: CostEstimate) -> dict[str, Any]:
        return {**asdict(cost), "bytes_per_rank": cost.bytes_per_rank, "fits": cost.fits}

    ways = [{"way": words, **table(cost)} for words, cost in found.ways_out]
    learned = {"parameters": found.learned.parameters, "of": found.learned.of}
    return {"cluster": asdict(found.cluster), "learned": learned, **table(found.cost), "ways_out": ways}


def forecast(found: Forecast) -> None:
    """`kept plan` of a recipe for healing."""
    console, cost, cluster = printer(), found.cost, found.cluster
    learned = f"{parameters(found.learned.parameters)} of {parameters(found.learned.of)} parameters learn"
    console.print(f"{cluster.name}: {learned}")
    table = _table("memory of a rank", "")
    for name, size in cost.memory.items():
        table.add_row(name, amount(size, "bytes"))
    console.print(table)
    verdict = "it fits" if cost.fits else "it does not fit"
    console.print(f"{amount(cost.bytes_per_rank, 'bytes')} of {amount(cost.limit, 'bytes')}: {verdict}")
    money = f", {_price(cost.price)} at {cluster.price:g} an hour and machine" if cluster.price else ""
    console.print(f"{cost.tokens_per_second:,.0f} tokens/s, {_hours(cost.hours)}{money}; bound by {cost.bound}")
    console.print("of the steps alone: start, held-out measurements, sampling and writing come on top")
    if cost.fits:
        return
    ways = _table("what takes less", "a rank", "", "tokens/s")
    for words, way in found.ways_out:
        fits = "fits" if way.fits else ""
        ways.add_row(words, amount(way.bytes_per_rank, "bytes"), fits, f"{way.tokens_per_second:,.0f}")
    console.print(ways)


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 1 / 60 else f"{max(1, 3600 * hours):.0f} s"


def _price(price: float) -> str:
    if price < CENT:
        return f"under {CENT}"
    return f"{price:.2f}" if price < 100 else f"{price:.0f}"


def rehearsal_table(done: DryRun) -> dict[str, Any]:
    """What would be written as plain data."""
    sizes = {"new_layers": [*done.plan.new_layers], "files": dict(done.files), "bytes": done.nbytes, "free": done.free}
    return {"out": str(done.path), **plan_table(done.plan), **sizes}


def rehearsal(done: DryRun) -> None:
    """`kept convert --dry-run`."""
    console = printer()
    names = ", ".join(step.rewrite.name for step in done.plan.steps) or "nothing to change"
    console.print(f"{done.path}: would be written ({names}; {done.plan.promise})")
    _domain(console, done.plan.domain)
    _expansions(console, done.plan)
    for name, size in done.files.items():
        console.print(f"  {name}  {amount(size, 'bytes')}")
    total, free = amount(done.nbytes, "bytes"), amount(done.free, "bytes")
    console.print(f"{total}, a model card and kept.json, of {free} free; nothing was written")
    for note in done.notes:
        hint(note)


def conversion(done: Conversion) -> None:
    """`kept convert`."""
    console = printer()
    names = ", ".join(step.rewrite.name for step in done.plan.steps) or "nothing to change"
    console.print(f"{done.path}: written ({names})")
    _expansions(console, done.plan)
    if done.verification is not None:
        verification(done.verification)
    for note in done.notes:
        hint(note)


def _expansions(console: Any, plan: Plan) -> None:  # noqa: ANN401 - rich is imported late
    """What each block expansion made: its groups, and the new layers with what they are copies of."""
    for one in plan.expansions:
        if one.sizes:
            console.print(f"groups of {', '.join(map(str, one.sizes))} layers")
        pairs = (
            f"{new} (of {'none left' if old is None else old})"
            for new, old in zip(one.layers, one.copies_of, strict=True)
        )
        console.print(f"new layers, copies that add nothing yet: {', '.join(pairs)}")

    for new in plan.vocabularies:
        console.print(f"new tokens: {len(new.grown.parts)}, from id {new.grown.first} on (rows {new.rows})")
        console.print(
            "texts in which they occur are now read through them, worse until they have learned; others as before"
        )


def trained_table(done: TrainedTokenizer) -> dict[str, Any]:
    """`kept tokenizer train --json`."""
    return {**asdict(done), "path": str(done.path)}


def trained(done: TrainedTokenizer) -> None:
    """`kept tokenizer train`."""
    printer().print(
        f"{done.path}: written ({done.kind} BPE, {done.tokens} tokens); "
        f"{done.per_character:.3f} tokens per character on its first {done.characters} characters"
    )


def merged_table(done: MergedTokenizer) -> dict[str, Any]:
    """`kept tokenizer merge --json`."""
    found = {**asdict(done), "path": str(done.path), "left_out": dict(done.left_out)}
    for table, gain in zip(found["gains"], done.gains, strict=True):
        table["per_character"] = [*gain.per_character]
    return found


def merged(done: MergedTokenizer) -> None:
    """`kept tokenizer merge`."""
    console = printer()
    console.print(f"{done.path}: written ({done.before} tokens, now {done.after})")
    for reason, count in done.left_out.items():
        console.print(f"left out, as pieces that {reason}: {count}")
    for gain in done.gains:
        before, after = gain.per_character
        console.print(f"tokens per character: {before:.3f}, now {after:.3f} ({gain.text})")


def shrunk_table(done: ShrinkResult) -> dict[str, Any]:
    """A shrinking as plain data; the record of what was written under `record`."""
    record = None if done.conversion is None else done.conversion.record
    layers = [asdict(one) for one in done.layers]
    return {
        "text": done.text,
        "layers": layers,
        "dropped": [*done.dropped],
        "together": done.together,
        "record": record,
    }


def shrunk(done: ShrinkResult, source: str) -> None:
    """`kept shrink-expanded`."""
    console = printer()
    table = _table("layer", "copy of", "state", "without it, nats/token", "")
    for one in done.layers:
        model = "none left" if one.copy_of is None else str(one.copy_of)
        worth = "not measured" if one.contribution is None else f"{one.contribution:.3g}"
        state = "untouched" if one.untouched else "trained"
        table.add_row(str(one.layer), model, state, worth, "dropped" if one.dropped else "kept")
    console.print(
        f"{source}: {amount(len(done.layers), 'expanded layers')}" + (f", on {done.text}" if done.text else "")
    )
    console.print(table)
    if not done.dropped:
        console.print(
            f"none of them is dropped; {'it is passed on as it is' if done.passed_on else 'nothing was written'}"
        )
        return
    console.print(f"without all that are dropped: {done.together:.3g} nats/token")
    if done.conversion is None:
        console.print("nothing was written")
    else:
        conversion(done.conversion)


class RecipeDisplay:
    """Shows each step of a recipe as its own command does; `data`: only that it begins, the rest is JSON at the end."""

    def __init__(self, *, data: bool) -> None:
        self.data = data

    def begins(self, step: RecipeStep, count: int) -> None:
        """A line on stderr."""
        named = f"{step.do} ({step.name})" if step.name != step.do else step.do
        hint(f"step {step.number} of {count}: {named}")

    def ends(self, step: RecipeStep, result: Result | None) -> None:
        """What its command shows."""
        if result is None:
            hint(f"step {step.number}: was finished before")
        elif not self.data:
            _result(step, result)

    def notes(self, message: str) -> None:
        """Print a line on stderr."""
        hint(message)


def _result(step: RecipeStep, result: Any) -> None:  # noqa: ANN401 - of any kind of step
    if step.do == "shrink-expanded":
        shrunk(result, str(step.model))
        return
    shown: dict[str, Callable[[Any], None]] = {
        "expand": conversion,
        "convert": conversion,
        "heal": healed,
        "verify": verification,
        "eval": evaluation,
        "report": reported,
    }
    shown[step.do](result)


def steps_table(asked: StepRecipe) -> dict[str, Any]:
    """Steps as plain data."""
    rows = [{"do": step.do, "name": step.name, **step.table} for step in asked.steps]
    return {"out": str(asked.out), "keep": asked.keep, "steps": rows}


def steps(asked: StepRecipe) -> None:
    """`kept run --dry-run`."""
    console = printer()
    table = _table("step", "do", "reads", "options")
    written = {step.out: step.name for step in asked.steps if step.out is not None}
    for step in asked.steps:
        reads = (written.get(path, str(path)) for path in step.models.values())
        keys = {*step.models, "out"} if step.out is not None else {*step.models}
        options = ", ".join(f"{key} {value}" for key, value in step.table.items() if key not in keys)
        named = f"{step.do} ({step.name})" if step.name != step.do else step.do
        table.add_row(str(step.number), named, ", ".join(dict.fromkeys(reads)), options)
    console.print(table)
    console.print(f"{asked.out}: would be what step {asked.last.number} writes; nothing was written")


def ran_table(asked: StepRecipe, done: RecipeRun) -> dict[str, Any]:
    """A run as plain data: the steps that were run by this command, and the record of the result."""
    from kept.checkpoint.json_file import read_json

    run = [step.number for step, result in zip(asked.steps, done.results, strict=True) if result is not None]
    return {"out": str(done.path), "run": run, "record": read_json(done.path / "kept.json")}


def ran(done: RecipeRun) -> None:
    """The end of `kept run`."""
    printer().print(f"{done.path}: finished")


def verification(found: Verification) -> None:
    """`kept verify`."""
    console = printer()
    table = _table("against the source in float64", "max logit error", "mean", "KL nats/token", "top-1", "perplexity")
    rows: list[tuple[str, Parity]] = [("the map, in float64", found.proof)] if found.proof is not None else []
    rows += [(f"the output, in {found.dtype}", found.output), (f"the source, in {found.dtype}", found.floor)]
    for name, p in rows:
        errors = f"{p.max_logit_error:.2g}", f"{p.mean_logit_error:.2g}", f"{max(p.kl, 0):.2g}"
        table.add_row(name, *errors, f"{100 * p.top1:.2f} %", f"{p.perplexity:.4f}")
    console.print(table)
    out = found.output
    console.print(
        f"{out.tokens} tokens of {found.text}; logit std {out.logit_std:.3g}; "
        f"source perplexity {out.perplexity_reference:.4f}"
    )
    console.print("relative error after each layer: " + " ".join(f"{error:.1e}" for error in out.layers[1:]))
    for pair in found.continuations:
        same = pair.source == pair.output
        console.print(f"  {pair.prompt!r} -> {pair.source!r}" + (" (both)" if same else ""))
        if not same:
            console.print(f"  {' ' * len(repr(pair.prompt))} -> {pair.output!r} (output)")
    for note in found.notes:
        hint(note)
    _domain(console, found.domain)
    console.print(f"promise {found.promise}: {found.verdict}", markup=False)


def _domain(console: Any, domain: Iterable[str]) -> None:  # noqa: ANN401 - rich is imported late
    for where in domain:
        console.print(f"the promise holds {where}", markup=False)


def evaluation(found: Evaluation) -> None:
    """`kept eval`: what counts, how far models agree, what they learned and forgot; the rest is in the JSON."""
    console = printer()
    for model in found.models:
        console.print(f"{model.name}: {model.family}, {model.dtype}")
    names = [model.name for model in found.models]
    shown = [row for row in found.rows if not row.detail]
    table = _beside(shown, names) if len(names) < 3 else _below(shown, names)
    if table.row_count:
        console.print(table)
    for row in shown:
        for name, share in zip(names[1:], row.agreements, strict=bool(row.agreements)):
            whose = f" in {name}" * (len(names) > 2)
            if share is not None:
                console.print(f"{_named(row)}: {row.metric}{whose} {percent(share.value, share.error)} of {row.items}")
    if found.forgetting is not None:
        _forgetting(console, found.forgetting, names[0])
    left = len(found.rows) - len(shown)
    more = [f"{left} more figures"] * bool(left) + ["what was written"] * bool(found.texts)
    if more:
        hint(f"{' and '.join(more)}: --json or --out FILE")


def _beside(rows: Sequence[EvaluationRow], names: Sequence[str]) -> Table:
    """One or two models in columns of their own."""
    table = _table("what", "metric", "items", *names, *["difference"] * (len(names) > 1))
    for row in (row for row in rows if row.models):
        apart = [_figure(one, signed=True) for one in row.differences]
        table.add_row(_named(row), row.metric, str(row.items), *map(_figure, row.models), *apart)
    return table


def _below(rows: Sequence[EvaluationRow], names: Sequence[str]) -> Table:
    """More models below each other, each with its difference to the first."""
    table = _table("what", "metric", "items", "model", "figure", "difference")
    for row in (row for row in rows if row.models):
        heads = [(_named(row), row.metric, str(row.items)), *[("", "", "")] * (len(names) - 1)]
        apart = ["", *(_figure(one, signed=True) for one in row.differences)]
        for head, name, one, difference in zip(heads, names, row.models, apart, strict=True):
            table.add_row(*head, name, _figure(one), difference)
    return table


def _forgetting(console: Console, found: Forgetting, first: str) -> None:
    """What each model learned and forgot: more of the one and less of the other is better."""
    from kept.output import forgetting_tables

    columns, rows = forgetting_tables.by_method(found)
    table = _table(*columns)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"learned: nats a {found.unit} less than {first}; forgot: nats a {found.unit} more")


def _named(row: EvaluationRow) -> str:
    return row.part if row.name == row.part else f"{row.part}: {row.name}"


def _figure(found: Figure, *, signed: bool = False) -> str:
    """A number with its standard error."""
    return uncertain(found.value, found.error, signed=signed)


def generations(texts: Sequence[GeneratedText]) -> None:
    """`kept generate`: prompt and continuation, a blank line between."""
    click.echo(shown("\n\n".join(text.prompt + text.text for text in texts)))


def reported(done: Report) -> None:
    """`kept report`."""
    click.echo(shown(f"{done.path}: written ({', '.join(done.sections)})"))


def demo(done: Demo) -> None:
    """`kept demo`."""
    conversion(done.conversion)
    click.echo(shown(f"page: {done.page}"))


def cache_table(done: CachedTeacher) -> dict[str, Any]:
    """A teacher's cache as plain data."""
    return {"out": str(done.path), "bytes": done.nbytes, **done.about}


def cached_teacher(done: CachedTeacher) -> None:
    """`kept cache-teacher`: where it is, and for several numbers of tokens what they lose against all."""
    console = printer()
    k, bias = done.about["k"], done.about["bias"]
    console.print(f"{done.path}: {amount(done.nbytes, 'bytes')}, the {k} likeliest tokens at each place")
    table = _table("tokens kept", "left out", "KL of these, nats/token", "of all", "gradient's error")
    for one in bias["by_k"]:
        figures = f"{100 * one['tail']:.3g} %", f"{one['listed']:.4g}", f"{one['full']:.4g}"
        table.add_row(str(one["k"]), *figures, f"{100 * one['gradient']:.2g} %")
    console.print(table)
    console.print(f"against {bias['against']}, on {amount(bias['tokens'], 'held-out tokens')}")


def healed(done: HealResult) -> None:
    """`kept heal`: what is held out before and after, then the result against its teacher."""
    from kept.output.heal_summary import NOTHING_BETTER, displayed_losses

    console = printer()
    first, best = done.history[0], done.best
    console.print(f"{done.path}: written")
    table = _table("held-out", "before", f"after {amount(best.tokens, 'tokens')}")
    listed = " of the listed tokens" if "teacher_cache" in done.record["healed"] else ""
    for name in displayed_losses(first.losses):
        value = first.losses[name]
        table.add_row(f"{name}{listed if name == 'kl' else ''}, nats/token", f"{value:.4g}", f"{best.losses[name]:.4g}")
    for name, found in first.watched.items():
        table.add_row(f"{name}, only watched: ce, nats/token", f"{found['ce']:.4g}", f"{best.watched[name]['ce']:.4g}")
    if not math.isnan(first.agreement):
        table.add_row("same first choice", f"{100 * first.agreement:.2f} %", f"{100 * best.agreement:.2f} %")
    console.print(table)
    if not best.step:
        console.print(f"{NOTHING_BETTER} A lower --learning-rate or more --tokens may help.")
    hint(f"metrics: {done.run}")
    console.print(f"{parameters(done.learned.parameters)} of {parameters(done.learned.of)} parameters learned")
    if done.verification is not None:
        verification(done.verification)
