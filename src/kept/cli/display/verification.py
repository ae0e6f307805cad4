"""Output of `kept verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.cli.display.console import hint, make_table, printer
from kept.cli.display.plan import print_domain

if TYPE_CHECKING:
    from kept.verification.parity import Parity
    from kept.verification.verify import Verification


def verification(found: Verification) -> None:
    """`kept verify`."""
    console = printer()
    table = make_table(
        "against the source in float64", "max logit error", "mean", "KL nats/token", "top-1", "perplexity"
    )
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
    print_domain(console, found.domain)
    console.print(f"promise {found.promise}: {found.verdict}", markup=False)
