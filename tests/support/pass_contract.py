"""What every exact pass must do. A pass's tests subclass `PassContract` and say on which programs it works."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kept.ir.slots import slots
from support.models import random_program
from support.pass_helpers import TOLERANCE, error, keeps, perturbed, refusal, rewritten, unread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.ir import spec as ir
    from kept.passes.base import Pass


class PassContract:
    """`rewrite` has something to do on every spec of `works_on`, and refuses `refused` with a way out."""

    rewrite: ClassVar[Pass]
    works_on: ClassVar[Mapping[str, ir.Spec]]
    refused: ClassVar[ir.Spec]

    def test_the_function_is_kept_in_float64(self) -> None:
        for spec in self.works_on.values():
            keeps(self.rewrite, random_program(spec))

    def test_a_rewritten_weight_that_is_wrong_shows(self) -> None:
        """Negative control: noise on a weight that the pass wrote."""
        for spec in self.works_on.values():
            program = random_program(spec)
            after = self.rewrite(program)
            name = min(rewritten(program, after))
            assert error(perturbed(after, name), program) > 1e3 * TOLERANCE

    def test_spec_and_weights_agree_and_nothing_is_read(self) -> None:
        for spec in self.works_on.values():
            program = unread(spec)
            self.rewrite.promise(program)
            after = self.rewrite(program)
            assert {name: slot.shape for name, slot in slots(after.spec).items()} == {
                name: tensor.shape for name, tensor in after.weights.items()
            }
            assert len(self.rewrite.origins(program)) == after.spec.depth

    def test_it_is_done_after_one_run(self) -> None:
        for spec in self.works_on.values():
            assert self.rewrite.requires(self.rewrite(unread(spec))) is not None

    def test_a_refusal_is_one_line_with_a_way_out(self) -> None:
        obstacle = self.rewrite.requires(unread(self.refused))
        assert obstacle is not None
        assert obstacle.fix is not None or obstacle.way_out
        said = refusal(self.rewrite, unread(self.refused))
        assert said.startswith(f"{self.rewrite.name}: ")
        assert "\n" not in said
