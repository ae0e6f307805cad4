"""Remove sliding windows that are at least as long as the context, and shorten the context."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.spec import Attention
from kept.ir.tensors import take_rows
from kept.passes.base import LengthLimit, Obstacle, Pass
from kept.passes.map_spec import map_operations

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class DropWindow(Pass):
    """Remove sliding windows at least as long as the context: they mask nothing. EXACT within the context."""

    name: ClassVar[str] = "drop-window"
    summary: ClassVar[str] = "sliding windows at least as long as the context are removed"

    def domain(self, program: Program) -> LengthLimit | None:
        """Return the length of the shortest window, if it is within the context."""
        windows = [one.window for _, one in program.spec.operations(Attention) if one.window is not None]
        shortest = min(windows, default=program.spec.context + 1)
        if shortest > program.spec.context:
            return None
        return LengthLimit(shortest, "the sliding window")

    def requires(self, program: Program) -> Obstacle | None:
        """Require that every window covers the context."""
        spec = program.spec
        for at, attention in spec.operations(Attention):
            window = attention.window
            if window is not None and window < spec.context:
                why = f"a sliding window of {window} is active: the context has {spec.context} positions"
                return Obstacle(at[:-1], why, way_out=f"shorten the context (--context {window})")
        return None

    def run(self, program: Program) -> Program:
        """Drop every window."""
        spec = map_operations(program.spec, Attention, lambda attention: replace(attention, window=None))
        return program.updated(spec, {})

    def ensures(self, spec: Spec) -> bool:
        """Return whether no window is left."""
        return all(attention.window is None for _, attention in spec.operations(Attention))


@dataclass(frozen=True)
class LimitContext(Pass):
    """State a shorter context. EXACT for every sequence that fits it."""

    tokens: int

    name: ClassVar[str] = "limit-context"
    summary: ClassVar[str] = "the context is limited to a shorter length"

    def domain(self, program: Program) -> LengthLimit | None:
        """Return the requested context, if it is shorter than the present one."""
        shorter = self.tokens < program.spec.context
        return LengthLimit(self.tokens, "the requested context") if shorter else None

    def requires(self, program: Program) -> Obstacle | None:
        """Require a positive length of at most the present context."""
        context = program.spec.context
        if 0 < self.tokens <= context:
            return None
        return Obstacle("context", f"has {context} positions, {self.tokens} were asked", way_out="ask for fewer")

    def run(self, program: Program) -> Program:
        """Change the stated context, and cut a table of learned positions."""
        spec = replace(program.spec, context=self.tokens)
        changed: dict[str, Lazy] = {}
        if spec.positions is not None:
            spec = replace(spec, positions=min(spec.positions, self.tokens))
            changed["positions.weight"] = take_rows(program.weights["positions.weight"], 0, spec.positions or 0)
        return program.updated(spec, changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether the context is the requested one."""
        return spec.context == self.tokens
