"""Whitened coordinates change the optimizer's path, not the function; the refit is the ridge solution."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from kept.distillation.train.calibration import InputSums
from kept.distillation.train.whitened import RIDGE, Whitened, cholesky_factor, inverse

OUT, IN, TOKENS = 5, 7, 64


@pytest.fixture
def inputs() -> torch.Tensor:
    """Inputs of very different sizes that are correlated."""
    random = torch.Generator().manual_seed(0)
    mixed = torch.randn(TOKENS, IN, generator=random, dtype=torch.float64)
    return mixed @ torch.randn(IN, IN, generator=random, dtype=torch.float64) * 10.0 ** torch.arange(-3, 4)


def whitened(inputs: torch.Tensor) -> tuple[nn.Linear, Whitened, torch.Tensor]:
    torch.manual_seed(1)
    linear = nn.Linear(IN, OUT, dtype=torch.float64)
    factor = cholesky_factor(inputs.T @ inputs / len(inputs))
    return linear, Whitened.of(linear.weight, factor, inverse(factor)), factor


@torch.no_grad()
def test_whitening_changes_nothing_and_merges_exactly(inputs: torch.Tensor) -> None:
    linear, made, _ = whitened(inputs)
    before = linear.weight.clone()
    wanted = linear(inputs)
    parametrize.register_parametrization(linear, "weight", made, unsafe=True)
    assert torch.equal(linear(inputs), wanted)
    made.update_OI.normal_()
    moved = linear(inputs)
    assert (moved - wanted).abs().max() > 1e-2, "the update has an effect"
    merged = made.merged(before, made.update_OI)
    assert (inputs @ merged.T + linear.bias - moved).abs().max() < 1e-9 * moved.abs().max()


def test_the_gradient_of_the_update_is_white(inputs: torch.Tensor) -> None:
    """Second moment of the whitened input: the identity up to the ridge. That of the input itself is far from it."""
    _, made, _ = whitened(inputs)
    assert made.inverse_II is not None
    white = inputs @ made.inverse_II.T
    values = torch.linalg.eigvalsh(white.T @ white / TOKENS)
    assert values.max() <= 1
    plain = torch.linalg.eigvalsh(inputs.T @ inputs / TOKENS)
    assert float(values.median() / values.max()) > 100 * float(plain.median() / plain.max())


@torch.no_grad()
def test_a_move_changes_the_matrix_by_what_is_given(inputs: torch.Tensor) -> None:
    linear, made, factor = whitened(inputs)
    change = torch.randn(OUT, IN, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    made.move(change, factor)
    assert (made(linear.weight) - linear.weight - change).abs().max() < 1e-9


def test_a_row_of_zeros_can_be_trained() -> None:
    weight = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    scale = Whitened.of(weight, None, None).scale_O1
    assert (scale > 0).all()
    assert (Whitened.of(torch.zeros(2, 2), None, None).scale_O1 == 1).all()


@torch.no_grad()
def test_the_refit_is_the_ridge_solution(inputs: torch.Tensor) -> None:
    """Against the normal equations of all tokens at once; weights count, masked tokens do not."""
    random = torch.Generator().manual_seed(3)
    linear = nn.Linear(IN, OUT, bias=False)
    x = (inputs / inputs.norm(dim=1, keepdim=True)).float()
    wanted, weight = torch.randn(TOKENS, OUT, generator=random), torch.rand(TOKENS, generator=random)
    weight[:5] = 0
    spoiled = x.clone()
    spoiled[:5] = torch.nan
    sums = InputSums({"o": linear}, "o")
    for part in range(2):
        rows = slice(part * TOKENS // 2, (part + 1) * TOKENS // 2)
        sums.add(lambda rows=rows: linear(spoiled[rows]), wanted[rows], weight[rows])  # type: ignore[misc]
    found = sums.refit(sums.factors())
    assert found is not None
    wide, error, w = x.double(), (wanted - linear(x)).double(), weight.double()[:, None]
    moment = (wide * w).T @ wide / w.sum()
    moment += RIDGE * moment.diagonal().mean() * torch.eye(IN, dtype=torch.float64)
    solution = torch.linalg.solve(moment, (wide * w).T @ error / w.sum()).T
    assert (found - solution).abs().max() < 1e-5 * solution.abs().max()
    before, after = (
        ((error - wide @ change.T).square() * w).sum() for change in (torch.zeros(OUT, IN).double(), found)
    )
    assert after < before
