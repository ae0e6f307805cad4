"""The contract's own negative control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from kept.ir.stream_map import IDENTITY, StreamMap
from kept.passes.centre import Centre
from support.pass_contract import ExactPassContract
from support.pass_helpers import layer_spec

if TYPE_CHECKING:
    from kept.ir.program import Program


@dataclass(frozen=True)
class Unstated(Centre):
    """Centres the residual stream and does not state it."""

    def stream(self, program: Program) -> StreamMap:  # noqa: ARG002 - a pass's signature
        return IDENTITY


class Stated(ExactPassContract):
    rewrite = Centre()
    works_on = {"LayerNorm": layer_spec()}  # noqa: RUF012 - read only


class NotStated(Stated):
    rewrite = Unstated()


def test_a_stream_map_that_is_not_stated_fails() -> None:
    Stated().test_the_residual_stream_is_mapped_as_stated()
    with pytest.raises(AssertionError, match=r"^LayerNorm: centre\.stream is wrong in front of layer 0"):
        NotStated().test_the_residual_stream_is_mapped_as_stated()
