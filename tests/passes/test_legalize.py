"""Plans into Llama: exact through disk and through stock classes, as short as they can be, or refused with a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import torch

from kept.errors import Refusal
from kept.families import family_of
from kept.families.llama import LLAMA
from kept.families.mistral import MISTRAL
from kept.ir import spec as ir
from kept.ir.facts import Violation
from kept.ir.promise import Promise
from kept.ir.slots import readings
from kept.ir.tensors import Stored, zeros
from kept.nn import Model
from kept.passes.centre import Centre
from kept.passes.fill_biases import FillBiases
from kept.passes.fold_norm_bias import FoldNormBias
from kept.passes.layer_norm_to_rms import LayerNormToRms
from kept.passes.legalize import legalise, run_passes, stand_ins
from kept.passes.map_spec import map_layers
from kept.passes.reasons import TargetRefusal
from kept.passes.rules import Options
from kept.passes.untie_head import UntieHead
from support.logits import logits, program_of, random_program, some_tokens, stock, stock_logits, worst
from support.models import write_checkpoint
from support.orion_formulas import reference_orion
from support.pass_helpers import (
    GATED,
    MIXER,
    PLAIN,
    RMS_NORM,
    TOLERANCE,
    divergence,
    layer_spec,
    perturbed,
    replaced,
    rms_spec,
    save,
    through_disk,
    unread,
    value,
)
from support.running_mean import RunningMean
from support.shared_data import DATA, needs_data
from support.specs import attention_of, plain_spec, with_layer, with_mixer, with_mlp
from support.tiny import ORION_CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.program import Program
    from kept.passes.base import Pass
    from kept.passes.plan import Plan

FAMILIES = ("llama", "mistral", "qwen2", "orion", "stablelm", "starcoder2")
STOCK_TOLERANCE = 1e-5
"""Tolerance between two stock classes: they compute norms and angles in float32."""

TOKENS = some_tokens()

EXACT = "exact"
NORMS = [("centre", EXACT), ("layernorm-to-rmsnorm", EXACT), ("fold-norm-bias", EXACT), ("affine-tail", EXACT)]
PLANS = {
    "llama": [],
    "mistral": [],
    "qwen2": [("fill-biases", EXACT)],
    "orion": [*NORMS, ("fill-biases", EXACT)],
    "stablelm": [("full-rotary", EXACT), *NORMS, ("fill-biases", EXACT)],
    "starcoder2": [("plain-to-gated", EXACT), ("untie-head", EXACT), *NORMS],
}


def to_llama(program: Program, **options: object) -> Plan:
    return legalise(program, LLAMA.violations, Options(**options))  # type: ignore[arg-type]


def names(plan: Plan) -> list[tuple[str, str]]:
    return [(step.rewrite.name, step.promise.value) for step in plan.steps]


def refused(program: Program, **options: object) -> str:
    with pytest.raises(Refusal) as caught:
        to_llama(program, **options)
    return str(caught.value)


@dataclass(frozen=True)
class Converted:
    """A family's tiny checkpoint, its logits by its own class (Orion's by the formulas), and its plan into Llama."""

    name: str
    source: Path
    program: Program
    reference: torch.Tensor
    plan: Plan


@pytest.fixture(scope="module", params=FAMILIES)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    name = request.param
    source = write_checkpoint(tmp_path_factory.mktemp(name) / "source", name)
    program = program_of(source)
    reference = reference_orion(source, TOKENS) if name == "orion" else stock_logits(source, TOKENS)
    return Converted(name, source, program, reference, to_llama(program, dtype="F64"))


def test_the_output_is_exact_through_disk(converted: Converted, tmp_path: Path) -> None:
    """Written in float64, so that the rounding of the output's own format is not in the way."""
    output = through_disk(converted.plan.program, LLAMA, tmp_path / "out")
    wanted = logits(converted.program, TOKENS)
    assert 1 < wanted.std() < 3
    assert worst(logits(output, TOKENS), wanted) < TOLERANCE


def test_every_weight_of_the_output_counts(converted: Converted, tmp_path: Path) -> None:
    """Negative control of the test above: noise on any one weight fails it, but in the tail's closed attention."""
    output = through_disk(converted.plan.program, LLAMA, tmp_path / "out")
    wanted = logits(converted.program, TOKENS)
    same = {name for name in output.weights if worst(logits(perturbed(output, name), TOKENS), wanted) < TOLERANCE}
    assert same == closed(converted.plan)


def closed(plan: Plan) -> set[str]:
    """The weights of the tail that nothing can come through: its values and its output projection are zero."""
    if "affine-tail" not in {step.rewrite.name for step in plan.steps}:
        return set()
    at = f"layers.{plan.program.spec.depth - 1}."
    within = {name.removeprefix(at) for name in plan.program.weights if name.startswith(at)}
    return {at + name for name in within if name.startswith(("mixer", "mixer_norm")) and name != "mixer.o.bias"}


def test_the_stock_class_computes_the_same(converted: Converted, tmp_path: Path) -> None:
    directory = save(converted.plan.program, LLAMA, tmp_path / "out")
    assert type(stock(directory)).__name__ == "LlamaForCausalLM"
    assert worst(stock_logits(directory, TOKENS), converted.reference) < STOCK_TOLERANCE
    for name in ("layers.1.mixer.k.weight", "layers.2.mlp.gate.weight", "final_norm.gain"):
        wrong = save(perturbed(converted.plan.program, name), LLAMA, tmp_path / name)
        assert worst(stock_logits(wrong, TOKENS), converted.reference) > 10 * STOCK_TOLERANCE


def test_the_passes_are_the_fewest_that_do(converted: Converted) -> None:
    """Golden lists; nothing more is promised than what each pass keeps."""
    plan = to_llama(converted.program)
    assert names(plan) == PLANS[converted.name]
    assert plan.promise is Promise.EXACT
    assert not LLAMA.violations(plan.program.spec)
    assert names(converted.plan) == [("cast", EXACT), *PLANS[converted.name]]


def test_leaving_out_a_pass_would_show(converted: Converted) -> None:
    """Negative control of the lists: without any one of its passes a plan cannot be run or does not reach Llama."""
    plan = to_llama(converted.program)
    for left_out in plan.steps:
        rest = [step.rewrite for step in plan.steps if step is not left_out]
        try:
            reached = run_passes(converted.program, rest).program.spec
        except Refusal:
            continue
        assert LLAMA.violations(reached)


NOTHING_TO_FORGET = {"cast", "layernorm-to-rmsnorm", "fill-biases"}


def test_each_pass_counts(converted: Converted) -> None:
    """Negative control of each: it changes the architecture and leaves the weights as they were, new ones zero."""
    wanted = logits(converted.program, TOKENS)
    for forgetful in converted.plan.steps:
        program = converted.program
        for step in converted.plan.steps:
            after = step.rewrite(program)
            program = forgotten(program, after) if step is forgetful else after
        broken = worst(logits(program, TOKENS), wanted) > 1e3 * TOLERANCE
        assert broken is (forgetful.rewrite.name not in NOTHING_TO_FORGET), forgetful.rewrite.name


def forgotten(before: Program, after: Program) -> Program:
    old = {name: before.weights.get(name) for name in after.weights}
    kept = {
        name: zeros(tensor.shape, tensor.dtype) if (was := old[name]) is None or was.shape != tensor.shape else was
        for name, tensor in after.weights.items()
    }
    return after.updated(after.spec, kept)


def test_what_is_not_computed_is_copied(converted: Converted) -> None:
    """Stored bytes stay stored: all but what a pass had to compute or to add."""
    program = to_llama(converted.program).program
    tail = f"layers.{converted.program.spec.depth}."
    computed = {n for n, tensor in program.weights.items() if not isinstance(tensor, Stored) and not n.startswith(tail)}
    family = converted.program.spec
    if all(reading.value.kind == "rms" for reading in readings(family)):
        added = {f"layers.{i}.mixer.o.bias" for i in range(3)} if attention_of(family.layers[0]).q_bias else set()
        assert computed == added
        return
    assert not {name for name in computed if name.endswith("norm.gain") and name != "final_norm.gain"}
    assert not {name for name in computed if name.endswith(("v.weight", "gate.weight"))}
    turned = "full-rotary" in {name for name, _ in names(converted.plan)}
    assert any(name.endswith("k.weight") for name in computed) is turned


def test_a_plan_reads_nothing(converted: Converted) -> None:
    shapes = unread(converted.program.spec)
    dry = to_llama(shapes)
    wet = to_llama(converted.program)
    assert dry.program.spec == wet.program.spec
    assert [replace(step, rewrite=Centre()) for step in dry.steps] == [
        replace(step, rewrite=Centre()) for step in wet.steps
    ]


@pytest.mark.parametrize("name", ["orion", "stablelm", "starcoder2"])
def test_bfloat16_stays_at_the_noise_of_bfloat16(name: str, tmp_path: Path) -> None:
    """From a bfloat16 checkpoint to a bfloat16 one through disk, against what the source itself loses in bfloat16."""
    source = program_of(write_checkpoint(tmp_path / "source", name, dtype=torch.bfloat16))
    output = through_disk(to_llama(source).program, LLAMA, tmp_path / "out")
    assert output.dtype == "BF16"
    tokens = some_tokens(4, 48)
    wanted = logits(source, tokens)
    with torch.inference_mode():
        noise, found = (divergence(wanted, Model.load(program)(tokens)) for program in (source, output))
    assert 1e-5 < noise < 1e-2
    assert found < 2.25 * noise


@needs_data
def test_a_really_trained_orion() -> None:
    source = program_of(DATA / "checkpoints" / "orion-9m")
    plan = to_llama(source)
    assert names(plan) == PLANS["orion"]
    tokens = some_tokens(1, 48, source.spec.vocabulary)
    wanted = logits(source, tokens)
    assert worst(logits(plan.program, tokens), wanted) < TOLERANCE
    dropped = to_llama(source, final_bias="drop").program
    assert worst(logits(dropped, tokens), wanted) > 1e3 * TOLERANCE


def orion(depth: int, **changes: object) -> Program:
    """Orion of any size, without bytes."""
    return unread(family_of(ORION_CONFIG).read_config({**ORION_CONFIG, "num_hidden_layers": depth, **changes}), "BF16")


ORION_14B = {
    "vocab_size": 84608,
    "hidden_size": 5120,
    "intermediate_size": 15360,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize("depth", [1, 3, 40])
def test_opm_gives_the_plain_llama_of_the_paper(depth: int) -> None:
    source = orion(depth)
    plan = to_llama(source, norm="opm")
    assert len(source.weights) == 3 + 9 * depth + 2 * depth + 1
    assert len(plan.program.weights) == 3 + 9 * depth
    assert not any(name.endswith("bias") for name in plan.program.weights)
    assert names(plan) == [("layernorm-to-rmsnorm", "lossy")]
    assert plan.promise is Promise.LOSSY


def test_orion_14b() -> None:
    """The counts of METHODS 1.1, and what being exact costs: one layer, 2.3 % of the model."""
    source = orion(40, **ORION_14B)
    assert len(source.weights) == 444
    assert round(source.parameters / 1e9, 2) == 14.50
    assert len(to_llama(source, norm="opm").program.weights) == 363
    plan = to_llama(source)
    tail = next(step for step in plan.steps if step.rewrite.name == "affine-tail")
    assert (plan.program.spec.depth, tail.layers) == (41, 1)
    assert 0.022 < tail.parameters / source.parameters < 0.024
    assert plan.program.parameters - source.parameters == sum(step.parameters for step in plan.steps)
    assert plan.program.nbytes - source.nbytes == sum(step.nbytes for step in plan.steps)


def test_opm_centred_and_calibrated() -> None:
    source = orion(2)
    centred = to_llama(source, norm="opm-centred")
    assert names(centred) == [("centre", EXACT), ("layernorm-to-rmsnorm", "lossy")]
    with pytest.raises(Refusal, match=r"layers\.0\.mixer_norm: has no measured gain; give text to calibrate on"):
        to_llama(source, norm="calibrated")
    gains = {reading.norm: torch.ones(source.spec.width) for reading in readings(source.spec)}
    calibrated = legalise(source, LLAMA.violations, Options(norm="calibrated"), gains)
    assert names(calibrated) == [("layernorm-to-rmsnorm", "lossy")]


def test_the_final_bias_can_be_dropped() -> None:
    plan = to_llama(orion(2), final_bias="drop")
    assert names(plan) == [
        *NORMS[:3],
        ("drop-final-bias", "approximate"),
        ("fill-biases", EXACT),
    ]
    assert plan.promise is Promise.APPROXIMATE
    assert plan.program.spec.depth == 2


def test_float16_cannot_hold_the_block() -> None:
    said = refused(orion(2), dtype="F16")
    assert (
        said
        == "affine-tail: dtype: float16 overflows in the tail; use --dtype bfloat16 or float32, or --final-bias drop"
    )
    assert to_llama(orion(2), dtype="F16", final_bias="drop").program.dtype == "F16"
    assert to_llama(orion(2), dtype="F16", norm="opm").program.dtype == "F16"


def test_a_dtype_reaches_every_weight() -> None:
    """Also where most weights have it already."""
    program = random_program(rms_spec())
    mixed = program.updated(program.spec, {"final_norm.gain": unread(rms_spec()).weights["final_norm.gain"]})
    plan = to_llama(mixed, dtype="F64")
    assert {tensor.dtype for tensor in plan.program.weights.values()} == {"F64"}
    assert names(plan) == [("cast", EXACT)]


NO_MAP = "no exact map exists; distil it into a fresh model of the target: kept heal FRESH --teacher MODEL"


def test_gpt2_is_refused_with_every_reason(tmp_path: Path) -> None:
    said = refused(program_of(write_checkpoint(tmp_path / "source", "gpt2")))
    assert said == (
        "positions: positions are learned, and the target has no table of them; "
        f"every layer's mixer.attention.rope: queries and keys are not rotated, and the target always rotates; {NO_MAP}"
    )


def test_parallel_residuals_are_refused(tmp_path: Path) -> None:
    said = refused(program_of(write_checkpoint(tmp_path / "source", "stablelm", use_parallel_residual=True)))
    assert said == (
        f"every layer's parallel: attention and MLP read the same stream, the target has no parallel residual; {NO_MAP}"
    )


def test_query_key_norms_are_refused(tmp_path: Path) -> None:
    said = refused(program_of(write_checkpoint(tmp_path / "source", "stablelm", qk_layernorm=True)))
    why = "queries and keys are normalised, which no weights of the target can do"
    assert said == f"every layer's mixer.attention.qk_norm: {why}; {NO_MAP}"


@pytest.mark.parametrize("name", ["mistral", "starcoder2"])
def test_an_active_window_is_refused_until_the_context_is_shortened(name: str, tmp_path: Path) -> None:
    source = program_of(write_checkpoint(tmp_path / "source", name, sliding_window=12))
    why = "layers.0.mixer: a sliding window of 12 is active: the context has 128 positions"
    assert refused(source) == f"drop-window: {why}; shorten the context (--context 12)"
    plan = to_llama(source, context=12, dtype="F64")
    assert names(plan)[:2] == [("limit-context", EXACT), ("cast", EXACT)]
    assert ("drop-window", EXACT) in names(plan)
    output = through_disk(plan.program, LLAMA, tmp_path / "out")
    assert output.spec.context == 12
    assert worst(logits(output, TOKENS[:, :12]), logits(source, TOKENS[:, :12])) < TOLERANCE
    assert worst(logits(output, TOKENS), logits(source, TOKENS)) > 1e3 * TOLERANCE


def test_a_longer_context_is_refused() -> None:
    assert (
        refused(orion(2), context=4096) == "limit-context: context: has 128 positions, 4096 were asked; ask for fewer"
    )


UNNORMALISED = "attention and MLP read the stream as it is, the target normalises it first"

ODD = {
    "no norm before": (
        layer_spec(norm=ir.NO_NORM),
        f"final_norm.kind, mixer_norm.kind, mlp_norm.kind: {UNNORMALISED}",
    ),
    "norms behind": (
        map_layers(rms_spec(), lambda layer: replace(layer, mixer_post_norm=RMS_NORM)),
        "every layer's mixer_post_norm: a norm stands behind attention and MLP, which no weights of the target can do",
    ),
    "two epsilons": (
        replace(rms_spec(), final_norm=ir.Norm("rms", 1e-5)),
        "final_norm.eps: norms have different epsilons, the target has one",
    ),
    "capped scores": (
        with_mixer(rms_spec(), softcap=20.0),
        "every layer's mixer.attention.softcap: scores are capped by a tanh in one of the two models only",
    ),
    "capped logits": (
        rms_spec(head=ir.Head(softcap=20.0)),
        "head.softcap: logits are capped by a tanh in one of the two models only",
    ),
    "two rotations": (
        with_layer(rms_spec(), 1, mixer=replace(MIXER, rope=ir.Rope(50.0, 8))),
        "layers.1.mixer.attention.rope.theta is 50.0, the target has 100.0",
    ),
    "two sizes": (
        with_layer(rms_spec(), 1, mlp=replace(GATED, size=20)),
        "layers.1.mlp.dense.size is 20, the target has 24",
    ),
    "width and heads": (
        with_mixer(rms_spec(), heads=6, kv_heads=2),
        "layers.0.mixer.attention.heads is 6, the target has a divisor of the width 16",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_no_pass_removes_is_refused_with_its_reason(name: str) -> None:
    spec, why = ODD[name]
    *reasons, way_out = refused(unread(spec)).split("; ", refused(unread(spec)).count("; ") - 1)
    assert why in reasons
    assert way_out == NO_MAP


def test_a_rotation_that_no_pass_makes_whole_is_refused() -> None:
    rope = ir.Rope(100.0, 4, scaling=ir.Yarn(2.0, 20))
    said = refused(unread(rms_spec(replace(MIXER, rope=rope))))
    assert said.startswith("full-rotary: layers.0.mixer.rope: rotates 4 of 8 dimensions with yarn scaling; ")


EVERYTHING = layer_spec(
    replace(MIXER, fused=True, rope=ir.Rope(100.0, 4, interleaved=True), window=40, o_bias=False),
    replace(PLAIN, down_bias=False),
    head=ir.Head(tied=True),
)


def test_everything_at_once(tmp_path: Path) -> None:
    """Fused, windowed, plain, partial, interleaved, tied, LayerNorm with bias, and some biases missing."""
    program = random_program(EVERYTHING)
    plan = to_llama(program)
    assert [name for name, _ in names(plan)] == [
        "split-projections",
        "drop-window",
        "plain-to-gated",
        "full-rotary",
        "untie-head",
        "centre",
        "layernorm-to-rmsnorm",
        "fold-norm-bias",
        "affine-tail",
        "fill-biases",
    ]
    tokens = some_tokens(2, 24, program.spec.vocabulary)
    wanted = logits(program, tokens)
    assert worst(logits(through_disk(plan.program, LLAMA, tmp_path / "out"), tokens), wanted) < TOLERANCE
    assert worst(stock_logits(tmp_path / "out", tokens), wanted) < STOCK_TOLERANCE


def test_given_passes_run_in_order_with_nothing_added() -> None:
    program = random_program(layer_spec(head=ir.Head(tied=True)))
    passes: list[Pass] = [UntieHead(), Centre(), LayerNormToRms(), FoldNormBias()]
    plan = run_passes(program, passes)
    assert [step.rewrite for step in plan.steps] == passes
    assert worst(logits(plan.program, TOKENS % 11), logits(program, TOKENS % 11)) < TOLERANCE
    with pytest.raises(Refusal, match=r"^centre: head: is tied"):
        run_passes(program, passes[1:])


def test_an_empty_plan() -> None:
    program = random_program(plain_spec())
    plan = to_llama(program)
    assert plan.steps == ()
    assert plan.program is program
    assert plan.promise is Promise.EXACT


def test_the_gate_forgotten_in_a_whole_plan_would_show() -> None:
    """Negative control: the bug that is known elsewhere, in an otherwise right conversion."""
    program = random_program(with_mlp(layer_spec(), activation="silu"))
    plan = to_llama(program)
    slot = "layers.1.mlp.gate.bias"
    forgotten = replaced(plan.program, {slot: value(program, slot)})
    tokens = TOKENS % 11
    assert worst(logits(plan.program, tokens), logits(program, tokens)) < TOLERANCE
    assert worst(logits(forgotten, tokens), logits(program, tokens)) > 1e3 * TOLERANCE


def test_a_refusal_names_the_option_that_works(tmp_path: Path) -> None:
    orion, gpt2 = (program_of(write_checkpoint(tmp_path / name, name)) for name in ("orion", "gpt2"))
    with pytest.raises(Refusal, match=r"no such bias; no exact map exists; --norm carried makes a lossy one"):
        legalise(orion, MISTRAL.violations, Options())
    for way in (Options(norm="carried"), Options(norm="opm")):
        assert legalise(orion, MISTRAL.violations, way, stand_ins(orion.spec)).promise is Promise.LOSSY
    with pytest.raises(Refusal, match=r"distil it into a fresh model of the target: kept heal FRESH --teacher MODEL$"):
        legalise(gpt2, MISTRAL.violations, Options())


@pytest.mark.parametrize(
    "wrong",
    [
        Violation("layers.*.mixer.attention.o_bias", found=False, needs=True),  # a pass runs and removes nothing
        Violation("layers.*.mixer.latent.kv_norm.offset", 1.0, 0.0),  # a pass has nothing to change
        Violation("layers.*.mixer.latent.rank", 4, 8),  # no pass
    ],
    ids=lambda violation: violation.path,
)
def test_a_violation_that_stays_is_refused(wrong: Violation) -> None:
    """The planner says what the target cannot express, not which pass did not help."""
    with pytest.raises(TargetRefusal) as caught:
        legalise(random_program(rms_spec()), lambda _: [wrong], Options())
    assert caught.value.violations == (wrong,)
    assert str(caught.value).startswith(str(wrong))


def test_biases_of_another_kind_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ir.OPERATIONS, RunningMean.KIND, RunningMean)
    program = random_program(with_layer(rms_spec(), 1, mixer=RunningMean(6)))
    wrong = Violation("layers.*.mixer.running_mean.value_bias", found=False, needs=True, layer=1)
    plan = legalise(
        program, lambda spec: [] if spec.layers[1].mixer == RunningMean(6, value_bias=True) else [wrong], Options()
    )
    assert [step.rewrite for step in plan.steps] == [FillBiases(("running_mean.value",))]
    assert not plan.program.weights["layers.1.mixer.value.bias"].value().any()
