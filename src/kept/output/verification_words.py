"""A verification in words, the result first: the same sentences in terminal, model card and page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.output.record import ParityRecord, VerificationRecord
    from kept.verification.parity import Parity
    from kept.verification.verify import Verification

    Measured = Parity | ParityRecord

RANDOM = "random tokens"
"""How the text of a verification begins if the checkpoint has no tokenizer."""


def headline(found: Verification | VerificationRecord, source: str = "the source") -> str:
    """Return how far an output is from its source, both in the output's dtype, as one phrase."""
    if found.same is None and not found.copied:
        return f"measured against {source} in float64"
    if found.same is None:
        return f"identical to the bit: architecture and weights are those of {source} (in {found.dtype})"
    where = f"{found.same.tokens:,} {tokens_of(found)}, {found.dtype}"
    if found.same.max_logit_error == 0:
        return f"identical to the bit ({where})"
    own = "" if found.floor is None else f"; {source}'s own rounding is {_short(found.floor.max_logit_error)}"
    return f"largest logit difference {_short(found.same.max_logit_error)} ({where}){own}"


def tokens_of(found: Verification | VerificationRecord) -> str:
    """Return `random tokens` or `tokens`, by what the models were run on."""
    return RANDOM if found.text.startswith(RANDOM) else "tokens"


def double_runs(
    found: Verification | VerificationRecord, source: str = "the source", output: str = "the output"
) -> list[tuple[str, Measured]]:
    """Return what was measured against the source in float64, by name: output, source and plan."""
    runs: Iterator[tuple[str, Measured | None]] = iter(
        (
            (f"{output}, in {found.dtype}", found.output),
            (f"{source}, in {found.dtype}", found.floor),
            ("the plan, in float64", found.proof),
        )
    )
    return [(name, run) for name, run in runs if run is not None]


def figures(run: Measured) -> tuple[str, str, str, str, str]:
    """Return largest and mean logit error, KL in nats per token, top-1 agreement and perplexity of a run."""
    kl = run.kl if math.isnan(run.kl) else max(run.kl, 0)  # rounding may leave a negative remainder of zero
    errors = _short(run.max_logit_error), _short(run.mean_logit_error), _short(kl)
    return (*errors, f"{100 * run.top1:.2f} %", f"{run.perplexity:.4f}")


def _short(value: float) -> str:
    return f"{value:.2g}"
