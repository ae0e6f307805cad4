"""Trainable parameters: words, patterns, and their counts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from kept.distillation.train.choose_trainable import lora_slots, trainable
from kept.errors import InputError
from kept.ir import spec as ir
from kept.ir.slots import slots
from kept.nn import Model
from kept.passes.to_latent import ToLatent
from support.logits import random_program
from support.pass_helpers import MIXER, layer_spec, rms_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

QK = ir.QkNorm(ir.Norm("rms", 1e-6), "shared")


def test_norms_are_every_gain_and_bias_of_a_norm() -> None:
    program = random_program(layer_spec())
    norms = trainable(program, "norms")
    assert set(norms.slots) == {name for name in program.weights if "norm." in name}
    assert norms.parameters == (2 * 3 + 1) * 2 * 16
    assert norms.of == program.parameters
    assert norms.optimiser_bytes == 16 * norms.parameters


def test_norms_of_queries_and_keys_are_norms() -> None:
    program = random_program(rms_spec(replace(MIXER, qk_norm=QK)))
    assert "layers.1.mixer.q_norm.gain" in trainable(program, "norms").slots


def test_the_head_of_a_tied_model_is_its_embedding() -> None:
    assert trainable(random_program(layer_spec()), "head").slots == ("head.weight",)
    tied = random_program(layer_spec(head=ir.Head(tied=True)))
    assert trainable(tied, "head").slots == ("embedding.weight",)


def test_parts_are_joined_and_counted_once() -> None:
    program = random_program(layer_spec())
    both = trainable(program, "norms+head+final_norm.gain")
    assert both.parameters == trainable(program, "norms").parameters + trainable(program, "head").parameters


def test_a_pattern_names_slots() -> None:
    program = random_program(layer_spec())
    chosen = trainable(program, "layers.1.mlp.*").slots
    assert chosen
    assert all(name.startswith("layers.1.mlp.") for name in chosen)


def test_new_is_what_the_record_lists() -> None:
    program = random_program(layer_spec())
    record = {"new_layers": [2], "new_parameters": ["layers.0.mixer.q.bias"]}
    chosen = set(trainable(program, "new", record).slots)
    assert chosen == {n for n in program.weights if n.startswith("layers.2.")} | {"layers.0.mixer.q.bias"}


@pytest.mark.parametrize("choice", ["nrms", "layers.9.*", "norms+", ""])
def test_what_names_nothing_is_refused(choice: str) -> None:
    with pytest.raises(InputError, match="names no weight; use all, norms, head, new, lora, or a pattern"):
        trainable(random_program(layer_spec()), choice)


def test_new_without_anything_new_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"'new' is what kept expand or a conversion made, and the student's kept\.json lists nothing"
    ):
        trainable(random_program(layer_spec()), "norms+new", {"new_layers": [], "new_parameters": []})


@pytest.mark.parametrize("numbers", [5, "2", {"2": 1}, [99], [-1], [None], [[1]], [1.0], [True], [10**400]])
def test_a_record_of_layers_that_there_are_not(numbers: object) -> None:
    with pytest.raises(
        InputError, match=r"kept\.json lists, but its new_layers is not a list of layers from 0 to 2; use"
    ):
        trainable(random_program(rms_spec()), "new", {"new_layers": numbers})


@pytest.mark.parametrize("names", [3, "layers.0.mixer.q.weight", [3], [["a"]], [{"a": 1}]])
def test_a_record_of_weights_that_are_no_names(names: object) -> None:
    with pytest.raises(InputError, match=r"but its new_parameters is not a list of names of weights; use norms$"):
        trainable(random_program(rms_spec()), "new", {"new_layers": [1], "new_parameters": names})


def test_only_the_chosen_weights_are_trained_and_in_float32() -> None:
    program = random_program(layer_spec())
    model = Model.load(program, torch.bfloat16)
    chosen = trainable(program, "norms")
    chosen.apply(model)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == set(chosen.slots)
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters() if not parameter.requires_grad} == {torch.bfloat16}


def test_lora_adapts_matrices_by_their_role(monkeypatch: pytest.MonkeyPatch) -> None:
    program = random_program(layer_spec())
    wanted = {n for n, slot in slots(program.spec).items() if n.startswith("layers.") and slot.role == "matrix"}
    assert set(lora_slots(program.spec)) == wanted
    assert "layers.1.mlp.down.weight" in wanted

    original = ir.Mlp.slots

    def with_a_convolution(mlp: ir.Mlp, width: int) -> Iterator[tuple[str, ir.Slot]]:
        for name, slot in original(mlp, width):
            yield name, replace(slot, role="conv") if name == "down.weight" else slot

    monkeypatch.setattr(ir.Mlp, "slots", with_a_convolution)
    assert set(lora_slots(program.spec)) == {name for name in wanted if not name.endswith("mlp.down.weight")}


def test_lora_leaves_out_what_a_mixer_reads_in_parts() -> None:
    """Latent attention applies parts of this matrix when it decodes, which an adapter would not change."""
    spec = ToLatent()(random_program(rms_spec())).spec
    adapted = {name for name in lora_slots(spec) if name.startswith("layers.0.mixer.")}
    assert adapted == {f"layers.0.mixer.{name}.weight" for name in ("q_a", "q_b", "kv_a", "o")}
