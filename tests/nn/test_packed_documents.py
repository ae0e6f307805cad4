"""Packed rows: each document computes what it computes alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.logits import model_of, random_program, some_tokens, worst
from support.pass_helpers import MIXER, layer_spec, rms_spec
from support.specs import VOCABULARY

if TYPE_CHECKING:
    from kept.ir import spec as ir

SPECS = {
    "rotated": rms_spec(),
    "window": rms_spec(replace(MIXER, window=3)),
    "capped": rms_spec(replace(MIXER, softcap=3.0)),
    "learned positions": layer_spec(replace(MIXER, rope=None), positions=40),
}


def documents(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([[number for number, length in enumerate(lengths) for _ in range(length)]])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_a_packed_document_has_the_same_result_as_alone(spec: ir.Spec, lengths: list[int]) -> None:
    model = model_of(random_program(spec))
    tokens_BT = some_tokens(1, sum(lengths), VOCABULARY)
    with torch.no_grad():
        packed = model(tokens_BT, documents_BT=documents(lengths))
        alone = torch.cat([model(part) for part in tokens_BT.split(lengths, dim=1)], dim=1)
        assert worst(packed, alone) < 1e-9
        if len(lengths) > 1:
            assert worst(model(tokens_BT), alone) > 1e-6, "negative control: unpacked, they see one another"


def test_rows_may_be_packed_differently() -> None:
    model = model_of(random_program(rms_spec()))
    tokens_BT = some_tokens(2, 9, VOCABULARY)
    rows = torch.cat((documents([4, 5]), documents([2, 3, 4])))
    with torch.no_grad():
        packed = model(tokens_BT, documents_BT=rows)
        for row, lengths in enumerate(([4, 5], [2, 3, 4])):
            alone = torch.cat([model(part) for part in tokens_BT[row : row + 1].split(lengths, dim=1)], dim=1)
            assert worst(packed[row : row + 1], alone) < 1e-9
