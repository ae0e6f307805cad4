"""Norms against torch's own, and what precision their statistics have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kept.ir import spec as ir
from kept.nn.norm import NormModule

SIZE, EPS = 12, 1e-2
"""An epsilon that shows."""

EXACT = 1e-14
"""Tolerance of a few equal operations in float64."""


def inputs(*shape: int) -> torch.Tensor:
    """With a mean, so that LayerNorm and RMSNorm differ."""
    return 0.7 + torch.randn(*shape, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def ours(norm: ir.Norm, gain: torch.Tensor | None = None, bias: torch.Tensor | None = None) -> NormModule:
    module = NormModule(norm, (SIZE,) if gain is None else tuple(gain.shape)).double()
    with torch.no_grad():
        for parameter, values in ((module.gain, gain), (module.bias, bias)):
            assert (parameter is None) is (values is None)
            if parameter is not None and values is not None:
                parameter.copy_(values)
    return module


@pytest.fixture
def gain() -> torch.Tensor:
    return 1 + 0.3 * torch.randn(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def bias() -> torch.Tensor:
    return 0.3 * torch.randn(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_layer_norm(gain: torch.Tensor, bias: torch.Tensor) -> None:
    x = inputs(2, 5)
    wanted = nn.functional.layer_norm(x, (SIZE,), gain, bias, EPS)
    found = ours(ir.Norm("layer", EPS, bias=True), gain, bias)(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=EXACT)
    assert not torch.allclose(ours(ir.Norm("layer", 1e-5, bias=True), gain, bias)(x), wanted, atol=1e-4)


def test_layer_norm_without_bias(gain: torch.Tensor) -> None:
    x = inputs(3)
    stock = nn.LayerNorm(SIZE, EPS, bias=False, dtype=torch.float64)
    stock.weight = nn.Parameter(gain)
    torch.testing.assert_close(ours(ir.Norm("layer", EPS), gain)(x), stock(x), rtol=0, atol=EXACT)


def test_rms_norm(gain: torch.Tensor) -> None:
    x = inputs(2, 5)
    stock = nn.RMSNorm(SIZE, EPS, dtype=torch.float64)
    stock.weight = nn.Parameter(gain)
    torch.testing.assert_close(ours(ir.Norm("rms", EPS), gain)(x), stock(x), rtol=0, atol=EXACT)
    assert not torch.allclose(ours(ir.Norm("layer", EPS), gain)(x), stock(x), atol=1e-2)


def test_rms_norm_with_bias(gain: torch.Tensor, bias: torch.Tensor) -> None:
    x = inputs(4)
    wanted = nn.functional.rms_norm(x, (SIZE,), gain, EPS) + bias
    torch.testing.assert_close(ours(ir.Norm("rms", EPS, bias=True), gain, bias)(x), wanted, rtol=0, atol=EXACT)


def test_offset_gain(gain: torch.Tensor) -> None:
    """Gemma and LayerNorm1p store the gain less one."""
    x = inputs(4)
    wanted = nn.functional.rms_norm(x, (SIZE,), gain, EPS)
    torch.testing.assert_close(ours(ir.Norm("rms", EPS, offset=1.0), gain - 1)(x), wanted, rtol=0, atol=EXACT)
    assert not torch.allclose(ours(ir.Norm("rms", EPS), gain - 1)(x), wanted, atol=1e-2)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_without_parameters(kind: str) -> None:
    x = inputs(4)
    module = ours(ir.Norm(kind, EPS, gain=False))  # type: ignore[arg-type]
    assert not list(module.parameters())
    stock = nn.functional.layer_norm if kind == "layer" else nn.functional.rms_norm
    torch.testing.assert_close(module(x), stock(x, (SIZE,), eps=EPS), rtol=0, atol=EXACT)


def test_a_gain_for_each_head() -> None:
    x = inputs(2, 5, 3)
    gain = torch.randn(3, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = ours(ir.Norm("layer", EPS), gain)(x)
    for head in range(3):
        wanted = nn.functional.layer_norm(x[:, :, head], (SIZE,), gain[head], None, EPS)
        torch.testing.assert_close(found[:, :, head], wanted, rtol=0, atol=EXACT)
    assert not torch.allclose(ours(ir.Norm("layer", EPS), gain.flip(0))(x), found, atol=1e-2)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_statistics_are_computed_in_float32(kind: str) -> None:
    """In bfloat16 a mean of 100 swallows a variance of 1; what comes out is the float32 result, rounded once."""
    x = (100 + inputs(8)).to(torch.bfloat16)
    module = NormModule(ir.Norm(kind, EPS, gain=False), (SIZE,))  # type: ignore[arg-type]
    found = module(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, module(x.float()).to(torch.bfloat16))
    assert module(x.double()).dtype == torch.float64
