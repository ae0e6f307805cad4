"""The interface of a pass: a frozen dataclass whose fields are its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kept.errors import Refusal
from kept.ir.promise import Promise

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class Obstacle:
    """Why a pass cannot run: the place, the reason, and the way out. `fix` is a pass that removes the obstacle."""

    where: str
    why: str
    fix: Pass | None = None
    way_out: str = ""

    def refusal(self, rewrite: Pass) -> Refusal:
        """Return the error that the pass raises."""
        way_out = f"run {self.fix.name} first" if self.fix is not None else self.way_out
        return Refusal(f"{rewrite.name}: {self.where}: {self.why}", way_out=way_out)


@dataclass(frozen=True)
class Pass(ABC):
    """A rewriting of a program. Subclasses are frozen dataclasses whose fields are the options.

    Calling a pass checks `requires`, runs, and asserts `ensures`; nothing reads a weight until bytes are asked for.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    def promise(self, program: Program) -> Promise:  # noqa: ARG002 - most promises hold for any program
        """What the pass keeps, run on this program."""
        return Promise.EXACT

    def domain(self, program: Program) -> str | None:  # noqa: ARG002 - most promises hold everywhere
        """Return where the promise holds, as a phrase that completes "the promise holds"; None for everywhere."""
        return None

    def origins(self, program: Program) -> tuple[int | None, ...]:
        """For each layer of the result the number that it has in this program; None for a new one."""
        return tuple(range(program.spec.depth))

    @abstractmethod
    def requires(self, program: Program) -> Obstacle | None:
        """The first thing that stands in the way; None where the pass can run."""

    @abstractmethod
    def run(self, program: Program) -> Program:
        """The rewritten program. Assumes that nothing stands in the way."""

    @abstractmethod
    def ensures(self, spec: Spec) -> bool:
        """What holds for the result's spec."""

    def __call__(self, program: Program) -> Program:
        """Check, run, check. Raises Refusal with the obstacle."""
        obstacle = self.requires(program)
        if obstacle is not None:
            raise obstacle.refusal(self)
        result = self.run(program)
        assert self.ensures(result.spec), f"{self.name} did not do what it says"
        return result
