"""Block expansion: copies that do nothing, where they stand, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.errors import RecipeError, Refusal
from kept.ir import spec as ir
from kept.ir.slots import zero_output_weights
from kept.ir.tensors import Full, Stored
from kept.nn import Model
from kept.passes.affine_tail import AffineTail
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.legalize import run_passes
from support.logits import logits, program_of, random_program
from support.models import write_checkpoint
from support.pass_contract import ExactPassContract
from support.pass_helpers import (
    GATED,
    LAYER_NORM,
    MIXER,
    TOKENS,
    layer_spec,
    ready_for_tail,
    refusal,
    replaced,
    rms_spec,
    unread,
)
from support.specs import attention_of, specs

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.program import Program

OFFSET_NORM = ir.Norm("rms", 1e-6, bias=True, offset=1.0)
BEHIND = ir.Layer(MIXER, GATED, LAYER_NORM, LAYER_NORM, mixer_post_norm=OFFSET_NORM, mlp_post_norm=OFFSET_NORM)


def same(program: Program, other: Program) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert torch.equal(logits(program, TOKENS, dtype), logits(other, TOKENS, dtype)), dtype


class TestExpandBlocks(ExactPassContract):
    """The bits of each dtype are compared below."""

    rewrite = ExpandBlocks(groups=2)
    telling = "layers.3.mixer.o.weight"
    works_on: ClassVar = {"plain": layer_spec(), "norms behind": layer_spec(layers=(BEHIND,) * 3)}
    refused = ((layer_spec(depth=1), "groups: are 2, the model has 1 layers; give at most 1"),)

    def check(self, before: Program, after: Program) -> None:
        assert after.spec.depth == before.spec.depth + 2

    def test_a_second_run_is_refused_or_keeps_the_spec(self) -> None:
        """Unlike other passes: it expands again."""
        assert self.rewrite(self.rewrite(unread(layer_spec()))).spec.depth == 7


@given(specs(), st.data())
def test_any_program_is_the_same_to_the_bit(spec: ir.Spec, data: st.DataObject) -> None:
    program = random_program(spec)
    groups = data.draw(st.integers(1, spec.depth))
    blocks = data.draw(st.integers(1, spec.depth // groups))
    place = data.draw(st.sampled_from(["interleaved", "prefix", "suffix"]))
    grown = ExpandBlocks(groups, blocks, place)(program)  # type: ignore[arg-type]
    assert grown.spec.depth == spec.depth + groups * blocks
    same(grown, program)


@pytest.mark.parametrize("layer", [layer_spec().layers[0], BEHIND], ids=["plain", "behind"])
def test_each_zero_is_needed(layer: ir.Layer) -> None:
    """Negative control: with any one of them as it was, the logits differ; and so they do with the layer itself."""
    program = random_program(layer_spec(layers=(layer,) * 3))
    grown = ExpandBlocks(at=(2,))(program)
    fills = zero_output_weights(layer, program.spec.width)
    assert len(fills) == 4
    for name in fills:
        loud = replaced(grown, {f"layers.2.{name}": program.weights[f"layers.1.{name}"].value("float64")})
        assert not torch.equal(logits(loud, TOKENS), logits(program, TOKENS)), name


def test_a_norm_without_a_gain_behind_a_part() -> None:
    norm = ir.Norm("rms", 1e-6, gain=False, bias=True)
    layer = replace(BEHIND, mixer_post_norm=norm, mlp_post_norm=None)
    program = random_program(layer_spec(layers=(layer,) * 2))
    assert {"mixer.o.weight", "mixer_post_norm.bias", "mlp.down.weight"} < zero_output_weights(layer, 16).keys()
    same(ExpandBlocks(groups=2)(program), program)


@pytest.mark.parametrize("spec", [rms_spec(), layer_spec(layers=(BEHIND,) * 3)], ids=["plain", "behind"])
def test_the_first_steps_are_small_ones(spec: ir.Spec) -> None:
    """The zero weights are trained first; two steps of AdamW reach all of the copy and hardly move the logits."""
    program = random_program(spec)
    model = Model.load(ExpandBlocks(at=(2,))(program), torch.float32)
    learns = {name: p.requires_grad_() for name, p in model.named_parameters() if name.startswith("layers.2.")}
    optimizer = torch.optim.AdamW(learns.values(), lr=2e-4, weight_decay=0)
    wanted = F.log_softmax(model(TOKENS).detach(), -1)
    moved: set[str] = set()
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.roll(-1, 1).flatten()).backward()
        grads = {name: p.grad for name, p in learns.items() if p.grad is not None}
        moved = {name.removeprefix("layers.2.") for name, grad in grads.items() if bool(grad.abs().max() > 0)}
        assert moved >= zero_output_weights(spec.layers[1], spec.width).keys()
        optimizer.step()
    assert moved >= {"mixer.q.weight", "mlp.up.weight", "mixer_norm.gain"}
    found = F.log_softmax(model(TOKENS).detach(), -1)
    assert float(F.kl_div(found, wanted, log_target=True, reduction="batchmean")) < 1e-3 * TOKENS.shape[1]


def test_zeros_behind_a_norm_would_shout() -> None:
    """Why the gain is zero there: the control of the test above."""
    program = random_program(layer_spec(layers=(BEHIND,) * 3))
    grown = ExpandBlocks(at=(2,))(program)
    kept = {
        f"layers.2.{part}_post_norm.gain": program.weights[f"layers.1.{part}_post_norm.gain"]
        for part in ("mixer", "mlp")
    }
    zero = {
        f"layers.2.{name}": Full(grown.weights[f"layers.2.{name}"].shape, "F64", 1e-4)
        for name in ("mixer.o.weight", "mlp.down.weight")
    }
    values = {name: tensor.value("float64") for name, tensor in {**kept, **zero}.items()}
    assert float((logits(replaced(grown, values), TOKENS) - logits(program, TOKENS)).abs().max()) > 0.1


def models(depth: int, **options: Any) -> tuple[int, ...]:
    return ExpandBlocks(**options).source_layers(depth)


def test_where_copies_stand() -> None:
    assert models(4, groups=2) == (0, 1, 1, 2, 3, 3)
    assert models(4, groups=2, blocks=2) == (0, 1, 0, 1, 2, 3, 2, 3)
    assert models(4, groups=2, placement="prefix") == (0, 1, 0, 1, 2, 3)
    assert models(4, groups=2, placement="suffix") == (0, 1, 2, 3, 2, 3)
    assert models(4, at=(0, 3, 4, 7)) == (0, 0, 1, 0, 1, 2, 3, 3)
    assert ExpandBlocks(groups=8).numbers(32) == (4, 9, 14, 19, 24, 29, 34, 39)  # LLaMA Pro's own


@given(st.integers(1, 40), st.data())
def test_groups_are_as_even_as_possible(depth: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, depth))
    sizes = ExpandBlocks(groups).sizes(depth)
    assert (len(sizes), sum(sizes)) == (groups, depth)
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 12), st.data())
def test_every_layer_is_there_once_and_copies_stand_above_their_models(depth: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, depth))
    blocks = data.draw(st.integers(1, depth // groups))
    rewrite = ExpandBlocks(groups, blocks)
    found, new = rewrite.source_layers(depth), {*rewrite.numbers(depth)}
    old = [number for number in range(len(found)) if number not in new]
    assert [found[number] for number in old] == [*range(depth)]
    assert len(new) == groups * blocks
    assert all(found[number] == found[number - blocks] for number in new)
    assert models(depth, at=rewrite.numbers(depth)) == found


def test_layers_that_differ_keep_their_kind() -> None:
    layers = tuple(replace(layer_spec().layers[0], mixer=replace(MIXER, window=window)) for window in (None, 2, None))
    program = random_program(layer_spec(layers=layers))
    grown = ExpandBlocks(groups=3)(program)
    assert [attention_of(layer).window for layer in grown.spec.layers] == [None, None, 2, 2, None, None]
    same(grown, program)


def test_stored_bytes_stay_stored(tmp_path: Path) -> None:
    program = program_of(write_checkpoint(tmp_path / "source", "llama"))
    grown = ExpandBlocks(at=(1,))(program)
    made = {name for name, tensor in grown.weights.items() if not isinstance(tensor, Stored)}
    assert made == {"layers.1.mixer.o.weight", "layers.1.mlp.down.weight"}
    assert grown.weights["layers.1.mixer.q.weight"] is program.weights["layers.0.mixer.q.weight"]


def test_a_plan_knows_its_new_layers() -> None:
    """Over several passes: those of a first expansion move with a second one, and a tail is behind all."""
    program = ready_for_tail()
    plan = run_passes(program, [ExpandBlocks(at=(1,)), ExpandBlocks(at=(1, 5)), AffineTail()])
    assert plan.origins == (0, None, None, 1, 2, None, None)
    assert plan.new_layers == (1, 2, 5, 6)


@pytest.mark.parametrize(
    ("options", "new"),
    [
        ({"groups": 2}, (1, 4)),
        ({"groups": 3}, (1, 3, 5)),
        ({"groups": 1, "placement": "suffix"}, (3,)),
        ({"at": (1, 4)}, (1, 4)),
    ],
)
def test_a_tail_stays_the_last_layer(options: dict[str, Any], new: tuple[int, ...]) -> None:
    """Copies behind it, or of it, would learn nothing: behind it the stream is nearly constant."""
    tailed = AffineTail()(ready_for_tail())
    plan = run_passes(tailed, [ExpandBlocks(**options)])
    assert (plan.program.spec.depth, plan.new_layers) == (4 + len(new), new)
    same(plan.program, tailed)
    model = Model.load(plan.program, torch.float32).requires_grad_()
    F.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.roll(-1, 1).flatten()).backward()
    found = {number: model.get_parameter(f"layers.{number}.mlp.down.weight").grad for number in new}
    assert all(grad is not None and float(grad.abs().max()) > 1e-6 for grad in found.values())


def test_a_layer_behind_a_tail_is_refused() -> None:
    tailed = AffineTail()(ready_for_tail())
    with pytest.raises(Refusal, match="puts layer 4 behind the layer that holds the bias of the logits"):
        run_passes(tailed, [ExpandBlocks(at=(4,))])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "groups: is missing; give the number of groups, or at, the numbers of the new layers"),
        ({"groups": 0}, "groups: is 0, it must be at least 1"),
        ({"groups": 2, "blocks": -1}, "blocks: is -1, it must be at least 1"),
        ({"groups": 2, "placement": "top"}, "placement: is 'top'; it must be one of interleaved, prefix, suffix"),
        ({"groups": 2, "at": (1,)}, "at: names the new layers by itself; leave out groups, blocks and placement"),
        ({"at": (1,), "blocks": 2}, "at: names the new layers by itself; leave out groups, blocks and placement"),
        ({"at": (2, 1)}, "at: is 2, 1; it must be layer numbers from 0 up, each once and in order"),
        ({"at": (1, 1)}, "at: is 1, 1; it must be layer numbers from 0 up, each once and in order"),
        ({"at": (-1,)}, "at: is -1; it must be layer numbers from 0 up, each once and in order"),
    ],
)
def test_what_no_depth_allows(options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError) as error:
        ExpandBlocks(**options)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"groups": 4}, "groups: are 4, the model has 3 layers; give at most 3"),
        ({"groups": 2, "blocks": 2}, "blocks: are 2, the smallest group has 1; give at most 1"),
        (
            {"groups": 2, "blocks": 2, "placement": "prefix"},
            "blocks: are 2, 2 groups of the model's 3 layers have 1; give at most 1",
        ),
        ({"at": (4,)}, "at: is 4, the result has layers 0 to 3; give lower numbers"),
        ({"at": (1, 2, 4)}, "at: 1, 2 copy the 2 layers beside them, and there are 1; give fewer in a run"),
        ({"at": (0, 1, 2, 3)}, "at: 0, 1, 2, 3 copy the 4 layers beside them, and there are 3; give fewer in a run"),
    ],
)
def test_what_this_depth_does_not_allow(options: dict[str, Any], line: str) -> None:
    assert refusal(ExpandBlocks(**options), random_program(layer_spec())) == f"expand-blocks: {line}"
