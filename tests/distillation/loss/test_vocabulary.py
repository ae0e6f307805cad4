"""A vocabulary split over ranks gives each of them what the whole one gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from support import ranks
from support.distilled import Case, chunked, leaves
from support.split_heads import OBJECTIVES, PARTS, case_of, losses_of_part, part


@pytest.fixture(scope="module")
def found() -> list[Any]:
    return ranks.run(losses_of_part, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_rank_gets_what_one_would(found: list[Any], name: str, dtype: torch.dtype) -> None:
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    case, teacher = case_of(name, dtype)
    whole = chunked(case)(case.student, teacher, case.targets, case.mask, case.objective)
    hidden, weight, bias = torch.autograd.grad(whole.total / 3, leaves(case.student))
    for rank, mine in enumerate(of[str(dtype)] for of in found):
        rows = slice(PARTS[rank], PARTS[rank + 1])
        wanted = {**whole.means, "agreement": whole.agreement, "total": whole.total.detach()}
        assert set(mine[name]["reported"]) == set(wanted)
        for key, value in wanted.items():
            assert float(mine[name]["reported"][key]) == pytest.approx(float(value), rel=tolerance, abs=tolerance / 10)
        for gradient, right in zip(mine[name]["gradients"], (hidden, weight[rows], bias[rows]), strict=True):
            assert float((gradient - right).norm()) <= tolerance * float(right.norm())


def test_a_part_alone_is_not_the_whole() -> None:
    """Negative control: without the group a rank would see its own tokens only."""
    case, _ = case_of("forward", torch.float64)
    whole = chunked(case)(case.student, case.teacher, case.targets, case.mask, case.objective)
    for rank in range(2):
        alone = replace(case, targets=torch.zeros_like(case.targets))
        mine = chunked(alone)(part(case.student, rank), part(case.teacher, rank), *_asked(alone))
        assert abs(float(mine.total - whole.total)) > 0.01


def _asked(case: Case) -> tuple[Any, ...]:
    return case.targets, case.mask, case.objective
