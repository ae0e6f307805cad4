"""A program is a spec and exactly its weights."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given

from kept.errors import CheckpointError
from kept.ir import spec as ir
from kept.ir.program import Program
from kept.ir.slots import slots
from kept.ir.tensors import Lazy, cast, zeros
from support.logits import random_program
from support.running_mean import RunningMean
from support.specs import attention_of, plain_spec, specs, with_layer, with_mixer


def zero_weights(spec: ir.Spec) -> dict[str, Lazy]:
    return {name: zeros(slot.shape, "F32") for name, slot in slots(spec).items()}


@given(specs())
def test_a_program_has_exactly_the_slots(spec: ir.Spec) -> None:
    program = Program(spec, zero_weights(spec))
    assert list(program.weights) == list(slots(spec))
    assert program.nbytes == 4 * program.parameters


@pytest.mark.parametrize("name", list(slots(plain_spec())))
def test_a_missing_weight_is_named(name: str) -> None:
    weights = zero_weights(plain_spec())
    del weights[name]
    with pytest.raises(CheckpointError, match=rf"^{name}: the architecture needs it"):
        Program(plain_spec(), weights)


@pytest.mark.parametrize("name", list(slots(plain_spec())))
def test_a_misshapen_weight_is_named_with_both_shapes(name: str) -> None:
    weights = zero_weights(plain_spec())
    shape = weights[name].shape
    weights[name] = zeros((*shape[:-1], shape[-1] + 1), "F32")
    with pytest.raises(CheckpointError) as error:
        Program(plain_spec(), weights)
    assert str(error.value) == f"{name}: has shape {[*shape[:-1], shape[-1] + 1]}, the config asks for {list(shape)}"


def test_a_transposed_weight_is_misshapen() -> None:
    weights = zero_weights(plain_spec())
    weights["layers.1.mlp.down.weight"] = zeros((12, 8), "F32")
    with pytest.raises(CheckpointError, match=r"^layers\.1\.mlp\.down\.weight"):
        Program(plain_spec(), weights)


def test_an_extra_weight_is_named() -> None:
    weights = {**zero_weights(plain_spec()), "layers.0.mixer.o.bias": zeros((8,), "F32")}
    with pytest.raises(CheckpointError, match=r"^layers\.0\.mixer\.o\.bias: the architecture has no place"):
        Program(plain_spec(), weights)


def test_a_program_does_not_change() -> None:
    weights = zero_weights(plain_spec())
    program = Program(plain_spec(), weights)
    with pytest.raises(TypeError):
        program.weights["head.weight"] = zeros((11, 8), "F32")  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        program.spec = plain_spec(3)  # type: ignore[misc]
    weights.clear()
    assert list(program.weights) == list(slots(plain_spec()))


def test_the_dtype_is_that_of_most_bytes() -> None:
    weights = zero_weights(plain_spec())
    mixed = {name: tensor if "norm" in name else cast(tensor, "BF16") for name, tensor in weights.items()}
    assert Program(plain_spec(), mixed).dtype == "BF16"
    assert Program(plain_spec(), weights).dtype == "F32"


def test_the_kv_cache_has_the_bytes_of_each_layer_s_window_heads_and_dtype() -> None:
    spec = replace(plain_spec(3), context=10_000)
    full, windowed = attention_of(spec.layers[0]), replace(attention_of(spec.layers[1]), window=100)
    spec = with_layer(with_layer(spec, 1, mixer=windowed), 2, mixer=RunningMean(5))
    program = Program(spec, {name: zeros(slot.shape, "BF16") for name, slot in slots(spec).items()})
    per_token, fixed = 2 * 2 * full.kv_size, 4 * 5
    assert program.state_bytes(60) == 2 * 60 * per_token + fixed
    assert program.kv_cache == {tokens: (tokens + 100) * per_token + fixed for tokens in (1024, 8192, 10_000)}


def test_a_context_has_no_cache_beyond_it() -> None:
    program = Program(plain_spec(), zero_weights(plain_spec()))
    assert [*program.kv_cache] == [plain_spec().context]


def test_an_update_keeps_what_the_new_spec_has_and_drops_the_rest() -> None:
    program = random_program(with_mixer(plain_spec(), q_bias=True))
    spec = replace(with_mixer(plain_spec(), o_bias=True), head=ir.Head(tied=True))
    new = {f"layers.{i}.mixer.o.bias": zeros((8,), "F32") for i in range(2)}
    updated = program.updated(spec, new)
    assert updated.spec == spec
    assert "layers.0.mixer.q.bias" not in updated.weights
    assert "head.weight" not in updated.weights
    assert all(updated.weights[name] is program.weights[name] for name in updated.weights if name not in new)
    assert all(updated.weights[name] is new[name] for name in new)
    assert torch.equal(updated.weights["embedding.weight"].read(), program.weights["embedding.weight"].read())


def test_an_update_that_leaves_a_weight_out_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"layers\.0\.mixer\.o\.bias"):
        random_program(plain_spec()).updated(with_mixer(plain_spec(), o_bias=True), {})
