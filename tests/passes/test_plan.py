"""Plans compose what their passes state: stream maps, newly initialised weights, measurements."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch

from kept.distillation.train.choose_trainable import trainable
from kept.ir.promise import Promise
from kept.ir.stream_map import IDENTITY, StreamMap
from kept.ir.tensors import Full
from kept.passes.base import Obstacle, Pass
from kept.passes.carry_norm_bias import CarryNormBias
from kept.passes.centre import Centre
from kept.passes.drop_layers import DropLayers
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.layer_norm_to_rms import LayerNormToRms
from kept.passes.legalize import Options, legalise, run_passes, stand_ins  # type: ignore[attr-defined]
from kept.passes.plan import Plan, created
from kept.verification.calibration import calibrate
from kept.verification.lockstep import Lane
from kept.verification.parity import measure
from kept.verification.streamed import StreamedRun
from support.logits import random_program, some_tokens
from support.pass_helpers import TOLERANCE, layer_spec, unread
from support.specs import VOCABULARY

if TYPE_CHECKING:
    from torch import Tensor

    from kept.ir.program import Program
    from kept.ir.spec import Spec

TOKENS = some_tokens(2, 12, VOCABULARY)


def streams(program: Program) -> list[Tensor]:
    return [*StreamedRun(program, torch.float64).streams(TOKENS)]


def furthest(plan: Plan, source: Program, stream: StreamMap) -> float:
    """The largest error of a map from the source's residual stream to the result's, relative to the stream."""
    pairs = zip(streams(source), streams(plan.program), strict=True)
    return max(float((stream(ours) - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)


def centring() -> list[Pass]:
    return [Centre(), LayerNormToRms()]


def carrying(source: Program) -> list[Pass]:
    lengths = {name: one.lengths for name, one in calibrate(source, TOKENS).items()}
    return [*centring(), CarryNormBias(lengths)]


def test_centring_subtracts_the_mean_of_the_stream() -> None:
    source = random_program(layer_spec())
    plan = run_passes(source, centring())
    assert plan.stream == StreamMap(centred=True)
    assert furthest(plan, source, plan.stream) < TOLERANCE
    assert furthest(plan, source, IDENTITY) > 1e3 * TOLERANCE  # negative control


def test_carrying_adds_a_constant_to_the_embedding() -> None:
    """Exact in front of the first layer; behind it as exact as the pass is."""
    source = random_program(layer_spec())
    plan = run_passes(source, carrying(source))
    wanted, found = streams(source)[0], streams(plan.program)[0]
    assert torch.allclose(plan.stream(wanted), found, rtol=0, atol=1e-12)
    assert not torch.allclose(StreamMap(centred=True)(wanted), found, rtol=0, atol=1e-3)  # negative control


def test_layers_are_compared_without_what_carrying_adds() -> None:
    """The error in front of the first layer is that of the arithmetic; without the map it is the carried constant."""
    source = random_program(layer_spec())
    plan = run_passes(source, carrying(source))
    run = StreamedRun(plan.program, torch.float64)
    reference = Lane(StreamedRun(source, torch.float64), TOKENS)
    lanes = [Lane(one, TOKENS) for one in (replace(run, stream_map=plan.claim.stream), run)]
    mapped, plain = measure([(reference, one) for one in lanes])
    assert mapped.layers[0] < TOLERANCE
    assert plain.layers[0] > 1e3 * TOLERANCE
    assert all(with_map < without for with_map, without in zip(mapped.layers, plain.layers, strict=True))


def test_a_constant_of_a_plan_without_measurements_is_unknown() -> None:
    program = unread(layer_spec())
    plan = run_passes(program, [*centring(), CarryNormBias(stand_ins(program.spec))])
    assert plan.stream == StreamMap(centred=True, constant=None)


@dataclass(frozen=True)
class Reinitialise(Pass):
    """A pass for tests that sets the output projection of a layer's attention to zero."""

    layer: int
    states_it: bool = True

    name: ClassVar[str] = "reinitialise"
    summary: ClassVar[str] = "an output projection is initialised anew"

    @property
    def weight(self) -> str:
        return f"layers.{self.layer}.mixer.o.weight"

    def promise(self, program: Program) -> Promise:  # noqa: ARG002
        return Promise.LOSSY

    def rewritten(self, program: Program) -> frozenset[str]:  # noqa: ARG002
        return frozenset({self.weight} if self.states_it else ())

    def requires(self, program: Program) -> Obstacle | None:  # noqa: ARG002
        return None

    def run(self, program: Program) -> Program:
        old = program.weights[self.weight]
        return program.updated(program.spec, {self.weight: Full(old.shape, old.dtype, 0.0)})

    def ensures(self, spec: Spec) -> bool:  # noqa: ARG002
        return True


def new_of(*passes: Pass) -> list[str]:
    """Return the weights of a plan's result that `--train new` trains."""
    program = random_program(layer_spec())
    plan = run_passes(program, passes)
    record = {"new_layers": [*plan.new_layers], "new_parameters": created(program.spec, plan)}
    return sorted(trainable(plan.program, "new", record).slots)


def test_a_weight_that_is_initialised_anew_is_trained_as_new() -> None:
    assert new_of(Reinitialise(1)) == ["layers.1.mixer.o.weight"]
    with pytest.raises(Exception, match="new"):  # negative control: comparing names finds nothing
        new_of(Reinitialise(1, states_it=False))


def test_it_is_found_under_its_number_in_the_result() -> None:
    assert new_of(Reinitialise(2), DropLayers((0,))) == ["layers.1.mixer.o.weight"]
    grown = new_of(Reinitialise(1), ExpandBlocks(at=(1,)))
    assert {name for name in grown if not name.startswith("layers.1.")} == {"layers.2.mixer.o.weight"}


def test_it_is_gone_with_its_layer() -> None:
    plan = run_passes(random_program(layer_spec()), [Reinitialise(0), DropLayers((0,))])
    assert plan.rewritten == frozenset()


def test_only_measuring_reads_weights() -> None:
    """A plan of measured passes is made without reading; measuring a pass that needs a weight reads it."""
    program = unread(layer_spec())
    zero_output = DropLayers((0,), zero_output=(0,))
    assert zero_output.promise(program) is Promise.EXACT
    assert DropLayers((0,)).promise(program) is Promise.LOSSY
    with pytest.raises(AssertionError, match="were read"):
        run_passes(program, [DropLayers((0,))])
    assert legalise(program, lambda _: [], Options()).steps == ()
