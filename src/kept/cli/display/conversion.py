"""Output of `kept convert`, `kept expand` and `kept demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kept.cli.display.console import hint, printer
from kept.cli.display.plan import plan_table, print_domain
from kept.cli.display.verification import verification
from kept.errors import shown
from kept.formatting import amount

if TYPE_CHECKING:
    from kept.commands.convert import Conversion, DryRun
    from kept.demo import Demo
    from kept.passes.plan import Plan


def rehearsal_table(done: DryRun) -> dict[str, Any]:
    """Return a dry run as plain data."""
    sizes = {"new_layers": [*done.plan.new_layers], "files": dict(done.files), "bytes": done.nbytes, "free": done.free}
    return {"out": str(done.path), **plan_table(done.plan), **sizes}


def rehearsal(done: DryRun) -> None:
    """`kept convert --dry-run`."""
    console = printer()
    names = ", ".join(step.rewrite.name for step in done.plan.steps) or "nothing to change"
    console.print(f"{done.path}: would be written ({names}; {done.plan.promise})")
    print_domain(console, done.plan.domain)
    _expansions(console, done.plan)
    for name, size in done.files.items():
        console.print(f"  {name}  {amount(size, 'bytes')}")
    total, free = amount(done.nbytes, "bytes"), amount(done.free, "bytes")
    console.print(f"{total}, plus model card and kept.json; {free} are free; nothing was written")
    for note in done.notes:
        hint(note)


def conversion(done: Conversion, *, verbose: bool = False) -> None:
    """`kept convert`."""
    console = printer()
    names = ", ".join(step.rewrite.name for step in done.plan.steps) or "nothing to change"
    console.print(f"{done.path}: written ({names})")
    _expansions(console, done.plan)
    if done.verification is not None:
        verification(done.verification, verbose=verbose)
    for note in done.notes:
        hint(note)


def _expansions(console: Any, plan: Plan) -> None:  # noqa: ANN401 - rich is imported late
    """Return a line for each block expansion: its groups, and the new layers with the layers they copy."""
    for one in plan.expansions:
        if one.sizes:
            console.print(f"groups of {', '.join(map(str, one.sizes))} layers")
        pairs = (
            f"{new} (of {'a removed layer' if old is None else old})"
            for new, old in zip(one.layers, one.copies_of, strict=True)
        )
        console.print(f"new layers, copies whose output is zero: {', '.join(pairs)}")

    for new in plan.vocabularies:
        console.print(
            f"new tokens: {len(new.grown.parts)}, from id {new.grown.first} on (initial rows: {new.embedding_init})"
        )
        console.print(
            "texts with new tokens get worse until the new rows are trained; other texts are processed as before"
        )


def demo(done: Demo) -> None:
    """`kept demo`."""
    conversion(done.conversion)
    click.echo(shown(f"page: {done.page}"))
