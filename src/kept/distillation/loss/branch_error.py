"""Relative errors of what a branch adds to the residual stream. Shapes: N tokens, D width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kept.distillation.loss.output_head import at_least_float32
from kept.nn.norm import normalise

if TYPE_CHECKING:
    from torch import Tensor

    from kept.ir.spec import Norm


def token_weights(before_ND: Tensor, wanted_ND: Tensor, mask_N: Tensor) -> Tensor:
    """Return the weight of each token, (N,): 1 / mean square of the stream after the branch; 0 where the mask is 0.

    The next norm divides by this root mean square. Without it the few tokens with huge streams, usually the first of
    a sequence, would be the whole error.
    """
    square_N = (at_least_float32(before_ND) + at_least_float32(wanted_ND)).square().mean(-1)
    tiny = torch.finfo(square_N.dtype).tiny
    return torch.where(mask_N != 0, 1 / square_N.clamp(min=tiny), torch.zeros_like(square_N))


def branch_errors(
    before_ND: Tensor, wanted_ND: Tensor, found_ND: Tensor, norm: Norm, mask_N: Tensor
) -> dict[str, Tensor]:
    """Return two squared errors of what a branch adds, each relative to that of a branch which adds nothing.

    `before_ND` is the stream to which it is added, `norm` the next one that reads the sum.
    `branch`: sum w |found - wanted|^2 / sum w |wanted|^2, with `token_weights` w.
    `stream`: the same of the normalised streams n(before + found), n(before + wanted) and n(before).
    """
    before_ND, wanted_ND, found_ND = map(at_least_float32, (before_ND, wanted_ND, found_ND))
    weight_N = token_weights(before_ND, wanted_ND, mask_N)
    branch = _ratio(found_ND - wanted_ND, wanted_ND, weight_N)
    after_ND = normalise(before_ND + wanted_ND, norm)
    counted_N = (mask_N != 0).to(weight_N.dtype)
    found_error_ND = normalise(before_ND + found_ND, norm) - after_ND
    return {"branch": branch, "stream": _ratio(found_error_ND, normalise(before_ND, norm) - after_ND, counted_N)}


def _ratio(error_ND: Tensor, wanted_ND: Tensor, weight_N: Tensor) -> Tensor:
    """Return the weighted sum of squares of an error relative to that of a reference. Tokens of weight 0 may be NaN."""
    error, wanted = (
        (x_ND.square().sum(-1).masked_fill(weight_N == 0, 0) * weight_N).sum() for x_ND in (error_ND, wanted_ND)
    )
    return error / wanted.clamp(min=torch.finfo(wanted.dtype).tiny)
