"""Contracts of passes: of every pass, of exact ones, and of those that remove a violation of a target.

A pass's tests subclass the strongest contract that the pass meets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from kept.families.llama import LLAMA
from kept.ir.slots import slots
from kept.verification.streamed import StreamedRun
from support.logits import random_program
from support.pass_helpers import (
    TOKENS,
    TOLERANCE,
    error,
    keeps,
    perturbed,
    ready_for_tail,
    refusal,
    rewritten,
    through_disk,
    unread,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from kept.families.table import Family
    from kept.ir import spec as ir
    from kept.ir.program import Program
    from kept.passes.base import Pass


class PassContract:
    """Contract of any pass.

    `rewrite` can run on every spec of `works_on`. It refuses each spec of `refused` with the line beside it, and each
    of `prepared_by` until the pass beside it has run.
    """

    rewrite: ClassVar[Pass]
    works_on: ClassVar[Mapping[str, ir.Spec]]
    refused: ClassVar[Sequence[tuple[ir.Spec, str]]]
    prepared_by: ClassVar[Sequence[tuple[ir.Spec, Pass]]] = ()

    def program(self, spec: ir.Spec) -> Program:
        """Return a program of the spec with random weights; its stream has no mean if the spec says so."""
        return ready_for_tail(spec) if spec.centred else random_program(spec)

    def test_spec_and_weights_agree_and_nothing_is_read(self) -> None:
        for spec in self.works_on.values():
            program = unread(spec)
            self.rewrite.promise(program)
            after = self.rewrite(program)
            assert {name: slot.shape for name, slot in slots(after.spec).items()} == {
                name: tensor.shape for name, tensor in after.weights.items()
            }
            assert len(self.rewrite.origins(program)) == after.spec.depth
            assert self.rewrite.rewritten(program) <= rewritten(program, after)

    def test_a_second_run_is_refused_or_keeps_the_spec(self) -> None:
        for spec in self.works_on.values():
            after = self.rewrite(unread(spec))
            if self.rewrite.requires(after) is None:
                assert self.rewrite(after).spec == after.spec

    def test_a_refusal_is_one_line_with_a_way_out(self) -> None:
        for spec, line in self.refused:
            program = unread(spec)
            obstacle = self.rewrite.requires(program)
            assert obstacle is not None
            assert obstacle.fix is not None or obstacle.way_out
            assert "\n" not in line
            assert refusal(self.rewrite, program) == f"{self.rewrite.name}: {line}"

    def test_another_pass_makes_a_model_ready(self) -> None:
        for spec, fix in self.prepared_by:
            program = unread(spec)
            obstacle = self.rewrite.requires(program)
            assert obstacle is not None
            assert obstacle.fix == fix
            assert refusal(self.rewrite, program).endswith(f"; run {fix.name} first")
            assert self.rewrite.requires(fix(program)) is None


class ExactPassContract(PassContract):
    """The pass keeps the function, in float64 to 1e-9 standard deviations of the logits on `tokens`.

    `telling` is a weight of the result on which the function depends; None for the first weight that the pass writes.
    """

    tokens: ClassVar[Tensor] = TOKENS
    telling: ClassVar[str | None] = None

    def check(self, before: Program, after: Program) -> None:
        """Assert what else holds for the result on a program of `works_on`."""

    def test_the_function_is_kept_in_float64(self) -> None:
        for spec in self.works_on.values():
            program = self.program(spec)
            self.check(program, keeps(self.rewrite, program, self.tokens))

    def test_the_residual_stream_is_mapped_as_stated(self) -> None:
        """`Pass.stream`, in front of every layer that was there before."""
        for label, spec in self.works_on.items():
            program = self.program(spec)
            stream, origins = self.rewrite.stream(program), self.rewrite.origins(program)
            before, after = (
                [*StreamedRun(one, torch.float64).streams(self.tokens)] for one in (program, self.rewrite(program))
            )
            for new, old in enumerate(origins):
                if old is not None:
                    apart = (stream(before[old]) - after[new]).abs().max() / after[new].abs().max()
                    assert apart < TOLERANCE, f"{label}: {self.rewrite.name}.stream is wrong in front of layer {new}"

    def test_the_function_is_kept_after_the_pass_that_makes_a_model_ready(self) -> None:
        for spec, fix in self.prepared_by:
            keeps(self.rewrite, fix(self.program(spec)), self.tokens)

    def test_a_wrong_weight_shows(self) -> None:
        """Negative control: noise on a weight that the pass wrote, or on any weight if it writes none."""
        for spec in self.works_on.values():
            program = self.program(spec)
            after = self.rewrite(program)
            name = self.telling or min(rewritten(program, after) or after.weights)
            assert error(perturbed(after, name), program, self.tokens) > 1e3 * TOLERANCE


class TargetPassContract(ExactPassContract):
    """The pass alone makes `served` a model of `target`, which is written as one and read back."""

    target: ClassVar[Family] = LLAMA
    served: ClassVar[ir.Spec]

    def test_the_result_goes_through_files_of_the_target(self, tmp_path: Path) -> None:
        program = self.program(self.served)
        after = self.rewrite(program)
        assert self.target.violations(program.spec)
        assert not self.target.violations(after.spec)
        read = through_disk(after, self.target, tmp_path / "out")
        assert error(read, program, self.tokens) < TOLERANCE
