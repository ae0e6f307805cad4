"""Output of `kept plan` for a conversion."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kept.cli.display.console import hint, make_table, printer
from kept.formatting import amount, kv_cache, parameters
from kept.output.runtimes import notes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kept.loaded import LoadedModel
    from kept.passes.plan import Plan


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
        "kv_cache": found.program.kv_cache,
        "runtimes": [asdict(note) for note in notes(found)],
    }


def plan(opened: LoadedModel, found: Plan, target: str) -> None:
    """`kept plan`."""
    from kept.checkpoint.companion_files import tokenizer_note

    console = printer()
    console.print(f"{opened.family.name} to {target}: {found.promise}")
    table = make_table("pass", "promise", "cost", "effect")
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
    caches = dict.fromkeys(kv_cache(program.kv_cache) for program in (before, after))
    console.print(f"KV cache {' -> '.join(caches)}")
    print_domain(console, found.domain)
    for runtime in notes(found):
        console.print(f"limited support: {runtime}")
    for note in (*opened.notes, tokenizer_note(opened.path, opened.family.name, target)):
        if note is not None:
            hint(note)


def print_domain(console: Any, domain: Iterable[str]) -> None:  # noqa: ANN401 - rich is imported late
    """Print the domain of a promise."""
    for where in domain:
        console.print(f"the promise holds {where}", markup=False)
