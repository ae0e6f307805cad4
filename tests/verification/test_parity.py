"""Parity is what its formulas say, of whole models, of parts of them, and of models that are broken."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from kept.families import TARGETS
from kept.ir.tensors import Computed
from kept.passes.fold_norm_bias import FoldNormBias
from kept.passes.legalize import legalise
from kept.passes.rules import Options
from kept.verification.lockstep import Lane
from kept.verification.parity import measure
from kept.verification.streamed import StreamedRun
from support.logits import logits, program_of, some_tokens
from support.models import write_checkpoint

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.verification.parity import Parity

TOKENS = some_tokens(3, 17)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return program_of(write_checkpoint(tmp_path_factory.mktemp("orion"), "orion"))


def scaled(program: Program, name: str, factor: float) -> Program:
    """The program with one weight multiplied."""
    weight = program.weights[name]
    changed = Computed(weight.shape, weight.dtype, lambda rows: factor * rows, (weight,), local=True)
    return program.updated(program.spec, {name: changed})


def parity(reference: Program, candidate: Program, tokens: torch.Tensor = TOKENS) -> Parity:
    (found,) = measure([(lane(reference, tokens=tokens), lane(candidate, tokens=tokens))])
    return found


def lane(program: Program, dtype: torch.dtype = torch.float64, tokens: torch.Tensor = TOKENS) -> Lane:
    return Lane(StreamedRun(program, dtype), tokens)


def test_every_figure_is_its_formula(program: Program) -> None:
    other = scaled(program, "layers.1.mlp.down.weight", 1.3)
    wanted_BTV, found_BTV = logits(program, TOKENS), logits(other, TOKENS)
    p_BTV, q_BTV = wanted_BTV.softmax(-1), found_BTV.softmax(-1)
    found = parity(program, other)
    spread = (wanted_BTV - wanted_BTV.mean(-1, keepdim=True)).square().mean(-1)
    assert found.tokens == 51
    assert found.logit_std == pytest.approx(float(spread.mean().sqrt()))
    assert found.max_logit_error == pytest.approx(float((wanted_BTV - found_BTV).abs().max()))
    assert found.mean_logit_error == pytest.approx(float((wanted_BTV - found_BTV).abs().mean()))
    assert found.kl == pytest.approx(float((p_BTV * (p_BTV / q_BTV).log()).sum(-1).mean()))
    assert found.top1 == pytest.approx(float((wanted_BTV.argmax(-1) == found_BTV.argmax(-1)).double().mean()))
    assert 0 < found.top1 < 1
    next_BT = TOKENS[:, 1:, None]
    for figure, of in ((found.perplexity_reference, p_BTV), (found.perplexity, q_BTV)):
        assert figure == pytest.approx(float((-of[:, :-1].gather(-1, next_BT).log().mean()).exp()))


def test_a_model_is_equal_to_itself(program: Program) -> None:
    found = parity(program, program)
    assert (found.max_logit_error, found.mean_logit_error, found.kl, found.top1) == (0, 0, 0, 1)
    assert found.perplexity == found.perplexity_reference
    assert found.layers == (0, 0, 0, 0)


def test_errors_of_layers_begin_where_the_change_is(program: Program) -> None:
    found = parity(program, scaled(program, "layers.1.mixer.v.weight", 1.1))
    assert found.layers[:2] == (0, 0)
    assert all(0.01 < error < 1 for error in found.layers[2:])


def test_layers_are_compared_as_the_next_norm_reads_them(program: Program) -> None:
    plan = legalise(program, TARGETS["llama"].violations, Options())
    found = parity(program, plan.program)
    assert plan.program.spec.depth == program.spec.depth + 1
    assert len(found.layers) == program.spec.depth + 1, "the tail has nothing to be compared with"
    assert max(found.layers) < 1e-14, "the stream lost its mean, which no norm sees"
    assert found.max_logit_error < 1e-9


def test_a_reference_deeper_than_the_candidate(program: Program) -> None:
    plan = legalise(program, TARGETS["llama"].violations, Options())
    found = parity(plan.program, program)
    assert len(found.layers) == program.spec.depth + 1
    assert found.max_logit_error < 1e-9


def test_several_candidates_are_measured_as_each_alone(program: Program) -> None:
    others = [scaled(program, "head.weight", factor) for factor in (0.5, 1.5)]
    reference = lane(program)
    together = measure([(reference, lane(other)) for other in others])
    assert together == [parity(program, other) for other in others]


def test_dtypes_show_as_noise(program: Program) -> None:
    lanes = [lane(program, dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)]
    exact, single, half = measure([(lanes[0], one) for one in lanes])
    assert exact.max_logit_error == 0
    assert 1e-8 < single.mean_logit_error < 1e-4
    assert 1e-3 < half.mean_logit_error < 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["embedding.weight", "layers.2.mixer.o.weight", "head.weight"])
def test_a_weight_that_is_nan_shows(program: Program, name: str, value: float) -> None:
    found = parity(program, scaled(program, name, value))
    assert not math.isfinite(found.max_logit_error)
    assert not math.isfinite(found.kl)


def test_a_number_beyond_all_bounds_is_infinity_not_an_error(program: Program) -> None:
    found = parity(program, scaled(program, "head.weight", 1e6))
    assert found.perplexity == math.inf
    assert math.isfinite(found.perplexity_reference)


def test_a_single_token_has_logits_and_no_prediction(program: Program) -> None:
    found = parity(program, program, TOKENS[:1, :1])
    assert (found.tokens, found.perplexity) == (1, 1)


def test_progress_counts_every_layer_of_every_run(program: Program) -> None:
    plan = legalise(program, TARGETS["llama"].violations, Options())
    calls: list[int] = []
    lanes = [Lane(StreamedRun(one, torch.float64), TOKENS, progress=calls.append) for one in (program, plan.program)]
    measure([(lanes[0], lanes[1])])
    assert calls == [1] * 7


def test_a_dropped_head_bias_is_measured_not_hidden(program: Program) -> None:
    folded = FoldNormBias()(program)
    spec = replace(folded.spec, head=replace(folded.spec.head, bias=False))
    found = parity(program, folded.updated(spec, {}))
    assert found.layers[-1] < 1e-14
    assert found.mean_logit_error > 0.1
