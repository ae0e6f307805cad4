"""Errors of a student's hidden states, token by token. Shapes: N tokens, D width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.distillation.loss.output_head import at_least_float32

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kept.distillation.settings_fields import HiddenError


def relative_squared_error(teacher: Tensor, student: Tensor) -> Tensor:
    """Return |student - teacher|^2 / |teacher|^2 of each token: (..., D) to (...), dimensionless.

    Each token is divided by its own norm. A few tokens, usually the first of a sequence, have hidden states a hundred
    times larger than all others and would dominate a loss that is divided by the mean over tokens.
    """
    wanted, found = at_least_float32(teacher), at_least_float32(student)
    return (found - wanted).square().sum(-1) / wanted.square().sum(-1).clamp(min=torch.finfo(wanted.dtype).tiny)


def cosine_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Return 1 - cos(teacher, student) of each token: (..., D) to (...), from 0 to 2."""
    return 1 - F.cosine_similarity(at_least_float32(teacher), at_least_float32(student), dim=-1)


HIDDEN_ERRORS: Mapping[HiddenError, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": relative_squared_error,
    "cosine": cosine_distance,
}
"""The functions that the setting `hidden_error` names."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values whose mask is not 0; 0 if there are none. Masked values may be NaN."""
    kept = mask != 0
    return values.masked_fill(~kept, 0).sum() / kept.sum().clamp(min=1)
