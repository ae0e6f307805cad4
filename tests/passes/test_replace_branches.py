"""Branches are replaced by the same, by none, by a narrower MLP, by attention with fewer key-value heads."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch
from safetensors.torch import save_file

from kept.checkpoint.safetensors_header import read_header
from kept.ir import spec as ir
from kept.ir.promise import Promise
from kept.ir.tensors import InMemory
from kept.nn.mixers import MIXERS
from kept.output.record import PassRecord
from kept.output.write_record import passes
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.legalize import run_passes
from kept.passes.plan import created
from kept.passes.replace_branches import BranchChoice, ReplaceBranches
from kept.passes.separate_norms import SeparateNorms
from support.logits import logits, random_program
from support.pass_contract import PassContract
from support.pass_helpers import (
    GATED,
    MIXER,
    RMS_NORM,
    TOKENS,
    TOLERANCE,
    error,
    keeps,
    layer_spec,
    refusal,
    replaced,
    rms_spec,
    value,
)
from support.running_mean import RunningMean, RunningMeanModule
from support.specs import with_layer

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.program import Program
    from kept.ir.spec.layer import BranchName

PROGRAM = random_program(rms_spec())
SHARED = replace(layer_spec().layers[0], parallel=True, shared_norm=True, mlp_norm=None)


def tensor(value: torch.Tensor) -> InMemory:
    return InMemory(tuple(value.shape), "F64", value)


class TestReplaceBranches(PassContract):
    rewrite = ReplaceBranches((BranchChoice(1, "mlp", None), BranchChoice(2, "mixer", None)))
    works_on: ClassVar = {"LayerNorms": layer_spec(), "RMSNorms": rms_spec()}
    refused = ((layer_spec(depth=2), "layers.2.mixer: the model has layers 0 to 1; give another layer"),)
    prepared_by = ((replace(layer_spec(), layers=(SHARED,) * 3), SeparateNorms()),)


def test_the_same_branch_is_the_identity() -> None:
    same = ReplaceBranches((BranchChoice(1, "mixer", MIXER), BranchChoice(2, "mlp", GATED)))
    after = keeps(same, PROGRAM)
    assert after.spec == PROGRAM.spec
    assert all(after.weights[name] is PROGRAM.weights[name] for name in PROGRAM.weights)
    assert same.rewritten(PROGRAM) == frozenset()


@pytest.mark.parametrize(("branch", "writer"), [("mixer", "mixer.o"), ("mlp", "mlp.down")])
def test_an_absent_branch_adds_nothing(branch: BranchName, writer: str) -> None:
    """The model computes what it does with an output projection of zero."""
    after = ReplaceBranches((BranchChoice(1, branch, None),))(PROGRAM)
    names = [f"layers.1.{writer}.{part}" for part in ("weight", "bias")]
    zeroed = replaced(PROGRAM, {name: torch.zeros_like(value(PROGRAM, name)) for name in names})
    assert branch not in {one.name for one in after.spec.layers[1].branches}
    assert error(after, zeroed) < TOLERANCE
    assert error(after, PROGRAM) > 1e3 * TOLERANCE


PARTS = ("gate.weight", "gate.bias", "up.weight", "up.bias")


def narrowed(channels: int) -> BranchChoice:
    """The MLP of layer 1 with its first channels."""
    weights = {f"mlp.{part}": tensor(value(PROGRAM, f"layers.1.mlp.{part}")[:channels]) for part in PARTS}
    weights["mlp.down.weight"] = tensor(value(PROGRAM, "layers.1.mlp.down.weight")[:, :channels])
    return BranchChoice(1, "mlp", replace(GATED, size=channels), weights=weights)


def test_a_narrower_mlp() -> None:
    """The removed channels contribute nothing if their columns of the output projection are zero."""
    rewrite = ReplaceBranches((narrowed(20),))
    after = rewrite(PROGRAM)
    down = value(PROGRAM, "layers.1.mlp.down.weight").clone()
    down[:, 20:] = 0
    same = replaced(PROGRAM, {"layers.1.mlp.down.weight": down})
    assert error(after, same) < TOLERANCE
    assert error(after, PROGRAM) > 1e3 * TOLERANCE
    assert rewrite.promise(PROGRAM) is Promise.LOSSY
    assert rewrite.rewritten(PROGRAM) == {f"layers.1.mlp.{part}" for part in (*PARTS, "down.weight")}
    proved = ReplaceBranches((replace(narrowed(20), proved=True),))
    assert keeps(proved, same).spec == after.spec


def test_attention_with_fewer_key_value_heads() -> None:
    """If both key-value heads are equal, one of them serves all queries."""
    half = {n: value(PROGRAM, f"layers.1.mixer.{n}")[:8] for n in ("k.weight", "k.bias", "v.weight", "v.bias")}
    equal = replaced(PROGRAM, {f"layers.1.mixer.{n}": torch.cat([one, one]) for n, one in half.items()})
    weights = {f"mixer.{n}": tensor(one) for n, one in half.items()}
    narrow = replace(MIXER, kv_heads=1)
    after = keeps(ReplaceBranches((BranchChoice(1, "mixer", narrow, weights=weights, proved=True),)), equal)
    assert [layer.mixer for layer in after.spec.layers] == [MIXER, narrow, MIXER]
    assert error(after, PROGRAM) > 1e3 * TOLERANCE


def test_an_absent_branch_is_replaced() -> None:
    bare = random_program(with_layer(rms_spec(), 1, mlp=None, mlp_norm=None))
    full = random_program(rms_spec())
    own = {n.removeprefix("layers.1."): t for n, t in full.weights.items() if n.startswith("layers.1.mlp")}
    after = ReplaceBranches((BranchChoice(1, "mlp", GATED, norm=RMS_NORM, weights=own),))(bare)
    assert after.spec == full.spec
    assert torch.equal(logits(after, TOKENS), logits(full.updated(full.spec, bare.weights), TOKENS))


def test_given_weights_are_new() -> None:
    """Those under a name that was there before too, which comparing names does not find."""
    drawn = tensor(torch.zeros_like(value(PROGRAM, "layers.2.mixer.o.weight")))
    again = BranchChoice(2, "mixer", MIXER, weights={"mixer.o.weight": drawn})
    plan = run_passes(PROGRAM, [ReplaceBranches((again, BranchChoice(0, "mlp", replace(GATED, down_bias=False))))])
    assert created(PROGRAM.spec, plan) == ["layers.2.mixer.o.weight"]
    assert plan.promise is Promise.LOSSY


@pytest.mark.parametrize(
    ("choices", "line"),
    [
        ((BranchChoice(3, "mlp", GATED),), "layers.3.mlp: the model has layers 0 to 2; give another layer"),
        ((BranchChoice(1, "mlp", MIXER),), "layers.1.mlp: attention is no mlp; name the other branch"),
        ((BranchChoice(1, "mlp", GATED),) * 2, "choices: name a branch twice; give one choice for each branch"),
        (
            (BranchChoice(1, "mlp", replace(GATED, size=8)),),
            (
                "layers.1.mlp.gate.weight: has shape [24, 16], the replaced branch needs [8, 16]; "
                "give a tensor of that shape"
            ),
        ),
        (
            (BranchChoice(1, "mlp", GATED, weights={"mlp.side.weight": tensor(torch.zeros(2))}),),
            "layers.1.mlp.side.weight: is not a weight of the replaced branch; leave it out",
        ),
        (
            (BranchChoice(1, "mlp", GATED, norm=ir.Norm("layer", 1e-3, bias=True)),),
            "layers.1.mlp_norm.bias: is missing; give a tensor of shape [16]",
        ),
    ],
)
def test_what_does_not_fit_is_named(choices: tuple[BranchChoice, ...], line: str) -> None:
    assert refusal(ReplaceBranches(choices), PROGRAM) == f"replace-branches: {line}"


def test_an_absent_branch_needs_a_norm() -> None:
    bare = random_program(with_layer(rms_spec(), 1, mlp=None, mlp_norm=None))
    said = refusal(ReplaceBranches((BranchChoice(1, "mlp", GATED),)), bare)
    assert said == "replace-branches: layers.1.mlp: is absent and has no norm; give the branch a norm"


@pytest.fixture
def another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, RunningMean, RunningMeanModule)  # type: ignore[misc]


MEAN_OF_VALUES = RunningMean(MIXER.query_size, value_bias=True)


def uniform(program: Program) -> Program:
    """The program with queries of zero in layer 1: every score is equal, and attention is the mean of the values."""
    return replaced(program, {n: torch.zeros_like(value(program, n)) for n in ("layers.1.mixer.q.weight", QUERY_BIAS)})


QUERY_BIAS = "layers.1.mixer.q.bias"


def as_running_mean(program: Program) -> BranchChoice:
    """Layer 1 with a running mean in place of uniform attention; each query head reads the values of its group."""
    v, bias = (value(program, f"layers.1.mixer.v.{part}") for part in ("weight", "bias"))
    heads = torch.arange(MIXER.heads) // (MIXER.heads // MIXER.kv_heads)
    weights = {
        "mixer.value.weight": tensor(v.view(MIXER.kv_heads, MIXER.head_dim, -1)[heads].flatten(0, 1)),
        "mixer.value.bias": tensor(bias.view(MIXER.kv_heads, MIXER.head_dim)[heads].flatten()),
        "mixer.out.weight": program.weights["layers.1.mixer.o.weight"],
        "mixer.out.bias": program.weights["layers.1.mixer.o.bias"],
    }
    return BranchChoice(1, "mixer", MEAN_OF_VALUES, reused=weights, proved=True)


@pytest.mark.usefixtures("another_kind")
def test_attention_becomes_another_kind_exactly() -> None:
    source = uniform(PROGRAM)
    rewrite = ReplaceBranches((as_running_mean(source),))
    plan = run_passes(source, [rewrite])
    keeps(rewrite, source)
    assert plan.promise is Promise.EXACT
    assert created(source.spec, plan) == []  # nothing was initialised anew, whatever the names
    assert error(rewrite(PROGRAM), PROGRAM) > 1e3 * TOLERANCE  # negative control: attention that is not uniform


@pytest.mark.usefixtures("another_kind")
def test_reused_and_new_weights_are_told_apart() -> None:
    whole = as_running_mean(PROGRAM)
    new = {name: tensor for name, tensor in whole.reused.items() if "value" in name}
    rest = {name: tensor for name, tensor in whole.reused.items() if "value" not in name}
    mixed = replace(whole, weights=new, reused=rest, proved=False)
    plan = run_passes(PROGRAM, [ReplaceBranches((mixed,))])
    assert created(PROGRAM.spec, plan) == [f"layers.1.{name}" for name in new]
    doubled = run_passes(PROGRAM, [ExpandBlocks(at=(1,)), ReplaceBranches((mixed,))])
    names = {name for name in doubled.program.weights if name.startswith("layers.1.")}
    assert {*created(PROGRAM.spec, doubled)} == names  # all of an added layer is new


def test_a_weight_that_is_reused_under_its_own_name_is_not_new() -> None:
    own = {name: PROGRAM.weights[f"layers.0.{name}"] for name in ("mixer.q.weight", "mixer.o.weight")}
    plan = run_passes(PROGRAM, [ReplaceBranches((BranchChoice(0, "mixer", MIXER, reused=own, proved=True),))])
    assert created(PROGRAM.spec, plan) == []
    again = run_passes(PROGRAM, [ReplaceBranches((BranchChoice(0, "mixer", MIXER, weights=own),))])
    assert created(PROGRAM.spec, again) == [f"layers.0.{name}" for name in own]  # negative control


def test_a_weight_is_given_once() -> None:
    own = {"mixer.q.weight": PROGRAM.weights["layers.0.mixer.q.weight"]}
    said = refusal(ReplaceBranches((BranchChoice(0, "mixer", MIXER, weights=own, reused=own),)), PROGRAM)
    assert said == "replace-branches: layers.0.mixer.q.weight: is given as new and as reused; give it once"


def test_the_record_states_branches_and_a_digest(tmp_path: Path) -> None:
    choice, gone = narrowed(20), BranchChoice(2, "mixer", None)
    plan = run_passes(PROGRAM, [ReplaceBranches((choice, gone))])
    (record,) = passes(plan)
    found = PassRecord.model_validate_json(record.model_dump_json())
    branches = found.options["branches"]
    assert [*branches] == ["layers.1.mlp", "layers.2.mixer"]
    assert branches["layers.1.mlp"]["op"] == {"kind": "dense", **asdict(replace(GATED, size=20))}
    assert branches["layers.1.mlp"]["new"] == sorted(choice.weights)
    assert branches["layers.2.mixer"]["op"] is None
    save_file(
        {name: one.value("float64").contiguous() for name, one in choice.weights.items()}, tmp_path / "w.safetensors"
    )
    stored = replace(choice, weights=dict(read_header(tmp_path / "w.safetensors")))
    assert stored.record() == choice.record()
    assert str(tmp_path) not in record.model_dump_json()
    other = {**choice.weights, "mlp.up.bias": tensor(value(PROGRAM, "layers.1.mlp.up.bias")[:20] + 1e-9)}
    assert replace(choice, weights=other).digest != choice.digest
