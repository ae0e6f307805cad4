"""The interface of a pass: a frozen dataclass whose fields are its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from kept.errors import Refusal
from kept.ir.promise import Promise
from kept.ir.stream_map import IDENTITY

if TYPE_CHECKING:
    from dataclasses import Field

    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.ir.stream_map import StreamMap


NO_OPTION = {"option": False}
"""Metadata of a field that is measured or handed over: no recipe sets it."""

PATH = {"path": True}
"""Metadata of an option that is a path, of which a record has the last part only."""

UNNEEDED = "leave this pass out"
"""The way out if a pass has nothing to change."""


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
class LengthLimit:
    """The longest sequence, in tokens, for which a promise holds, and what limits it."""

    tokens: int
    why: str

    def __str__(self) -> str:
        return f"for sequences of up to {self.tokens:,} tokens ({self.why})"


@dataclass(frozen=True)
class Pass(ABC):
    """A function from programs to programs. Subclasses are frozen dataclasses whose fields are the options.

    `name` is the pass's name in recipes and messages, `summary` its line in plans. Override `origins` if layers are
    added or removed, `stream` if the values on the residual stream change, `rewritten` if weights get new values that
    are to be trained, `promise` and `domain` if the pass is not exact everywhere.

    Calling a pass checks `requires`, runs `run` and asserts `ensures`. Only `measured` reads weights; every other
    method works from the spec and from the shapes and dtypes of the weights.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    def measured(self, program: Program) -> Self:  # noqa: ARG002 - most passes need no weights
        """Return the pass with what it needs to know of the program's weights. The planner calls it before the rest."""
        return self

    def promise(self, program: Program) -> Promise:  # noqa: ARG002 - most promises hold for any program
        """Return what the pass promises about this program's function."""
        return Promise.EXACT

    def domain(self, program: Program) -> str | LengthLimit | None:  # noqa: ARG002 - most promises hold everywhere
        """Return where the promise holds, as a phrase that completes "the promise holds"; None for everywhere."""
        return None

    def origins(self, program: Program) -> tuple[int | None, ...]:
        """Return for each layer of the result its number in this program; None for a new layer."""
        return tuple(range(program.spec.depth))

    def rewritten(self, program: Program) -> frozenset[str]:  # noqa: ARG002 - most passes initialise nothing anew
        """Return the weights of the result that have new values under a name that this program has too.

        New values are those that are not a function of the program's weights: they are trained as new weights are.
        """
        return frozenset()

    def reused(self, program: Program) -> frozenset[str]:  # noqa: ARG002 - most passes that add names add new values
        """Return the weights of the result under new names whose values are a function of the program's weights.

        They are not trained as new weights are.
        """
        return frozenset()

    def stream(self, program: Program) -> StreamMap:  # noqa: ARG002 - most passes leave the stream as it is
        """Return the map from this program's residual stream to the result's, the same before every layer.

        The map is exact for EXACT passes; for others it is what the pass intends. A map that `StreamMap` cannot state,
        such as a change of the width, needs a new field there.
        """
        return IDENTITY

    @abstractmethod
    def requires(self, program: Program) -> Obstacle | None:
        """Return the first obstacle; None if the pass can run.

        Most passes also refuse a program that they would not change.
        """

    @abstractmethod
    def run(self, program: Program) -> Program:
        """Return the rewritten program. Assumes that there is no obstacle."""

    @abstractmethod
    def ensures(self, spec: Spec) -> bool:
        """Return whether the result's spec has the property that the pass establishes."""

    @classmethod
    def chosen_fields(cls) -> tuple[Field[Any], ...]:
        """Return the fields that a recipe can set."""
        return tuple(field for field in fields(cls) if field.metadata.get("option", True))

    def options(self) -> dict[str, Any]:
        """Return the options as a recipe writes them; those that are None are left out."""
        values = {field.name: getattr(self, field.name) for field in self.chosen_fields()}
        return {k: [*v] if isinstance(v, tuple) else v for k, v in values.items() if v is not None}

    def record(self) -> dict[str, Any]:
        """Return what `kept.json` states of the pass, as plain data."""
        return self.portable_options()

    def portable_options(self) -> dict[str, Any]:
        """Return the options without the directories of paths."""
        paths = {field.name for field in self.chosen_fields() if "path" in field.metadata}
        return {k: Path(v).resolve().name if k in paths else v for k, v in self.options().items()}

    def __call__(self, program: Program) -> Program:
        """Return the rewritten program. Raises Refusal if there is an obstacle."""
        obstacle = self.requires(program)
        if obstacle is not None:
            raise obstacle.refusal(self)
        result = self.run(program)
        assert self.ensures(result.spec), f"{self.name}: the result does not have the property"
        return result
