"""Measurement of an output against its source: which weights are equal, and what the logits differ by.

1. The weights are compared. If both have the same parts, they compute the same to the bit, and nothing is run.
2. If one of them has other tokens, or other layers whose weights add zero, both are run in the output's dtype, in case
   such a layer overflows. Equal layers are run once, so this costs a run of the source and of each other layer.
3. Otherwise both are run in the output's dtype, and source and plan in float64 on the first of these tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kept.ir.tensors import torch_dtype
from kept.verification.equal_parts import adds_nothing, compared_bytes, equal_sources, equal_values
from kept.verification.lockstep import Lane
from kept.verification.parity import Parity, measure
from kept.verification.streamed import StreamedRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from kept.ir.program import Program
    from kept.ir.promise import Claim
    from kept.reporting import Reporter
    from kept.verification.equal_parts import EqualParts

    Progress = Callable[[int], None]

DOUBLE_TOKENS, FEW_DOUBLE_TOKENS = 64, 32
"""Number of tokens that are run in float64, the first of the first row; and of models of `LARGE` parameters or more.

With 16 tokens the errors of two correct outputs can differ by nearly as much as the bounds on them allow (LOG.md).
"""

LARGE = 300_000_000


@dataclass(frozen=True)
class PairParity:
    """What was measured of an output and its source.

    `copied`: both have the same parts, and layers that only one of them has add zero; nothing was run if `same` is
    None. `same`: the output against the source, both in the output's dtype. Against the source in float64, on the
    first `DOUBLE_TOKENS` tokens (`FEW_DOUBLE_TOKENS` of a large model): `proof` is the plan in float64, `output` the
    output and `floor` the source in the output's dtype. They are None if nothing had to be run in float64.
    """

    copied: bool
    same: Parity | None = None
    proof: Parity | None = None
    output: Parity | None = None
    floor: Parity | None = None


@dataclass(frozen=True)
class ModelPair:
    """A source, an output, the claim that relates them, and the tokens (B, T) to compare them on."""

    source: Program
    output: Program
    claim: Claim
    tokens_BT: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most of the output's weights, in which both are run."""
        return torch_dtype(self.output.dtype)

    def measure(self, reporter: Reporter) -> PairParity:
        """Return what the pair differs by, with as little arithmetic as that takes."""
        size = compared_bytes(self.source, self.output, self.claim)
        with reporter.stage("compare weights", size, "bytes") as advance:
            equal = equal_values(self.source, self.output, self.claim, self.dtype, advance)
            copied = equal.complete and self._others_add_nothing
        if copied and not (self.claim.copies or self.claim.dropped or self.claim.tokens is not None):
            return PairParity(copied=True)
        if copied:
            with reporter.stage("verify", self.source.spec.depth + self.output.spec.depth, "layers") as advance:
                (same,) = measure([self._as_stored(equal, advance)], self.claim.tokens)
            if same.identical:
                return PairParity(copied=True, same=same)
        with reporter.stage("verify", self._layer_runs, "layers") as advance:
            return self._with_double(equal, advance)

    @property
    def _others_add_nothing(self) -> bool:
        """Whether the layers that only one side has add zero, by their weights."""
        source, output = ((self.source, self.claim.dropped), (self.output, self.claim.copies))
        return all(adds_nothing(program, layer) for program, layers in (source, output) for layer in layers)

    @property
    def _layer_runs(self) -> int:
        plans = 1 if self.claim.program is None else 2
        return 2 * self.source.spec.depth + plans * self.output.spec.depth

    def _with_double(self, equal: EqualParts, advance: Progress) -> PairParity:
        floor, output = self._as_stored(equal, advance)
        few = self.source.parameters >= LARGE
        tokens_BT = self.tokens_BT[:1, : FEW_DOUBLE_TOKENS if few else DOUBLE_TOKENS]
        exact = Lane(self._source(torch.float64), tokens_BT, progress=advance)
        pairs = [(floor, output), (exact, output), (exact, floor)]
        plan = self.claim.program
        if plan is not None:
            shared = equal_sources(self.source, plan, self.claim)
            pairs.append((exact, Lane(self._changed(plan, torch.float64), tokens_BT, exact, shared, advance)))
        found = measure(pairs, self.claim.tokens)
        return PairParity(
            copied=False, same=found[0], proof=None if plan is None else found[3], output=found[1], floor=found[2]
        )

    def _as_stored(self, equal: EqualParts, advance: Progress) -> tuple[Lane, Lane]:
        """Return the lanes of source and output in the output's dtype."""
        floor = Lane(self._source(self.dtype), self.tokens_BT, progress=advance)
        return floor, Lane(self._changed(self.output, self.dtype), self.tokens_BT, floor, equal, advance)

    def _source(self, dtype: torch.dtype) -> StreamedRun:
        return StreamedRun(self.source, dtype, frozenset(self.claim.dropped))

    def _changed(self, program: Program, dtype: torch.dtype) -> StreamedRun:
        return StreamedRun(program, dtype, frozenset(self.claim.copies), self.claim.stream)
