"""Store norm biases in a reserved constant direction of the residual stream, for targets without biases."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from kept.ir.promise import Promise
from kept.ir.slots import readings
from kept.ir.stream_map import StreamMap
from kept.ir.tensors import Computed, Full, Lazy
from kept.passes.base import NO_OPTION, UNNEEDED, Obstacle, Pass
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.fold_multipliers import FoldMultipliers
from kept.passes.map_spec import map_readers

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from kept.ir.program import Program
    from kept.ir.slots import NormReaders
    from kept.ir.spec import Norm, Spec

CARRIED = 0.4
"""The constant, as a fraction of the embeddings' mean length.

A larger constant scales short residual streams down, a smaller one is lost in the rounding of long ones. The KL of a
trained Orion changes little from 0.02 to 0.8 (LOG.md).
"""


@dataclass(frozen=True)
class Unmeasured:
    """A placeholder for a measurement in a plan that is only printed."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class CarryNormBias(Pass):
    """The projections that read a norm get its bias from a constant direction of the residual stream. LOSSY.

    A centred residual stream x does not use the direction u = 1/sqrt(d). The embedding adds c u, no other weight writes
    to u. An RMSNorm of gain 1 outputs k u there, with k = sqrt(d) c / sqrt(|x|^2 + c^2 + d eps), and scales x_hat by
    s = sqrt((|x|^2 + d eps) / (|x|^2 + c^2 + d eps)). A reader W of `gain * x_hat + bias` becomes
    `W diag(gain) (I - u u') / s + (W bias) u' / a`. This needs no bias, and is exact if k and s are constant; they vary
    with |x|. The constants a = E[k^2] / E[k] and, likewise, s are measured: `lengths` has the |x| that each norm reads.
    Adds no parameters.
    """

    lengths: Mapping[str, torch.Tensor] = field(metadata=NO_OPTION)

    name: ClassVar[str] = "carry-norm-bias"
    summary: ClassVar[str] = "norm biases are stored in a reserved constant direction of the residual stream"

    def promise(self, program: Program) -> Promise:  # noqa: ARG002 - holds for any program
        """Return LOSSY: the change is measured."""
        return Promise.LOSSY

    def requires(self, program: Program) -> Obstacle | None:
        """Require RMSNorms with a bias on a centred residual stream without multipliers, and measured lengths."""
        spec = program.spec
        if not spec.centred or any(reading.value.kind != "rms" for reading in readings(spec)):
            return Obstacle("norms", "are not RMSNorms of a centred stream", way_out="run layernorm-to-rmsnorm first")
        if not any(reading.value.bias for reading in readings(spec)):
            return Obstacle("norms", "have no bias", way_out=UNNEEDED)
        if spec.embedding_multiplier != 1:
            return Obstacle("embedding", "is multiplied when the model runs", FoldMultipliers())
        if spec.head.normalised:
            return Obstacle("head", "is normalised when the model runs", FoldHeadNorm())
        missing = next((r.norm for r in readings(spec) if r.norm not in self.lengths), None)
        if missing is not None:
            return Obstacle(missing, "has no measured lengths", way_out="give text to measure on (--text FILE)")
        return None

    def stream(self, program: Program) -> StreamMap:
        """Return the map that adds the constant; without a value if the lengths are placeholders."""
        first = self.lengths[_first_norm(program.spec)]
        return StreamMap(constant=None if isinstance(first, Unmeasured) else constant(first))

    def run(self, program: Program) -> Program:
        """Add the constant to the embedding, and rewrite every reader."""
        spec, embedding = program.spec, program.weights["embedding.weight"]
        written = partial(_raised, lengths=self.lengths[_first_norm(spec)])
        changed: dict[str, Lazy] = {
            "embedding.weight": Computed(embedding.shape, embedding.dtype, written, (embedding,), local=True)
        }
        for reading in readings(spec):
            changed |= self._carried(program, reading)
        return program.updated(replace(map_readers(spec, _plain), centred=False), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether no norm has a bias."""
        return not any(reading.value.bias for reading in readings(spec))

    def _carried(self, program: Program, reading: NormReaders) -> dict[str, Lazy]:
        norm, dtype, size = reading.value, program.dtype, (program.spec.width,)
        ones = Full(size, dtype, 1.0)
        gain = program.weights.get(f"{reading.norm}.gain", Full(size, dtype, 0.0))
        bias = program.weights.get(f"{reading.norm}.bias", Full(size, dtype, 0.0))
        offset = norm.offset if norm.gain else 1.0
        first, own = self.lengths[_first_norm(program.spec)], self.lengths[reading.norm]
        read = partial(_read, offset=offset, first=first, lengths=own, eps=norm.eps)
        out: dict[str, Lazy] = {f"{reading.norm}.gain": ones}
        for name in reading.projections:
            matrix = program.weights[f"{name}.weight"]
            out[f"{name}.weight"] = Computed(matrix.shape, matrix.dtype, read, (matrix,), (gain, bias), local=True)
        return out


def _first_norm(spec: Spec) -> str:
    """Return the name of the norm that reads the embedding."""
    return next(reading.norm for reading in readings(spec))


def _plain(norm: Norm) -> Norm:
    return replace(norm, gain=True, offset=0.0, bias=False)


def constant(first: torch.Tensor) -> float:
    """Return c, from the lengths of the residual streams that the first norm reads."""
    return CARRIED * float(first.mean())


def means(lengths: torch.Tensor, carried: float, width: int, eps: float) -> tuple[float, float]:
    """Return the constants a and s for residual streams of these lengths, (tokens,), and a stored constant c."""
    own = lengths.double().square() + width * eps
    a = math.sqrt(width) * carried * (own + carried**2).rsqrt()
    s = (own / (own + carried**2)).sqrt()
    return float(a.square().mean() / a.mean()), float(s.square().mean() / s.mean())


def _raised(embedding: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return embedding + constant(lengths) / math.sqrt(embedding.shape[1])


def _read(
    matrix: torch.Tensor,
    gain: torch.Tensor,
    bias: torch.Tensor,
    *,
    offset: float,
    first: torch.Tensor,
    lengths: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    width = matrix.shape[1]
    a, s = means(lengths, constant(first), width, eps)
    wide = matrix.double()  # the same in blocks of any size
    gained = wide * (offset + gain.double())
    carried = wide @ bias.double() / (a * math.sqrt(width))
    return ((gained - gained.mean(1, keepdim=True)) / s + carried[:, None]).to(matrix.dtype)
