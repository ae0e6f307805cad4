"""A verification in words, the result first: the same sentences in terminal, model card and page."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kept.output.record import ParityRecord, VerificationRecord
    from kept.verification.parity import Parity
    from kept.verification.verify import Verification

    Measured = Parity | ParityRecord

RANDOM = "random tokens"
"""How the text of a verification begins if the checkpoint has no tokenizer."""

BUILT_IN = "the built-in sample"
"""How it begins if the user named none."""


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
    proved = "" if found.proof is None else f"; in float64 the difference is {_short(found.proof.max_logit_error)}"
    return f"largest logit difference {_short(found.same.max_logit_error)} ({where}){own}{proved}"


def tokens_of(found: Verification | VerificationRecord) -> str:
    """Return `random tokens` or `tokens`, by what the models were run on."""
    return RANDOM if found.text.startswith(RANDOM) else "tokens"


def text_of(found: Verification | VerificationRecord) -> str:
    """Return the name of the text that the models were run on: without languages and folders."""
    if found.text.startswith(BUILT_IN):
        return BUILT_IN
    return RANDOM if found.text.startswith(RANDOM) else PurePath(found.text).name


def double_runs(
    found: Verification | VerificationRecord, source: str = "the source", output: str = "the output"
) -> list[tuple[str, Measured]]:
    """Return what was measured against the source in float64, by name: output, source and rewritten model."""
    runs: Iterator[tuple[str, Measured | None]] = iter(
        (
            (f"{output}, in {found.dtype}", found.output),
            (f"{source}, in {found.dtype}", found.floor),
            ("the rewritten model, in float64", found.proof),
        )
    )
    return [(name, run) for name, run in runs if run is not None]


def equal_runs(runs: Sequence[tuple[str, Measured]]) -> str:
    """Return which rows of `double_runs` are equal, in a sentence; empty if output and source differ."""
    same = len(runs) > 1 and runs[0][1] == runs[1][1]
    return "The first two rows are equal." if same else ""


def figures(run: Measured) -> tuple[str, str, str, str, str]:
    """Return largest and mean logit error, KL in nats per token, top-1 agreement and perplexity of a run."""
    kl = run.kl if math.isnan(run.kl) else max(run.kl, 0)  # rounding may leave a negative remainder of zero
    errors = _short(run.max_logit_error), _short(run.mean_logit_error), _short(kl)
    return (*errors, f"{100 * run.top1:.2f} %", f"{run.perplexity:.4f}")


def _short(value: float) -> str:
    return f"{value:.2g}"
