"""Untying the head."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from hypothesis import given

from kept.ir import spec as ir
from kept.ir.tensors import Stored
from kept.passes.untie_head import UntieHead
from support.logits import program_of, random_program
from support.models import write_checkpoint
from support.pass_contract import ExactPassContract
from support.pass_helpers import TOLERANCE, error, keeps, layer_spec, replaced, rewritten, rms_spec, value
from support.specs import specs

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.program import Program

TIED = ir.Head(tied=True)


class TestUntieHead(ExactPassContract):
    rewrite = UntieHead()
    works_on: ClassVar = {"plain": layer_spec(head=TIED), "with a bias": rms_spec(head=ir.Head(tied=True, bias=True))}
    refused = ((layer_spec(), "head: is not tied; leave this pass out"),)

    def check(self, before: Program, after: Program) -> None:
        assert rewritten(before, after) == {"head.weight"}
        assert after.weights["head.weight"] is before.weights["embedding.weight"]


def test_another_matrix_in_the_head_would_show() -> None:
    """Negative control."""
    program = random_program(layer_spec(head=TIED))
    untied = UntieHead()(program)
    rolled = replaced(untied, {"head.weight": value(program, "embedding.weight").roll(1, 0)})
    assert error(rolled, program) > 1e3 * TOLERANCE


@given(specs())
def test_any_tied_program(spec: ir.Spec) -> None:
    keeps(UntieHead(), random_program(replace(spec, head=replace(spec.head, tied=True))))


def test_stored_bytes_stay_stored(tmp_path: Path) -> None:
    untied = UntieHead()(program_of(write_checkpoint(tmp_path / "source", "llama", tie_word_embeddings=True)))
    assert all(isinstance(tensor, Stored) for tensor in untied.weights.values())
