"""Predicted operations against torch's own counts, and predicted activations against the bytes that autograd keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from kept.commands.forecast import forecast
from kept.distillation.cluster import Cluster, cluster
from kept.distillation.cost.estimate import cost
from kept.distillation.cost.memory import kept_values, memory
from kept.distillation.cost.operations import first_backward_layer, forward_operations, student_operations
from kept.distillation.cost.remedies import remedies
from kept.distillation.cost.run_shape import RunShape
from kept.distillation.settings import HealSettings
from kept.distillation.train.choose_trainable import trainable
from kept.errors import InputError
from kept.ir import spec as ir
from kept.ir.program import Program
from kept.ir.slots import slots
from kept.ir.tensors import zeros
from kept.nn import Model
from support.logits import random_program
from support.pass_helpers import LAYER_NORM, RMS_NORM
from support.specs import attention_of
from support.stored import write_readable

if TYPE_CHECKING:
    from pathlib import Path

    from kept.distillation.train.trainable import Trainable

SPEC = ir.Spec(
    97,
    64,
    64,
    (ir.Layer(ir.Attention(4, 2, 16, ir.Rope(100.0, 16)), ir.Mlp(96, "silu"), RMS_NORM, RMS_NORM),) * 3,
    RMS_NORM,
)
"""A small Llama."""

BATCH, LENGTH = 4, 16


def settings(**changes: Any) -> HealSettings:
    sizes = {"batch_size": BATCH, "sequence_length": LENGTH, "tokens": 10 * BATCH * LENGTH}
    return HealSettings(**{"student": "s", "teacher": "t", "out": "o", **sizes, **changes})


def shape_only(spec: ir.Spec, train: str) -> tuple[ir.Spec, Trainable]:
    """Return a spec and the trainable parameters of a model that has shapes and no values."""
    program = Program(spec, {name: zeros(slot.shape, "BF16") for name, slot in slots(spec).items()})
    return spec, trainable(program, train)


def orion(norm: ir.Norm = LAYER_NORM) -> ir.Spec:
    """Orion-14B's shape."""
    layer = ir.Layer(ir.Attention(40, 40, 128, ir.Rope(1e4, 128)), ir.Mlp(15360, "silu"), norm, norm)
    return ir.Spec(84608, 5120, 4096, (layer,) * 40, norm)


def products(run: Any) -> float:
    """Return the operations of matrix products that torch counts, without attention."""
    with FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    return float(sum(count for name, count in counts.items() if "attention" not in str(name)))


def model(train: str, spec: ir.Spec = SPEC) -> tuple[Model, Trainable]:
    program = random_program(spec)
    made, learned = Model.load(program, torch.float32), trainable(program, train)
    learned.apply(made)
    thin = {name: torch.randn(p.shape) for name, p in made.named_parameters() if p.is_meta}
    made.load_state_dict(thin, strict=False, assign=True)
    return made, learned


TOKENS = torch.arange(BATCH * LENGTH).view(BATCH, LENGTH) % 97


def without_attention(spec: ir.Spec) -> ir.Spec:
    """Return a spec whose attention spans one token, so that only the projections count."""
    layers = tuple(replace(layer, mixer=replace(attention_of(layer), window=1)) for layer in spec.layers)
    return replace(spec, layers=layers)


def test_a_forward_has_the_operations_that_torch_counts() -> None:
    made, _ = model("norms")
    found = products(lambda: made(TOKENS))
    attention = sum(2.0 * attention_of(layer).heads * attention_of(layer).head_dim * LENGTH for layer in SPEC.layers)
    assert found == BATCH * LENGTH * (forward_operations(SPEC, LENGTH) - attention)


@pytest.mark.parametrize("window", [1, 4, LENGTH, None])
def test_a_token_is_paired_with_the_keys_that_it_sees(window: int | None) -> None:
    mixer = replace(attention_of(SPEC.layers[0]), window=window)
    seen = sum(min(token + 1, window or LENGTH) for token in range(LENGTH)) / LENGTH
    cost = mixer.cost(SPEC.width, LENGTH)
    assert seen - 0.5 <= cost.pairs <= seen, "a token's own key counts as half of one"
    assert cost.score_flops == 2 * 2 * mixer.query_size, "a product with the key, one with the value"


@pytest.mark.parametrize("train", ["all", "layers.*.mlp.*", "head", "lora", "norms+lora"])
def test_a_step_has_the_operations_that_torch_counts(train: str) -> None:
    made, learned = model(train)
    found = products(lambda: made(TOKENS).sum().backward())
    first = first_backward_layer(learned, SPEC.depth)
    scores = 2.0 * attention_of(SPEC.layers[0]).heads * attention_of(SPEC.layers[0]).head_dim * LENGTH
    attention = scores * (SPEC.depth + 2.5 * (SPEC.depth - first))
    said = BATCH * LENGTH * (student_operations(SPEC, learned, LENGTH) - attention)
    assert found == pytest.approx(said, rel=0.12), "the first layer's products need no gradient of what they read"
    assert found <= said


def saved_bytes(made: Model) -> int:
    """Return the bytes that autograd keeps in a forward pass, each storage once, without weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in made.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        out = made.hidden(TOKENS)
        total = sum(storage.nbytes() for storage in storages.values())
    assert out.requires_grad
    return total


@pytest.mark.parametrize("train", ["norms", "all", "lora"])
@pytest.mark.parametrize("gated", [True, False])
def test_a_layer_keeps_what_autograd_keeps_within_a_sixth(train: str, *, gated: bool) -> None:
    wide = replace(SPEC.layers[0], mlp=ir.Mlp(96, "silu", gated=gated))
    spec = replace(SPEC, layers=(wide,) * 6)
    (deep, _), (shallow, shallow_learned) = (model(train, s) for s in (spec, replace(spec, layers=(wide,) * 3)))
    found = (saved_bytes(deep) - saved_bytes(shallow)) / 3
    lora = shallow_learned.lora
    put_out = 0 if lora is None else lora.rank * len(lora.slots) // 3
    said = 4 * BATCH * LENGTH * (kept_values(wide, spec.width, is_trainable=train != "norms") + put_out)
    assert said == pytest.approx(found, rel=1 / 6)


def asked(train: str = "norms", **changes: Any) -> RunShape:
    sizes = {
        "batch_size": 1,
        "gradient_accumulation": 8,
        "sequence_length": 4096,
        "tokens": 123_000_000,
        "dtype": "bfloat16",
    }
    student, learned = shape_only(orion(RMS_NORM), train)
    return RunShape(student, orion(), learned, settings(**{**sizes, **changes}))


def test_a_trainable_bias_needs_no_input() -> None:
    """Its gradient is that of the output. Autograd keeps as much for norms, and more for matrices."""
    mixer = replace(attention_of(SPEC.layers[0]), q_bias=True, k_bias=True, v_bias=True, o_bias=True)
    spec = replace(SPEC, layers=(replace(SPEC.layers[0], mixer=mixer),) * 3)
    kept, said = {}, {}
    for train in ("norms", "norms+layers.*.mixer.*.bias", "norms+layers.*.mixer.*"):
        kept[train] = saved_bytes(model(train, spec)[0])
        shape = RunShape(spec, None, shape_only(spec, train)[1], settings(teacher=None, kl=0.0, ce=1.0, data=("x",)))
        said[train] = memory(shape, cluster("h100"))["activations"]
    for found in (kept, said):
        norms, biases, matrices = found.values()
        assert norms == biases < matrices


def test_orion_on_one_gpu_of_80_gb() -> None:
    """Two models of 29 GB fit while norms are trained with gradient checkpointing, and do not fit without it."""
    found = memory(asked(gradient_checkpointing=True), cluster("h100"))
    assert found["student"] == pytest.approx(29e9, rel=0.01)
    assert found["teacher"] == pytest.approx(29e9, rel=0.01)
    assert cost(asked(gradient_checkpointing=True), cluster("h100")).fits
    assert not cost(asked(), cluster("h100")).fits
    assert not cost(asked(gradient_checkpointing=True, dtype="float32"), cluster("h100")).fits
    assert not cost(asked("all", gradient_checkpointing=True), cluster("h100")).fits, "AdamW's moments alone are 116 GB"


def test_lora_takes_a_backward_and_more_with_its_rank() -> None:
    machine, two = (Cluster("made", cluster("h100").device, ranks) for ranks in (1, 2))
    none = asked("final_norm.gain")
    narrow, wide = (replace(none, trainable=_with_rank(rank)) for rank in (4, 64))
    for name in ("student", "training state", "activations"):
        assert memory(none, machine)[name] < memory(narrow, machine)[name] < memory(wide, machine)[name], name
    assert memory(narrow, two)["gathered weights"] < memory(wide, two)["gathered weights"]
    operations = [student_operations(orion(), one.trainable, LENGTH) for one in (none, narrow, wide)]
    assert operations[1] > 1.9 * operations[0], "the stream's gradient"
    assert operations[1] < operations[2] < 1.2 * operations[1]


def _with_rank(rank: int) -> Trainable:
    spec = orion()
    program = Program(spec, {name: zeros(slot.shape, "BF16") for name, slot in slots(spec).items()})
    return trainable(program, "lora", lora_rank=rank)


def test_a_plan_has_the_rank_that_the_settings_say(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "orion", "orion")
    given = settings(student=str(source), teacher=str(source), train="lora")
    narrow, wide = (forecast(replace(given, lora_rank=rank), cluster("h100")).trainable for rank in (2, 6))
    assert wide.parameters == 3 * narrow.parameters


def test_a_plan_opens_the_teacher_s_cache(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "orion", "orion")
    given = settings(student=str(source), teacher_cache=str(tmp_path / "none"))
    with pytest.raises(InputError, match="none: is not a teacher cache; kept cache-teacher writes one"):
        forecast(given, cluster("h100"))


def test_time_and_money() -> None:
    found = cost(asked(gradient_checkpointing=True), cluster("h100", price=2.0))
    # 14.5 G weights without the embedding's: 4 forwards' worth (teacher, student, again, the stream's gradient).
    limit = 0.4 * 989e12 / (4 * 2 * 14.1e9)
    assert 0.8 * limit < found.tokens_per_second < limit, "attention and what is no product are the rest"
    assert found.hours == pytest.approx(123e6 / found.tokens_per_second / 3600)
    assert found.price == pytest.approx(2 * found.hours)
    assert found.bound == "compute"


def test_more_ranks_hold_less_each_and_are_no_faster_than_their_links() -> None:
    one, many = (cost(asked("all", batch_size=64, gradient_accumulation=1), cluster(f"{n}xh100")) for n in (8, 64))
    assert many.bytes_per_rank < one.bytes_per_rank
    assert many.tokens_per_second <= 8 * one.tokens_per_second
    slow = cost(asked("all", batch_size=64, gradient_accumulation=1), cluster("64xh100", network_gb_s=0.1))
    assert slow.bound == "communication"
    assert slow.tokens_per_second < many.tokens_per_second / 5


@pytest.mark.parametrize("train", ["norms", "all"])
def test_remedies_lower_the_memory(train: str) -> None:
    whole = asked(train, batch_size=8, gradient_accumulation=1, dtype="float32")
    base = cost(whole, cluster("h100"))
    found = dict(remedies(whole, cluster("h100")))
    assert {
        "--gradient-checkpointing",
        "--dtype bfloat16",
        "--batch-size 1 --gradient-accumulation 8",
        "a cached teacher",
    } < set(found)
    assert all(one.bytes_per_rank < base.bytes_per_rank for one in found.values())
    assert [*found.values()][-1].fits, "the last one has enough ranks"


def test_layers_below_the_first_trainable_one_have_no_backward_pass() -> None:
    student, learned = shape_only(SPEC, "layers.2.*")
    few = RunShape(student, None, learned, settings())
    every = replace(few, trainable=shape_only(SPEC, "norms")[1])
    machine = Cluster("made", cluster("h100").device)
    assert memory(few, machine)["activations"] < memory(every, machine)["activations"]
    assert student_operations(SPEC, learned, LENGTH) < student_operations(SPEC, every.trainable, LENGTH)
