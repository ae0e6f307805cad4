"""A head that is normalised when the model runs, normalised once."""

from __future__ import annotations

import torch

from kept.ir import spec as ir
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.untie_head import UntieHead
from support.models import random_program
from support.pass_helpers import TOLERANCE, error, keeps, refusal, replaced, rewritten, rms_spec, value


def test_the_function_is_kept_and_rows_have_length_one() -> None:
    program = random_program(rms_spec(head=ir.Head(bias=True, normalised=True, multiplier=5.0, softcap=4.0)))
    folded = keeps(FoldHeadNorm(), program)
    assert rewritten(program, folded) == {"head.weight"}
    assert torch.allclose(value(folded, "head.weight").norm(dim=-1), torch.ones(11, dtype=torch.float64), atol=1e-12)


def test_the_head_as_it_is_stored_would_show() -> None:
    """Negative control."""
    program = random_program(rms_spec(head=ir.Head(normalised=True)))
    stored = replaced(FoldHeadNorm()(program), {"head.weight": value(program, "head.weight")})
    assert error(stored, program) > 1e3 * TOLERANCE


def test_a_tied_head_is_untied_first() -> None:
    program = random_program(rms_spec(head=ir.Head(tied=True, normalised=True)))
    obstacle = FoldHeadNorm().requires(program)
    assert obstacle is not None
    assert obstacle.fix == UntieHead()
    keeps(FoldHeadNorm(), UntieHead()(program))


def test_a_plain_head_is_refused() -> None:
    said = refusal(FoldHeadNorm(), random_program(rms_spec()))
    assert said == "fold-head-norm: head: is not normalised; leave this pass out"
