"""Stream maps: against their definition as matrices in float64, composed, and undone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.ir.stream_map import IDENTITY, StreamMap

WIDTH = 6
X = torch.randn(5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5

U = torch.full((WIDTH,), 1 / math.sqrt(WIDTH), dtype=torch.float64)
M = torch.eye(WIDTH, dtype=torch.float64) - torch.outer(U, U)

maps = st.builds(StreamMap, st.booleans(), st.sampled_from([0.0, 0.7, -2.0]), st.sampled_from([1.0, 0.5, 3.0]))


@given(maps)
def test_definition(one: StreamMap) -> None:
    assert one.constant is not None
    wanted = one.scale * (X @ M if one.centred else X) + one.constant * U
    assert torch.allclose(one(X), wanted, rtol=0, atol=1e-12)


@given(maps, maps)
def test_composition(one: StreamMap, other: StreamMap) -> None:
    assert torch.allclose(one.then(other)(X), other(one(X)), rtol=0, atol=1e-12)
    assert IDENTITY.then(one) == one


@given(maps)
def test_undone_is_the_stream_before_up_to_a_subtracted_mean(one: StreamMap) -> None:
    wanted = X @ M if one.centred else X
    assert torch.allclose(one.undone(one(X)), wanted, rtol=0, atol=1e-12)


def test_the_order_of_composition_counts() -> None:
    """Negative control."""
    centred, carried, scaled = StreamMap(centred=True), StreamMap(constant=0.7), StreamMap(scale=3.0)
    assert not torch.allclose(centred.then(carried)(X), centred(carried(X)), rtol=0, atol=1e-3)
    assert not torch.allclose(scaled.then(carried)(X), scaled(carried(X)), rtol=0, atol=1e-3)


def test_a_constant_that_is_not_measured_composes_and_cannot_be_applied() -> None:
    unmeasured = StreamMap(centred=True).then(StreamMap(constant=None))
    assert unmeasured == StreamMap(centred=True, constant=None)
    with pytest.raises(AssertionError, match="not measured"):
        unmeasured(X)
