"""Dropping layers: the inverse of an expansion, exact where its weights prove it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.errors import RecipeError
from kept.ir.promise import Promise
from kept.ir.slots import zero_output_weights
from kept.passes.drop_layers import DropLayers, has_zero_output
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.legalize import run_passes
from kept.passes.plan import Expansion
from support.logits import logits, program_of, random_program
from support.models import write_checkpoint
from support.pass_contract import ExactPassContract
from support.pass_helpers import (
    TOKENS,
    layer_spec,
    refusal,
    replaced,
    unread,
)
from support.specs import specs

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir import spec as ir
    from kept.ir.program import Program


class TestDropLayers(ExactPassContract):
    """The output of layer 1 is zero, and the pass knows it."""

    rewrite = DropLayers((1,), zero_output=(1,))
    works_on: ClassVar = {"LayerNorms": layer_spec(depth=4)}
    refused = ((layer_spec(depth=1), "layers: is 1, the model has layers 0 to 0; give others"),)

    def program(self, spec: ir.Spec) -> Program:
        return ExpandBlocks(at=(1,))(random_program(replace(spec, layers=spec.layers[1:])))

    def test_a_second_run_is_refused_or_keeps_the_spec(self) -> None:
        """Unlike other passes: the numbers are those of other layers then."""
        assert self.rewrite(self.rewrite(unread(layer_spec(depth=4)))).spec.depth == 2


@given(specs(), st.data())
def test_it_undoes_an_expansion(spec: ir.Spec, data: st.DataObject) -> None:
    program = random_program(spec)
    groups = data.draw(st.integers(1, spec.depth))
    expansion = ExpandBlocks(groups)
    grown = expansion(program)
    back = DropLayers(expansion.numbers(spec.depth))
    assert back.measured(grown).promise(grown) is Promise.EXACT
    after = back(grown)
    assert after.spec == spec
    assert {name: tensor.value("float64") for name, tensor in after.weights.items()}.keys() == program.weights.keys()
    assert all(after.weights[name] is tensor for name, tensor in program.weights.items())


def test_only_layers_with_zero_output_are_dropped_exactly() -> None:
    program = random_program(layer_spec())
    grown = ExpandBlocks(at=(1,))(program)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert torch.equal(logits(DropLayers((1,))(grown), TOKENS, dtype), logits(grown, TOKENS, dtype))
    assert DropLayers((0,)).measured(grown).promise(grown) is Promise.LOSSY
    assert not torch.equal(logits(DropLayers((0,))(grown), TOKENS), logits(grown, TOKENS))


def test_one_number_that_is_not_zero_is_a_contribution() -> None:
    """Negative control: the last of each weight, and the smallest there is."""
    grown = ExpandBlocks(at=(1,))(random_program(layer_spec()))
    fills = zero_output_weights(grown.spec.layers[1], grown.spec.width)
    assert has_zero_output(grown, 1)
    for name, fill in fills.items():
        value = torch.full(grown.weights[f"layers.1.{name}"].shape, fill, dtype=torch.float64)
        value.view(-1)[-1] = 5e-324
        assert not has_zero_output(replaced(grown, {f"layers.1.{name}": value}), 1), name


def test_stored_zeros_are_zeros(tmp_path: Path) -> None:
    program = program_of(write_checkpoint(tmp_path / "source", "gpt2"))
    assert not has_zero_output(program, 0)
    assert all(tensor.holds_only(0.0) == (not bool(tensor.value().any())) for tensor in program.weights.values())


def test_a_plan_knows_what_is_left() -> None:
    program = random_program(layer_spec())
    plan = run_passes(program, [ExpandBlocks(at=(1, 3)), ExpandBlocks(at=(2,)), DropLayers((0, 1))])
    assert plan.origins == (None, 1, None, 2)
    assert plan.dropped == (0,)
    assert plan.new_layers == (0, 2)
    assert plan.expansions == (Expansion((2,), (1,)), Expansion((0,), (None,)))
    assert plan.promise is Promise.LOSSY


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        ((), "layers: is empty; give the numbers of the layers to drop"),
        ((2, 1), "layers: is 2, 1; it must be layer numbers from 0 up, each once, in order"),
        ((-1,), "layers: is -1; it must be layer numbers from 0 up, each once, in order"),
    ],
)
def test_what_no_depth_allows(layers: tuple[int, ...], line: str) -> None:
    with pytest.raises(RecipeError) as error:
        DropLayers(layers)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"layers": (3,)}, "layers: is 3, the model has layers 0 to 2; give others"),
        ({"layers": (0, 1, 2)}, "layers: are all 3; leave one"),
    ],
)
def test_what_this_depth_does_not_allow(options: dict[str, Any], line: str) -> None:
    assert refusal(DropLayers(**options), random_program(layer_spec())) == f"drop-layers: {line}"
