"""LayerNorm to RMSNorm, in four modes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from kept.ir.promise import Promise
from kept.ir.slots import readings
from kept.ir.tensors import InMemory, Lazy
from kept.passes.base import NO_OPTION, Obstacle, Pass
from kept.passes.centre import Centre
from kept.passes.map_spec import map_readers

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from kept.ir.program import Program
    from kept.ir.spec import Norm, Spec

Mode = Literal["exact", "opm", "opm-centred", "calibrated"]
MODES: tuple[Mode, ...] = ("exact", "opm", "opm-centred", "calibrated")

NormMode = Literal[Mode, "carried"]
NORM_MODES: tuple[NormMode, ...] = (*MODES, "carried")
"""Treatments of norms in a conversion. carried: exact, then norm biases are stored in the residual stream."""

MEASURED: tuple[NormMode, ...] = ("calibrated", "carried")
"""Those that measure on text."""


@dataclass(frozen=True)
class LayerNormToRms(Pass):
    """Every LayerNorm of the residual stream becomes an RMSNorm.

    exact: on a centred stream both are equal; gain and bias stay. EXACT.
    opm: the gain is copied and the bias dropped (arXiv 2605.25676, OPM). LOSSY.
    opm-centred: as opm, on a centred stream, so that only the bias is lost. LOSSY.
    calibrated: `g_i = E[r_i LN_i] / E[r_i^2]`, r = x / rms(x), from `gains` measured on text. LOSSY.
    """

    mode: Mode = "exact"
    gains: Mapping[str, torch.Tensor] | None = field(default=None, metadata=NO_OPTION)

    name: ClassVar[str] = "layernorm-to-rmsnorm"
    summary: ClassVar[str] = "LayerNorm becomes RMSNorm"

    def promise(self, program: Program) -> Promise:  # noqa: ARG002 - the mode decides
        """Return EXACT in exact mode, else LOSSY."""
        return Promise.EXACT if self.mode == "exact" else Promise.LOSSY

    def requires(self, program: Program) -> Obstacle | None:
        """Require a centred stream for exact and opm-centred, measured gains for calibrated."""
        if self.mode in {"exact", "opm-centred"} and not program.spec.centred:
            return Obstacle("residual stream", "has a mean that RMSNorm would keep", Centre())
        if self.mode == "calibrated":
            names = [r.norm for r in readings(program.spec) if r.value.kind == "layer"]
            missing = next((name for name in names if name not in (self.gains or {})), None)
            if missing is not None:
                return Obstacle(missing, "has no measured gain", way_out="give text to calibrate on (--text FILE)")
        return None

    def run(self, program: Program) -> Program:
        """Change the kind of norm; unless exact, drop the bias; if calibrated, set the gain."""
        spec = map_readers(program.spec, self._converted)
        changed: dict[str, Lazy] = {}
        if self.mode == "calibrated" and self.gains is not None:
            layer_norms = [r.norm for r in readings(program.spec) if r.value.kind == "layer"]
            changed = {
                f"{n}.gain": InMemory(tuple(self.gains[n].shape), program.dtype, self.gains[n]) for n in layer_norms
            }
        return program.updated(spec, changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether no LayerNorm reads the residual stream."""
        return all(reading.value.kind != "layer" for reading in readings(spec))

    def _converted(self, norm: Norm) -> Norm:
        if norm.kind != "layer":
            return norm
        if self.mode == "exact":
            return replace(norm, kind="rms")
        if self.mode == "calibrated":
            return replace(norm, kind="rms", bias=False, gain=True, offset=0.0)
        return replace(norm, kind="rms", bias=False)
