"""Verification of a conversion: measured parity against the promise of its passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch

from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.ir.promise import Promise
from kept.ir.tensors import TORCH_NAMES
from kept.nn.generate import generate
from kept.nn.model import Model
from kept.reporting import Silent
from kept.summary import Summarised
from kept.verification.pair import ModelPair

if TYPE_CHECKING:
    from torch import Tensor

    from kept.ir.program import Program
    from kept.ir.promise import Claim
    from kept.loaded import LoadedModel
    from kept.reporting import Reporter
    from kept.verification.pair import PairParity
    from kept.verification.parity import Parity
    from kept.verification.text import Sample

PROOF = 1e-9
"""Largest logit error, relative to the logits' standard deviation, of an EXACT plan in float64."""

FLOOR = 1.5
"""How far above the dtype's own noise the mean logit error of an EXACT output may be (its square for the KL).

The noise is measured: the source itself run in that dtype. A correct output has as many roundings as the source.
"""

APPROXIMATE_KL = 0.1
"""Nats per token that an APPROXIMATE conversion may differ by."""

PROMPTS = ("Once upon a time", "The ", "def merge(left, right):\n")

GREEDY_TOKENS = 24

DECODED, STEPS = 8, 2
"""Tokens that are read in one pass, and again with the last ones one by one, to compare decoding with a whole pass."""

DECODING = 1e-2
"""Largest logit error of decoding in float32, in standard deviations of the logits. Rounding alone makes about 1e-5."""


@dataclass(frozen=True)
class Continuation:
    """One prompt continued greedily by both models."""

    prompt: str
    source: str
    output: str


@dataclass(frozen=True, repr=False)
class Verification(Summarised):
    """Measurements of a conversion against its promise.

    `same`: the output against the source, both run in the output's dtype; None if no arithmetic was needed. `copied`:
    every weight of the source was found in the output, and new layers add zero. The next three are measured against
    the source in float64, and are None where that was not needed. `proof`: the plan in float64, before any rounding.
    `output`: the written weights in their own dtype. `floor`: the source in that dtype.
    `altered`: weight files that differ from the conversion's record. `domain`: where the promise holds, in phrases that
    complete "the promise holds"; empty for everywhere. `decoding`: the output's largest logit error when it decodes,
    against a whole pass, in standard deviations of the logits; None if it was not measured.
    """

    promise: Promise
    text: str
    dtype: str
    copied: bool
    same: Parity | None
    proof: Parity | None
    output: Parity | None
    floor: Parity | None
    continuations: tuple[Continuation, ...]
    notes: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    domain: tuple[str, ...] = ()
    decoding: float | None = None

    def summary(self) -> dict[str, str]:
        """Return the verdict, and KL divergence and logit difference of the output in its dtype."""
        if self.same is None:
            return {"verdict": self.verdict, "difference": f"identical to the bit ({self.dtype})"}
        return {
            "verdict": self.verdict,
            "text": f"{self.text}, {self.same.tokens} tokens",
            "KL": f"{max(self.same.kl, 0.0):.3g} nats per token",
            "largest logit difference": f"{self.same.max_logit_error:.3g} ({self.dtype})",
        }

    @property
    def identical(self) -> bool:
        """Whether the output computes what the source computes in the output's dtype, to the bit."""
        return self.copied if self.same is None else self.same.identical

    @property
    def failure(self) -> str | None:
        """Why the promise is broken; None where it is kept, or where a LOSSY conversion promised nothing."""
        measured = judge(self.promise, self)
        if measured is None and self.decoding is not None and not self.decoding <= DECODING:
            return f"decoding differs from a whole pass by {self.decoding:.3g} standard deviations of the logits"
        if measured is None and self.altered:
            return f"{', '.join(self.altered)}: changed since the conversion wrote it"
        return measured

    @property
    def verdict(self) -> str:
        """The verdict as one phrase."""
        return self.promise.verdict(self.failure)


def judge(promise: Promise, found: PairParity | Verification) -> str | None:
    """Return the first measurement that breaks the promise, in words; None if it is kept."""
    if found.same is None:
        return None
    if not math.isfinite(found.same.max_logit_error) or not math.isfinite(found.same.kl):
        return "the output's logits are not finite"
    if promise is Promise.EXACT and found.output is not None and found.floor is not None:
        return _judge_exact(found.proof, found.output, found.floor) or _judge_same(found.same, found.floor)
    if promise is Promise.APPROXIMATE and found.same.kl > APPROXIMATE_KL:
        return f"KL is {found.same.kl:.3g} nats per token, above {APPROXIMATE_KL}"
    return None


def _judge_exact(proof: Parity | None, output: Parity, floor: Parity) -> str | None:
    # NaN compares false, so each test states the condition that must hold.
    if proof is not None and not proof.max_logit_error <= PROOF * max(proof.logit_std, 1.0):
        return f"in float64 the logits differ by up to {proof.max_logit_error:.3g}: the map is not exact"
    if not output.mean_logit_error <= FLOOR * floor.mean_logit_error + PROOF:
        ratio = output.mean_logit_error / max(floor.mean_logit_error, 1e-300)
        return f"the mean logit error is {ratio:.3g} times the noise of {floor.mean_logit_error:.3g}"
    if not output.kl <= FLOOR**2 * floor.kl + PROOF:
        return f"KL is {output.kl:.3g} nats per token, the dtype's own noise is {floor.kl:.3g}"
    return None


def _judge_same(same: Parity, floor: Parity) -> str | None:
    """Judge the positions beyond those that are run in float64.

    The difference of output and source is at most the sum of their errors: 1 + FLOOR times the source's.
    """
    if not same.mean_logit_error <= (1 + FLOOR) * floor.mean_logit_error + PROOF:
        ratio = same.mean_logit_error / max(floor.mean_logit_error, 1e-300)
        return f"over {same.tokens} tokens the mean logit difference is {ratio:.3g} times the noise of the source"
    return None


def verify_pair(
    source: LoadedModel,
    output: LoadedModel,
    sample: Sample,
    claim: Claim,
    *,
    streamed: bool = False,
    reporter: Reporter | None = None,
) -> Verification:
    """Measure a pair layer by layer, and the claim's program too where it has one.

    `streamed` leaves out the greedy continuations, for which both models must be in memory; so does a machine
    without that memory. An output that is the source to the bit is not run again.
    """
    reporter = reporter or Silent()
    pair = ModelPair(source.program, output.program, claim, sample.tokens_BT)
    found = pair.measure(reporter)
    run = not found.copied and not streamed and fits(source.program, output.program)
    model = Model.load(output.program, torch.float32) if run else None
    continuations = () if model is None else side_by_side(source, output, model, reporter)
    decoding = None if model is None else decoding_error(model, sample.tokens_BT[:1, :DECODED])
    return Verification(
        promise=claim.promise,
        text=sample.origin,
        dtype=TORCH_NAMES[output.program.dtype],
        copied=found.copied,
        same=found.same,
        proof=found.proof,
        output=found.output,
        floor=found.floor,
        continuations=continuations,
        notes=() if run or found.copied else ("greedy continuations need both models in memory and were left out",),
        domain=claim.domain,
        decoding=decoding,
    )


@torch.inference_mode()
def decoding_error(model: Model, tokens_BT: Tensor) -> float:
    """Return the largest logit error of a prefix and single steps against a whole pass, in standard deviations."""
    state, whole_BTV = model.empty_state(), model(tokens_BT)
    prefix = max(1, tokens_BT.shape[1] - STEPS)
    pieces = (tokens_BT[:, :prefix], *(tokens_BT[:, t : t + 1] for t in range(prefix, tokens_BT.shape[1])))
    found_BTV = torch.cat([model(piece_BT, state) for piece_BT in pieces], dim=1)
    return float((found_BTV - whole_BTV).abs().max() / whole_BTV.std().clamp(min=1e-30))


def side_by_side(
    source: LoadedModel, output: LoadedModel, model: Model, reporter: Reporter
) -> tuple[Continuation, ...]:
    """Return both models' greedy continuations of a few prompts: one batch for each. `model` is the output's.

    All get as many tokens as the longest prompt leaves room for. Prompts that leave none are left out.
    """
    readers = TokenizerReader(source.path), TokenizerReader(output.path)
    if readers[0].file is None:
        return ()
    context = min(source.program.spec.context, output.program.spec.context)
    encoded = {prompt: readers[0].encode(prompt) for prompt in PROMPTS}
    fitting = {prompt: ids for prompt, ids in encoded.items() if 0 < len(ids) < context}
    if not fitting:
        return ()
    prompts = list(fitting.values())
    room = min(GREEDY_TOKENS, context - max(map(len, prompts)))
    with reporter.stage("continue texts", 2, "models") as advance:
        written = generate(model, prompts, room)
        advance(1)
        first = generate(Model.load(source.program, torch.float32), prompts, room)
        advance(1)
    found = first, written
    texts = [map(reader.continuation, prompts, ids) for reader, ids in zip(readers, found, strict=True)]
    return tuple(map(Continuation, fitting, *texts))


def before_and_after(earlier: LoadedModel, output: LoadedModel) -> tuple[Continuation, ...]:
    """Return greedy continuations of a model before and after training; none if both do not fit in memory."""
    if not fits(earlier.program, output.program):
        return ()
    return side_by_side(earlier, output, Model.load(output.program, torch.float32), Silent())


def fits(*programs: Program) -> bool:
    """Return whether the programs fit in half of the available memory, in float32."""
    needed = 4 * sum(program.parameters for program in programs)
    return needed < free_memory() / 2


def free_memory() -> int:
    """Return the bytes of memory that are available without swapping."""
    return int(psutil.virtual_memory().available)
