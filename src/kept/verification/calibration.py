"""Statistics of the inputs of each norm over calibration tokens, one layer at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kept.ir.slots import readings
from kept.nn.norm import NormModule
from kept.verification.streamed import StreamedRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.ir.program import Program


TINY = 1e-300
"""Smallest denominator: a stream or norm that is zero everywhere has error 0."""


@dataclass(frozen=True)
class NormStatistics:
    """One norm over calibration tokens (METHODS of arXiv 2605.25676, OPM).

    `mean_to_std`: mean of |mu| / sigma. `bias_to_gain`: norm of the bias over that of the gain. `error_copied` and
    `error_calibrated`: relative error of the RMSNorm with the copied gain and with the calibrated one, no bias.
    `gain` is the calibrated one, `E[r LN] / E[r^2]` with r = x / rms(x). `lengths` (tokens,): of the streams less their
    means.
    """

    mean_to_std: float
    bias_to_gain: float
    error_copied: float
    error_calibrated: float
    gain: Tensor
    lengths: Tensor


@torch.inference_mode()
def calibrate(
    program: Program, tokens_BT: Tensor, progress: Callable[[int], None] | None = None
) -> dict[str, NormStatistics]:
    """Return the statistics of every LayerNorm on the residual stream, by name."""
    run, out = StreamedRun(program, torch.float32), {}  # type: tuple[StreamedRun, dict[str, NormStatistics]]
    x_BTD, context = run.enter(tokens_BT)
    for i in range(program.spec.depth):
        block = run.block(i)
        for one in block.runs(x_BTD, context):
            norm = block.get_submodule(one.branch.norm_name)
            assert isinstance(norm, NormModule)
            out.setdefault(f"layers.{i}.{one.branch.norm_name}", _statistics(norm, one.stream_BTD, one.input_BTD))
            x_BTD = one.after_BTD
        if progress is not None:
            progress(1)
    final = run.final_norm()
    out["final_norm"] = _statistics(final, x_BTD, final(x_BTD))
    kinds = {reading.norm: reading.value.kind for reading in readings(program.spec)}
    return {name: found for name, found in out.items() if kinds[name] == "layer"}


def _statistics(norm: NormModule, x_BTD: Tensor, normed_BTD: Tensor) -> NormStatistics:
    x_ND, wanted_ND = x_BTD.flatten(0, 1).double(), normed_BTD.flatten(0, 1).double()
    r_ND = x_ND * torch.rsqrt(x_ND.square().mean(-1, keepdim=True) + norm.spec.eps)
    gain = (r_ND * wanted_ND).sum(0) / r_ND.square().sum(0).clamp(min=TINY)
    copied = torch.ones_like(gain) if norm.gain is None else norm.gain.double() + norm.spec.offset
    bias = 0.0 if norm.bias is None else float(norm.bias.double().norm())
    return NormStatistics(
        mean_to_std=float((x_ND.mean(-1).abs() / x_ND.std(-1, correction=0).clamp(min=TINY)).mean()),
        bias_to_gain=bias / max(float(copied.norm()), TINY),
        error_copied=float((r_ND * copied - wanted_ND).norm() / wanted_ND.norm().clamp(min=TINY)),
        error_calibrated=float((r_ND * gain - wanted_ND).norm() / wanted_ND.norm().clamp(min=TINY)),
        gain=gain,
        lengths=(x_ND - x_ND.mean(-1, keepdim=True)).norm(dim=-1),
    )
