"""Layers without a mixer or without an MLP run wherever a model runs, layer 0 included."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from kept.ir import spec as ir
from kept.ir.program import Program
from kept.nn import generate
from kept.nn.model import Model
from kept.verification.calibration import calibrate
from kept.verification.lockstep import Lane
from kept.verification.parity import measure
from kept.verification.streamed import StreamedRun
from support.logits import logits, model_of, random_program, some_tokens, worst
from support.plain import plain_logits
from support.specs import VOCABULARY, plain_spec, with_layer

if TYPE_CHECKING:
    from torch import Tensor

EXACT = 1e-9
"""Tolerance for logits of size 1 to 10, in float64."""

NORM = ir.Norm("layer", 1e-3, bias=True)
NO_MIXER = {"mixer": None, "mixer_norm": None, "mlp_post_norm": NORM, "residual_multiplier": 0.5}
NO_MLP = {"mlp": None, "mlp_norm": None, "mixer_post_norm": NORM}
NOTHING = {"mixer": None, "mixer_norm": None, "mlp": None, "mlp_norm": None}

CASES = {
    "layer 0 without mixer": {0: NO_MIXER},
    "the last layer without mixer": {2: NO_MIXER},
    "a layer without MLP": {1: NO_MLP},
    "one without each": {0: NO_MIXER, 1: NO_MLP},
    "parallel layers without each": {0: {**NO_MIXER, "parallel": True}, 2: {**NO_MLP, "parallel": True}},
    "an empty layer": {0: NOTHING, 2: NO_MLP},
    "a shared norm": {0: NO_MIXER, 1: {"mlp_norm": None, "parallel": True, "shared_norm": True}},
}

TOKENS = some_tokens(2, 9, VOCABULARY)


@pytest.fixture(params=CASES.values(), ids=CASES)  # type: ignore[call-overload, untyped-decorator]
def program(request: pytest.FixtureRequest) -> Program:
    spec = plain_spec(3)
    spec = replace(spec, layers=tuple(replace(layer, mixer_norm=NORM, mlp_norm=NORM) for layer in spec.layers))
    for index, changes in request.param.items():
        spec = with_layer(spec, index, **changes)
    return random_program(spec)


def test_logits_are_those_of_the_reference(program: Program) -> None:
    for row, found_TV in zip(TOKENS, logits(program, TOKENS), strict=True):
        assert worst(found_TV, plain_logits(program, row.tolist())) < EXACT


def test_an_absent_branch_is_one_that_adds_zero(program: Program) -> None:
    """Return the same weights with every branch present and its last projection zero; negative control: not zero."""
    full = plain_spec(3).layers[0]
    spec = program.spec
    for index, layer in enumerate(spec.layers):
        absent = {name: getattr(full, name) for name in ("mixer", "mlp") if getattr(layer, name) is None}
        norms = {f"{name}_norm": NORM for name in absent if not layer.shared_norm}
        spec = with_layer(spec, index, **absent, **norms)
    whole = random_program(spec, seed=1)
    silent = {
        name: replace(lazy, values=torch.zeros(lazy.shape, dtype=torch.float64)) if _closes(name) else lazy  # type: ignore[call-arg]
        for name, lazy in whole.weights.items()
        if name not in program.weights
    }
    assert silent
    given = {name: lazy for name, lazy in whole.weights.items() if name not in program.weights}
    found, wanted = logits(Program(spec, {**program.weights, **silent}), TOKENS), logits(program, TOKENS)
    assert worst(found, wanted) < EXACT
    assert worst(logits(Program(spec, {**program.weights, **given}), TOKENS), wanted) > 1e-3


def _closes(name: str) -> bool:
    return name.endswith(("mixer.o.weight", "mlp.down.weight"))


def test_decoding_is_reading_at_once(program: Program) -> None:
    model = model_of(program)
    state = model.empty_state()
    assert [kept is None for kept in state.layers] == [layer.mixer is None for layer in program.spec.layers]
    with torch.inference_mode():
        found = torch.cat([model(piece, state) for piece in TOKENS.split([1, 4, 1, 3], dim=1)], dim=1)
        assert state.position == TOKENS.shape[1]
        assert worst(found, model(TOKENS)) < EXACT
        assert worst(model(TOKENS[:, 5:6]), found[:, 5:6]) > 1e-3, "negative control: without a state"


def test_generation_is_the_most_likely_token_each_time(program: Program) -> None:
    model, prompts = model_of(program), [[3, 1, 4, 1, 5], [2]]
    found = generate(model, prompts, 12)
    for prompt, new in zip(prompts, found, strict=True):
        tokens = list(prompt)
        for _ in range(12):
            tokens.append(int(logits(program, torch.tensor([tokens]))[0, -1].argmax()))
        assert new == tokens[len(prompt) :]
    assert found[0] != found[1]


def test_packed_documents_do_not_attend_to_each_other(program: Program) -> None:
    model, documents = model_of(program), torch.tensor([[0] * 4 + [1] * 5, [0] * 2 + [1] * 7])
    with torch.inference_mode():
        packed = model(TOKENS, documents_BT=documents)
        assert worst(packed[:1, 4:], model(TOKENS[:1, 4:])) < EXACT
        assert worst(packed[1:, 2:], model(TOKENS[1:, 2:])) < EXACT


def test_layer_by_layer_is_the_whole_model(program: Program) -> None:
    run = StreamedRun(program, torch.float64)
    for found, wanted in zip(run.streams(TOKENS), model_of(program).streams(TOKENS), strict=True):
        assert worst(found, wanted) < EXACT
    (parity,) = measure([(Lane(run, TOKENS), Lane(StreamedRun(program, torch.float64), TOKENS))])
    assert parity.max_logit_error == 0
    assert parity.layers == (0.0,) * 4


def test_every_norm_that_is_there_is_calibrated(program: Program) -> None:
    branches = [f"{at}{branch.norm_name}" for at, branch in program.spec.branches()]
    assert [*calibrate(program, TOKENS)] == [*dict.fromkeys(branches)]


def test_parameters_are_the_slots(program: Program) -> None:
    found = {name: tuple(value.shape) for name, value in Model(program.spec).named_parameters()}
    assert found == {name: lazy.shape for name, lazy in program.weights.items()}


def test_gradients_reach_every_weight(program: Program) -> None:
    model = model_of(program).requires_grad_()
    _loss(model(TOKENS)).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


def _loss(logits_BTV: Tensor) -> Tensor:
    return logits_BTV.log_softmax(-1)[..., 3].sum()
