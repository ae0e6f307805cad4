"""Untying the head."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given

from kept.ir import spec as ir
from kept.ir.tensors import Stored
from kept.passes.untie_head import UntieHead
from support.models import program_of, random_program, write_checkpoint
from support.pass_helpers import TOLERANCE, error, keeps, layer_spec, refusal, replaced, rewritten, rms_spec, value
from support.specs import specs

if TYPE_CHECKING:
    from pathlib import Path

TIED = ir.Head(tied=True)


@pytest.mark.parametrize("spec", [layer_spec(head=TIED), rms_spec(head=ir.Head(tied=True, bias=True))])
def test_the_function_is_kept_and_the_head_is_the_embedding(spec: ir.Spec) -> None:
    program = random_program(spec)
    untied = keeps(UntieHead(), program)
    assert rewritten(program, untied) == {"head.weight"}
    assert untied.weights["head.weight"] is program.weights["embedding.weight"]


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


def test_an_untied_head_is_refused() -> None:
    said = refusal(UntieHead(), random_program(layer_spec()))
    assert said == "untie-head: head: is not tied; leave this pass out"
