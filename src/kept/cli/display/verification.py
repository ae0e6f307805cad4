"""Output of `kept verify`, and of the verification of each conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.cli.display.console import hint, make_table, printer
from kept.cli.display.plan import print_domain
from kept.output.verification_words import double_runs, figures, headline, tokens_of

if TYPE_CHECKING:
    from kept.verification.verify import Continuation, Verification


def verification(found: Verification, *, verbose: bool = False, source: str = "the source") -> None:
    """`kept verify`: the result in one line, then the promise. `verbose` adds the comparison with float64."""
    console = printer()
    console.print(headline(found, source), markup=False, soft_wrap=True)
    if verbose:
        _double(console, found)
    _continuations(console, found.continuations, verbose=verbose)
    for note in found.notes:
        hint(note)
    print_domain(console, found.domain)
    console.print(f"promise {found.promise}: {found.verdict}", markup=False)


def _double(console: Any, found: Verification) -> None:  # noqa: ANN401 - rich is imported late
    """Print the comparison with the source in float64, if one was needed."""
    runs, out = double_runs(found), found.output
    if out is None:
        console.print("nothing had to be run in float64")
        return
    title = f"against the source in float64, {out.tokens:,} {tokens_of(found)}"
    table = make_table(title, "max logit error", "mean", "KL nats/token", "top-1", "perplexity")
    for name, run in runs:
        table.add_row(name, *figures(run))
    console.print(table)
    spread = f"logit std {out.logit_std:.3g}; source perplexity {out.perplexity_reference:.4f}"
    console.print(f"{found.text}; {spread}", markup=False)
    console.print("relative error after each layer: " + " ".join(f"{error:.1e}" for error in out.layers[1:]))


def _continuations(console: Any, pairs: tuple[Continuation, ...], *, verbose: bool) -> None:  # noqa: ANN401 - as above
    """Print the continuations that differ; all if `verbose`."""
    for pair in pairs:
        same = pair.source == pair.output
        if verbose or not same:
            console.print(f"  {pair.prompt!r} -> {pair.source!r}" + (" (both)" if same else ""), markup=False)
        if not same:
            console.print(f"  {' ' * len(repr(pair.prompt))} -> {pair.output!r} (output)", markup=False)
