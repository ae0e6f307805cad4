"""What a rank computes that holds a part of the vocabulary; importable, because each rank is a process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import distributed

from kept.distillation.loss.chunked import HeadInput, Objective, TopK, chunked_loss
from kept.distillation.loss.top_k import top_k
from kept.ir.spec import Head
from support.distilled import Case, cast, head_input, leaves

PARTS = (0, 12, 31)
"""Where each of two ranks begins, and the end: the parts are not equal."""

OBJECTIVES = {
    "forward": Objective(),
    "reverse": Objective(kl=0.0, reverse=1.0),
    "jsd": Objective(kl=0.0, jsd=1.0, beta=0.2),
    "all": Objective(reverse=0.5, jsd=0.7, beta=0.8, ce=0.3, temperature=2.0),
    "text": Objective(kl=0.0, ce=1.0),
    "cached": Objective(ce=0.5),
    "nothing counts": Objective(),
}


def case_of(name: str, dtype: torch.dtype) -> tuple[Case, HeadInput | TopK]:
    """A case on the whole vocabulary, and what its teacher is given as."""
    random = torch.Generator().manual_seed(len(name))
    head = Head(bias=True, multiplier=0.5, softcap=6.0, normalised=name == "all")
    student, teacher = (cast(head_input(10, 6, PARTS[-1], head, random), dtype) for _ in range(2))
    targets = torch.randint(0, PARTS[-1], (10,), generator=random)
    mask = torch.arange(10) % 4 != 1 if name != "nothing counts" else torch.zeros(10)
    case = Case(student, teacher, targets, mask, OBJECTIVES[name], 4, 1 << 19)
    return case, top_k(teacher, 8) if name == "cached" else teacher


def part(given: HeadInput, rank: int) -> HeadInput:
    """A rank's rows of a head."""
    rows = slice(PARTS[rank], PARTS[rank + 1])
    assert given.bias_V is not None
    return cast(replace(given, weight_VD=given.weight_VD[rows], bias_V=given.bias_V[rows]), given.weight_VD.dtype)


def losses_of_part(rank: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Every case by this rank in both precisions: losses and gradients."""
    return {str(dtype): _losses(rank, dtype) for dtype in (torch.float64, torch.float32)}


def _losses(rank: int, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    out = {}
    for name in OBJECTIVES:
        case, teacher = case_of(name, dtype)
        student = part(case.student, rank)
        known = part(teacher, rank) if isinstance(teacher, HeadInput) else teacher
        given = (student, known, case.targets, case.mask, case.objective, case.chunk)
        found = chunked_loss(*given, group=distributed.group.WORLD)
        gradients = torch.autograd.grad(found.total / 3, leaves(student))
        reported = {**found.means, "agreement": found.agreement, "total": found.total.detach()}
        out[name] = {"reported": reported, "gradients": list(gradients)}
    return out
