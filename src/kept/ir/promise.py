"""Promises of passes about the model's function, and the claim that an output is verified against."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kept.ir.stream_map import IDENTITY

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.stream_map import StreamMap


class Promise(StrEnum):
    """The effect of a pass on the function that the model computes.

    EXACT: the same function in real arithmetic. APPROXIMATE: a small change, measured. LOSSY: needs healing.
    """

    EXACT = "exact"
    APPROXIMATE = "approximate"
    LOSSY = "lossy"

    @property
    def rank(self) -> int:
        """0 for EXACT, 2 for LOSSY."""
        return list(Promise).index(self)

    def verdict(self, failure: str | None) -> str:
        """Return the verdict on a measured result as a phrase; `failure` is the reason why the promise is broken."""
        if failure is not None:
            return f"broken: {failure}"
        return "nothing is promised; the difference was measured" if self is Promise.LOSSY else "kept"


@dataclass(frozen=True)
class Claim:
    """The properties that an output is verified against.

    `program` is the output before rounding if an EXACT promise is to be proved. `copies` are layers that only the
    output has, `dropped` layers that only the source has. `tokens` is the number of token ids that both share, counted
    from id 0; None if their vocabularies are the same. `domain` states where the promise holds, in phrases that
    complete "the promise holds"; empty for everywhere. `stream` maps the source's residual stream to the output's.
    """

    promise: Promise = Promise.EXACT
    program: Program | None = None
    copies: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    tokens: int | None = None
    domain: tuple[str, ...] = ()
    stream: StreamMap = IDENTITY
