"""A head that is normalised when the model runs, normalised once."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from kept.ir import spec as ir
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.untie_head import UntieHead
from support.logits import random_program
from support.pass_contract import TargetPassContract
from support.pass_helpers import TOLERANCE, error, replaced, rewritten, rms_spec, value

if TYPE_CHECKING:
    from kept.ir.program import Program


class TestFoldHeadNorm(TargetPassContract):
    rewrite = FoldHeadNorm()
    works_on: ClassVar = {"all": rms_spec(head=ir.Head(bias=True, normalised=True, multiplier=5.0, softcap=4.0))}
    served = rms_spec(head=ir.Head(normalised=True))
    refused = ((rms_spec(), "head: is not normalised; leave this pass out"),)
    prepared_by = ((rms_spec(head=ir.Head(tied=True, normalised=True)), UntieHead()),)

    def check(self, before: Program, after: Program) -> None:
        assert rewritten(before, after) == {"head.weight"}
        lengths = value(after, "head.weight").norm(dim=-1)
        assert torch.allclose(lengths, torch.ones(11, dtype=torch.float64), atol=1e-12)


def test_the_head_as_it_is_stored_would_show() -> None:
    """Negative control."""
    program = random_program(rms_spec(head=ir.Head(normalised=True)))
    stored = replaced(FoldHeadNorm()(program), {"head.weight": value(program, "head.weight")})
    assert error(stored, program) > 1e3 * TOLERANCE
