"""The universal model: any spec, its slots, its cache and its padding."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kept.ir import spec as ir
from kept.ir.program import Program
from kept.ir.slots import slots
from kept.ir.tensors import InMemory, cast
from kept.nn import Model
from kept.nn.decoder import Block
from kept.nn.state import KVCache
from support.logits import logits, model_of, random_program
from support.plain import plain_logits
from support.specs import (
    VOCABULARY,
    attention_of,
    layers,
    plain_spec,
    specs,
    with_layer,
)

if TYPE_CHECKING:
    from torch import Tensor

EXACT = 1e-9
"""Relative to the largest logit, in float64: the same sums in another order, through up to three layers."""


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= EXACT * (1 + wanted.abs().max()))


def tokens_of(length: int, seed: int = 0, batch: int = 1) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


@given(specs())
def test_parameter_names_are_the_slots(spec: ir.Spec) -> None:
    with torch.device("meta"):
        model = Model(spec)
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert list(found.items()) == [(name, slot.shape) for name, slot in slots(spec).items()]


@settings(max_examples=60)
@given(specs(), st.integers(1, 20))
def test_any_spec_computes_what_its_docstrings_say(spec: ir.Spec, length: int) -> None:
    program, tokens = random_program(spec), tokens_of(length)
    assert close(logits(program, tokens)[0], plain_logits(program, tokens[0].tolist()))


@given(specs())
def test_a_changed_weight_would_show(spec: ir.Spec) -> None:
    """Negative control: the head's and the last layer's weights cannot be mistaken for others."""
    program, tokens = random_program(spec), tokens_of(6)
    name = "embedding.weight" if spec.head.tied else "head.weight"
    rolled = program.weights[name].value("float64").roll(1, dims=0)
    other = replace(program, weights={**program.weights, name: InMemory(tuple(rolled.shape), "F64", rolled)})
    assert not close(logits(other, tokens), logits(program, tokens))


@settings(max_examples=30)
@given(specs(), st.integers(1, 12), st.integers(1, 12))
def test_a_cache_gives_what_the_whole_sequence_gives(spec: ir.Spec, first: int, rest: int) -> None:
    """Scalings that depend on the length give cached keys the angles of their time, so here the length is known."""
    program = random_program(_without_growing_scaling(spec))
    tokens = tokens_of(first + rest)
    model = model_of(program)
    state = model.empty_state()
    with torch.inference_mode():
        whole = model(tokens)
        parts = [model(tokens[:, :first], state)]
        parts += [model(tokens[:, t : t + 1], state) for t in range(first, first + rest)]
    assert state.position == first + rest
    assert close(torch.cat(parts, dim=1), whole)


def _without_growing_scaling(spec: ir.Spec) -> ir.Spec:
    def steady(layer: ir.Layer) -> ir.Layer:
        rope = attention_of(layer).rope
        if rope is None or not isinstance(rope.scaling, ir.Dynamic | ir.LongRope):
            return layer
        return replace(layer, mixer=replace(attention_of(layer), rope=replace(rope, scaling=None)))

    return replace(spec, layers=tuple(steady(layer) for layer in spec.layers))


@settings(max_examples=30)
@given(specs(), st.integers(1, 6), st.integers(0, 6))
def test_left_padding_changes_nothing_for_what_follows_it(spec: ir.Spec, length: int, pads: int) -> None:
    program = random_program(spec)
    model = model_of(program)
    short, long = tokens_of(length, 1), tokens_of(length + pads, 2)
    batch = torch.cat((torch.cat((torch.zeros(1, pads, dtype=torch.long), short), dim=1), long))
    if _grows(spec):  # one length decides the scaling of the whole batch
        batch, long = batch[:1], None  # type: ignore[assignment]
    with torch.inference_mode():
        found = model(batch, pads_B=torch.tensor([pads, 0][: len(batch)]))
        assert close(found[0, pads:], model(short)[0])
        if long is not None:
            assert close(found[1], model(long)[0])


def _grows(spec: ir.Spec) -> bool:
    ropes = [attention_of(layer).rope for layer in spec.layers]
    return any(rope is not None and isinstance(rope.scaling, ir.Dynamic | ir.LongRope) for rope in ropes)


def test_padding_that_is_not_declared_does_change_it() -> None:
    """Negative control."""
    model, short = model_of(random_program(plain_spec())), tokens_of(4, 1)
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), short), dim=1)
    with torch.inference_mode():
        assert not close(model(padded)[:, 3:], model(short))


def test_a_padded_cache_gives_what_the_whole_padded_sequence_gives() -> None:
    """With a window that reaches into the padding."""
    spec = plain_spec()
    spec = with_layer(spec, 1, mixer=replace(attention_of(spec.layers[1]), window=4))
    model, tokens, pads = model_of(random_program(spec)), tokens_of(12, batch=3), torch.tensor([0, 2, 5])
    state = model.empty_state()
    with torch.inference_mode():
        whole = model(tokens, pads_B=pads)
        parts = [model(tokens[:, :6], state, pads)]
        parts += [model(tokens[:, t : t + 1], state, pads) for t in range(6, 12)]
    cached = torch.cat(parts, dim=1)
    for row, skipped in enumerate(pads.tolist()):
        assert close(cached[row, skipped:], whole[row, skipped:])


def test_a_cache_grows_past_its_first_room() -> None:
    """Room is made for 76 positions first, then for 154."""
    spec = replace(plain_spec(), context=200)
    model, tokens = model_of(random_program(spec)), tokens_of(150)
    state = model.empty_state()
    with torch.inference_mode():
        whole = model(tokens)
        parts = [model(chunk, state) for chunk in tokens.split((60, 3, 1, 1, 1, 70, 14), dim=1)]
    assert close(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize(("window", "moves"), [(None, 18), (40, 2)])
def test_a_cache_seldom_moves_what_it_holds(window: int | None, moves: int) -> None:
    """300 tokens one by one: room for 17 positions, then each time for 17 more, up to the window."""
    held, token = KVCache(window), torch.zeros(1, 1, 1, 2)
    places = [held.append(token, token)[0].data_ptr() for _ in range(300)]
    assert held.nbytes == 2 * 8 * (window or 17 * 18)
    assert sum(here != there for here, there in pairwise(places)) <= moves


@given(specs())
def test_streams_are_what_enters_and_leaves_each_layer(spec: ir.Spec) -> None:
    model, tokens = model_of(random_program(spec)), tokens_of(5)
    with torch.inference_mode():
        streams = list(model.streams(tokens))
        assert len(streams) == spec.depth + 1
        assert torch.equal(model.logits(streams[-1]), model(tokens))
        assert torch.equal(model.hidden(tokens), streams[-1])


@given(specs())
def test_branches_run_one_by_one(spec: ir.Spec) -> None:
    model = model_of(random_program(spec))
    with torch.inference_mode():
        x_BTD, context = model.enter(tokens_of(5))
        for block in model.layers:
            assert isinstance(block, Block)
            runs, out_BTD = [*block.runs(x_BTD, context)], block(x_BTD, context)
            assert [run.branch for run in runs] == [*block.spec.branches]
            for run in runs:
                assert torch.equal(getattr(block, run.branch.norm_name)(run.stream_BTD), run.input_BTD)
                branch = getattr(block, run.branch.name)
                again_BTD = branch(run.input_BTD, *[context] * (run.branch.name == "mixer"))
                assert torch.equal(again_BTD, run.output_BTD)
            assert torch.equal(runs[-1].after_BTD if runs else x_BTD, out_BTD)
            x_BTD = out_BTD
        assert torch.equal(x_BTD, model.hidden(tokens_of(5)))


def test_a_layer_is_one_graph() -> None:
    """torch.compile would split it otherwise, and training would be slower."""
    model = model_of(random_program(plain_spec(1)))
    x_BTD, context = model.enter(tokens_of(5))
    compiled = torch.compile(model.layers[0].forward, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x_BTD, context), model.layers[0](x_BTD, context))


def test_learned_positions_count_from_the_first_real_token() -> None:
    spec = replace(plain_spec(1), positions=8)
    spec = with_layer(spec, 0, mixer=replace(attention_of(spec.layers[0]), rope=None))
    program = random_program(spec)
    model, tokens = model_of(program), tokens_of(5)
    w = {name: lazy.value("float64") for name, lazy in program.weights.items()}
    with torch.inference_mode():
        entering = next(iter(model.streams(tokens, pads_B=torch.tensor([2]))))
    wanted = w["embedding.weight"][tokens[0]] + w["positions.weight"][[0, 0, 0, 1, 2]]
    assert torch.equal(entering[0, 2:], wanted[2:])
    assert not torch.equal(entering[0, 2:], wanted[2:] + 0.1)


def test_parallel_blocks_read_the_same_stream() -> None:
    sequential = plain_spec(1)
    parallel = with_layer(sequential, 0, parallel=True)
    shared = with_layer(parallel, 0, mlp_norm=None, shared_norm=True)
    program, tokens = random_program(sequential), tokens_of(6)
    both = replace(program, spec=parallel)
    one = program.updated(shared, {})
    found = [logits(p, tokens) for p in (program, both, one)]
    for p, values in zip((program, both, one), found, strict=True):
        assert close(values[0], plain_logits(p, tokens[0].tolist()))
    assert not close(found[0], found[1])
    assert not close(found[1], found[2])


@given(layers(), layers())
def test_layers_may_have_nothing_in_common(first: ir.Layer, second: ir.Layer) -> None:
    spec = replace(plain_spec(3), positions=40)
    program = random_program(replace(spec, layers=(first, spec.layers[0], second)))
    tokens = tokens_of(7)
    assert close(logits(program, tokens)[0], plain_logits(program, tokens[0].tolist()))


def test_a_tied_head_is_the_embedding_itself() -> None:
    tied = replace(plain_spec(), head=ir.Head(tied=True))
    model = model_of(random_program(tied))
    assert model.head.weight is None
    assert "head.weight" not in dict(model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_are_computed_wide_and_rounded_once(dtype: torch.dtype) -> None:
    program = random_program(plain_spec())
    for name, parameter in Model.load(program, dtype, "float64").named_parameters():
        assert torch.equal(parameter, program.weights[name].value("float64").to(dtype))
        assert not parameter.requires_grad


def test_without_a_dtype_all_have_the_one_that_most_declare() -> None:
    """A checkpoint with norms in float32 and matrices in half precision runs in the dtype of most weights."""
    program = random_program(plain_spec())
    mixed = {name: cast(lazy, "F32" if "norm" in name else "BF16") for name, lazy in program.weights.items()}
    model = Model.load(Program(program.spec, mixed))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model(torch.tensor([[1, 2, 3]])).dtype == torch.bfloat16
    exact = Model.load(program)
    assert torch.equal(exact.head.weight, program.weights["head.weight"].value("float64"))  # type: ignore[arg-type]


def test_a_loaded_model_does_not_share_memory_with_the_program() -> None:
    """A model may be trained; a program never changes."""
    program = random_program(plain_spec())
    before = program.weights["head.weight"].value("float64").clone()
    model = model_of(program)
    assert model.head.weight is not None
    with torch.no_grad():
        model.head.weight.add_(1)
    assert torch.equal(program.weights["head.weight"].value("float64"), before)


def test_float32_is_near_float64() -> None:
    """Logits of size 5 through 3 layers in float32: 1e-5 is some forty roundings, and no two of them equal."""
    program, tokens = random_program(plain_spec(3)), tokens_of(12)
    wide, narrow = logits(program, tokens), logits(program, tokens, torch.float32)
    assert narrow.dtype == torch.float32
    assert 0 < float((wide - narrow).abs().max()) < 1e-5 * float(wide.abs().max())
