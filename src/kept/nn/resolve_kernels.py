"""Resolve the elementwise CPU kernels of MKL on one thread, before several threads call them.

MKL chooses a kernel for each function when the function is first called. If several threads make that first call at
once, one of them can run a kernel of half the digits (https://github.com/pytorch/pytorch/issues/188792). On a busy
machine, 3 of 1,800 first calls of `sin` and `sqrt` in new processes were wrong, in float64 too (LOG.md).
"""

from __future__ import annotations

import torch

FUNCTIONS = (
    torch.acos,
    torch.asin,
    torch.atan,
    torch.cos,
    torch.erf,
    torch.erfc,
    torch.erfinv,
    torch.exp,
    torch.expm1,
    torch.log,
    torch.log10,
    torch.log1p,
    torch.log2,
    torch.sin,
    torch.sqrt,
    torch.tan,
    torch.tanh,
)
"""The functions that torch gives to MKL."""


def resolve_kernels() -> None:
    """Call each function with one element, in float32 and float64."""
    for dtype in (torch.float32, torch.float64):
        half = torch.full((1,), 0.5, dtype=dtype)
        for function in FUNCTIONS:
            function(half)
