"""Remove the bias of the logits: store it in an added layer, or drop it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from kept.ir.promise import Promise
from kept.ir.slots import layer_slots
from kept.ir.spec import Mlp, Norm
from kept.ir.tensors import Computed, Formula, Full, Lazy, zeros
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.fold_multipliers import FoldMultipliers
from kept.passes.plain_to_gated import PlainToGated
from kept.passes.split_projections import SplitProjections

if TYPE_CHECKING:
    import torch

    from kept.ir.program import Program
    from kept.ir.spec import Layer, Spec

GATE = 32.0
"""The constant gate of the added MLP. Every activation maps it to itself (relu2: to its square) in any float format."""

SIGNAL = 2.0**43
"""The scale of the normalised residual stream that the layer writes. The old one remains, as 1 / SIGNAL of it."""

ANCHOR = 2.0**62
"""The constant coordinate. It dwarfs SIGNAL, so the last norm divides by a constant. Its square fits float32."""


@dataclass(frozen=True)
class AffineTail(Pass):
    """Append a layer so that the bias c of the logits becomes a column of the head. EXACT.

    A centred residual stream has d - 1 dimensions. The Householder reflection Q = I - 2 v v', v parallel to
    1/sqrt(d) - e_d, maps the unused dimension to the last coordinate. The weights of the new layer's attention are
    zero. Its MLP with a constant gate writes SIGNAL * (Q x_hat) to the first d - 1 coordinates and ANCHOR to the last;
    the old residual stream remains, as rms(x) parts in 1e13. The last norm then divides by a constant R. The head reads
    W diag(gain) Q from the first coordinates and c from the last. All constants are powers of two, which are exact in
    any format; the remainder of R is multiplied into the head. Costs one layer.
    """

    name: ClassVar[str] = "affine-tail"
    summary: ClassVar[str] = "an added layer holds the bias of the logits as a constant coordinate"

    def domain(self, program: Program) -> str:  # noqa: ARG002 - holds for any program
        """Return the dtypes in which the result may run, whatever dtype stores its weights."""
        return "in bfloat16, float32 and float64: float16 cannot represent the constants of affine-tail"

    def origins(self, program: Program) -> tuple[int | None, ...]:
        """Return None for the appended layer."""
        return (*super().origins(program), None)

    def requires(self, program: Program) -> Obstacle | None:
        """Require a centred stream, a final RMSNorm, an untied head with bias, d - 1 MLP channels, no float16."""
        spec = program.spec
        if not spec.head.bias:
            return Obstacle("head", "has no bias", way_out=UNNEEDED)
        if not spec.centred or spec.final_norm.kind != "rms":
            return Obstacle("final_norm", "is not an RMSNorm of a centred stream", way_out="use --final-bias drop")
        if spec.final_norm.bias or spec.final_norm.offset:
            return Obstacle("final_norm", "has a bias or an offset of its own", way_out="fold it first")
        if spec.head.tied:
            return Obstacle("head", "is tied to the embedding", way_out="untie it first (pass untie-head)")
        return _layer_obstacle(program)

    def run(self, program: Program) -> Program:
        """Append the layer, and change the last gain and the head."""
        spec, dtype = program.spec, program.dtype
        layer = _tail_layer(spec)
        at = f"layers.{spec.depth}."
        new: dict[str, Lazy] = {at + n: zeros(slot.shape, dtype) for n, slot in layer_slots(layer, spec.width)}
        new.update({f"{at}{name}": value for name, value in _tail_weights(spec, layer, dtype).items()})
        signal, anchor, divisor = _scales(spec.width)
        gain = program.weights.get("final_norm.gain", Full((spec.width,), dtype, 1.0))
        columns = partial(_head, signal=divisor / (SIGNAL * signal), anchor=divisor / (ANCHOR * anchor))
        head, bias = program.weights["head.weight"], program.weights["head.bias"]
        v = Formula((spec.width,), dtype, partial(_unit, width=spec.width))
        new["head.weight"] = Computed(head.shape, dtype, columns, (head, bias), (gain, v), local=True)
        last = partial(_last_gain, width=spec.width, signal=signal, anchor=anchor)
        new["final_norm.gain"] = Computed((spec.width,), dtype, last, (gain,))
        changed = replace(
            spec,
            layers=(*spec.layers, layer),
            final_norm=replace(spec.final_norm, gain=True),
            head=replace(spec.head, bias=False),
            centred=False,
        )
        return program.updated(changed, new)

    def ensures(self, spec: Spec) -> bool:
        """Return whether the head has no bias."""
        return not spec.head.bias


def has_tail(program: Program) -> bool:
    """Return whether the last layer is one that `affine-tail` appended. Reads a bias of that layer."""
    bias = program.weights.get(f"layers.{program.spec.depth - 1}.mlp.down.bias")
    return bias is not None and bool(bias.numbers()[-1] >= SIGNAL)


@dataclass(frozen=True)
class DropHeadBias(Pass):
    """Drop the bias of the logits. APPROXIMATE: a fixed offset of the logits, which verification measures."""

    name: ClassVar[str] = "drop-final-bias"
    summary: ClassVar[str] = "the bias of the logits is dropped"

    def promise(self, program: Program) -> Promise:  # noqa: ARG002 - holds for any program
        """Return APPROXIMATE."""
        return Promise.APPROXIMATE

    def requires(self, program: Program) -> Obstacle | None:
        """Require a bias."""
        return None if program.spec.head.bias else Obstacle("head", "has no bias", way_out=UNNEEDED)

    def run(self, program: Program) -> Program:
        """Drop the bias."""
        return program.updated(replace(program.spec, head=replace(program.spec.head, bias=False)), {})

    def ensures(self, spec: Spec) -> bool:
        """Return whether the head has no bias."""
        return not spec.head.bias


def _layer_obstacle(program: Program) -> Obstacle | None:
    spec, layer, width = program.spec, program.spec.layers[-1], program.spec.width
    at, drop = f"layers.{spec.depth - 1}.mlp", "use --final-bias drop"
    mlp = layer.mlp
    if mlp is None or layer.mixer is None:
        return Obstacle(at, "belongs to a layer with one branch", way_out=drop)
    if not isinstance(mlp, Mlp):
        return Obstacle(at, f"is {mlp.KIND}, the tail needs {Mlp.KIND}", way_out=drop)
    multiplied = layer.residual_multiplier != 1 or spec.head.multiplier != 1
    fixable = (
        (mlp.fused or (layer.attention is not None and layer.attention.fused), "is stored fused", SplitProjections()),
        (not mlp.gated, "has no gate", PlainToGated()),
        (multiplied, "is added with a multiplier", FoldMultipliers()),
    )
    final = (
        (layer.parallel, at, "runs beside the mixer", drop),
        (any(branch.post_norm for branch in layer.branches), at, "has a norm after a branch", drop),
        (mlp.size < width - 1, at, f"has {mlp.size} channels, the tail needs {width - 1}", drop),
        (spec.head.softcap or spec.head.normalised, "head", "caps or normalises its logits", drop),
        (
            program.dtype == "F16",
            "dtype",
            "float16 overflows in the tail",
            "use --dtype bfloat16 or float32, or --final-bias drop",
        ),
    )
    for stands, where, why, way_out in final:
        if stands:
            return Obstacle(where, why, way_out=way_out)
    return next((Obstacle(at, why, fix) for stands, why, fix in fixable if stands), None)


def _tail_layer(spec: Spec) -> Layer:
    last = spec.layers[-1]
    norm = Norm("rms", spec.final_norm.eps)
    assert isinstance(last.mlp, Mlp)
    mlp = replace(last.mlp, gate_bias=True, down_bias=True)
    return replace(last, mlp=mlp, mixer_norm=norm, mlp_norm=norm)


def _tail_weights(spec: Spec, layer: Layer, dtype: str) -> dict[str, Lazy]:
    assert isinstance(layer.mlp, Mlp)
    width, size = spec.width, layer.mlp.size
    opened = GATE * GATE if layer.mlp.activation == "relu2" else GATE

    return {
        "mixer_norm.gain": Full((width,), dtype, 1.0),
        "mlp_norm.gain": Full((width,), dtype, 1.0),
        "mlp.gate.bias": Full((size,), dtype, GATE),
        "mlp.up.weight": Formula((size, width), dtype, partial(_reflection, width=width)),
        "mlp.down.weight": Formula((width, size), dtype, partial(_signal, shape=(width, size), scale=SIGNAL / opened)),
        "mlp.down.bias": Formula((width,), dtype, partial(_anchor, width=width)),
    }


def _scales(width: int) -> tuple[float, float, float]:
    """Return the last norm's two gains, powers of two that scale both parts to about 1, and its divisor R."""
    divisor = math.sqrt(ANCHOR**2 / width + SIGNAL**2)
    signal = 2.0 ** round(math.log2(divisor / SIGNAL))
    anchor = 2.0 ** round(math.log2(divisor / ANCHOR))
    return signal, anchor, divisor


def _householder(width: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the unit vector v of Q = I - 2 v v', which maps 1/sqrt(d) to e_d."""
    import torch  # noqa: PLC0415 - planning needs no torch

    v = torch.full((width,), 1 / math.sqrt(width), dtype=dtype)
    v[-1] -= 1
    unit: torch.Tensor = v / v.norm()
    return unit


def _reflection(start: int, stop: int, dtype: torch.dtype, width: int) -> torch.Tensor:
    """Return the first d - 1 rows of Q, followed by zeros."""
    v = _householder(width, dtype)
    out = v.new_zeros(stop - start, width)
    some = out[: max(0, width - 1 - start)]
    some[:] = -2 * v[start : start + len(some), None] * v[None]
    some.diagonal(start).add_(1)
    return out


def _signal(start: int, stop: int, dtype: torch.dtype, shape: tuple[int, int], scale: float) -> torch.Tensor:
    """Return the projection of the first d - 1 channels to the first d - 1 coordinates, times `scale`."""
    import torch  # noqa: PLC0415 - planning needs no torch

    out = torch.zeros(stop - start, shape[1], dtype=dtype)
    out[: max(0, shape[0] - 1 - start)].diagonal(start).fill_(scale)
    return out


def _anchor(start: int, stop: int, dtype: torch.dtype, width: int) -> torch.Tensor:
    import torch  # noqa: PLC0415 - planning needs no torch

    out = torch.zeros(width, dtype=dtype)
    out[-1] = ANCHOR
    return out[start:stop]


def _last_gain(gain: torch.Tensor, width: int, signal: float, anchor: float) -> torch.Tensor:
    out = gain.new_full((width,), signal)
    out[-1] = anchor
    return out


def _unit(start: int, stop: int, dtype: torch.dtype, width: int) -> torch.Tensor:
    return _householder(width, dtype)[start:stop]


def _head(
    head: torch.Tensor, bias: torch.Tensor, gain: torch.Tensor, v: torch.Tensor, *, signal: float, anchor: float
) -> torch.Tensor:
    along = (head.double() @ (gain.double() * v.double())).to(head.dtype)  # the same in blocks of any size
    out = (head * (gain * signal)).addr_(along, v, alpha=-2 * signal)
    out[:, -1] = bias * anchor
    return out
