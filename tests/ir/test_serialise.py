"""A spec as JSON reads back to an equal spec, and damaged JSON is refused by the field's name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from kept.errors import CheckpointError
from kept.ir import spec as ir
from kept.ir.serialise import MOST_LAYERS, from_json, to_json
from support.specs import plain_spec, specs, with_layer, with_mixer


def through_json(spec: ir.Spec) -> ir.Spec:
    return from_json(json.loads(json.dumps(to_json(spec))))


@given(specs())
def test_any_spec_reads_back_equal(spec: ir.Spec) -> None:
    assert through_json(spec) == spec


def test_an_absent_branch_reads_back_absent() -> None:
    attention_only = with_layer(plain_spec(3), 1, mlp=None, mlp_norm=None)
    mlp_only = with_layer(plain_spec(3), 1, mixer=None, mixer_norm=None)
    assert through_json(attention_only) == attention_only
    assert through_json(mlp_only) == mlp_only
    assert through_json(attention_only) != mlp_only


def test_equal_layers_are_written_once() -> None:
    assert [run["repeat"] for run in to_json(plain_spec(5))["layers"]] == [5]
    assert [run["repeat"] for run in to_json(with_layer(plain_spec(5), 2, parallel=True))["layers"]] == [2, 1, 2]


def test_kinds_have_their_names() -> None:
    spec = with_mixer(plain_spec(1), rope=ir.Rope(100.0, 4, scaling=ir.Yarn(2.0, 8)))
    (layer,) = to_json(spec)["layers"]
    assert (layer["mixer"]["kind"], layer["mlp"]["kind"]) == ("attention", "dense")
    assert layer["mixer"]["rope"]["scaling"]["kind"] == "yarn"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("width",), "8", "width is '8'"),
        (("width",), True, "width is True"),
        (("centred",), 1, "centred is 1"),
        (("layers",), {}, "layers is {}, it must be a list"),
        (("layers", 0), [], r"layers\[0\] is \[\], it must be an object"),
        (("layers", 0, "repeat"), 0, r"layers\[0\]\.repeat is 0"),
        (("layers", 0, "repeat"), MOST_LAYERS + 1, r"layers\[0\]\.repeat is 1001"),
        (("layers", 0, "mixer", "kind"), "quantum", "mixer.kind is 'quantum', it must be one of attention"),
        (("layers", 0, "mixer", "colour"), "red", "mixer.colour is not a field"),
        (("layers", 0, "mixer"), None, "each mixer has a norm"),
        (("layers", 0, "mixer_norm", "kind"), "batch", "mixer_norm.kind is 'batch'"),
        (("final_norm",), None, "final_norm is None"),
    ],
)
def test_damaged_json_is_refused_by_name(path: tuple[Any, ...], value: object, said: str) -> None:
    data = to_json(plain_spec())
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(CheckpointError, match=rf"^spec: .*{said}"):
        from_json(data)


def test_a_missing_field_is_named() -> None:
    data = to_json(plain_spec())
    del data["head"]
    with pytest.raises(CheckpointError, match=r"^spec: spec\.head is missing"):
        from_json(data)


def test_whole_numbers_are_read_as_floats_where_a_float_belongs() -> None:
    spec = replace(plain_spec(), embedding_multiplier=2.0)
    data = {**to_json(spec), "embedding_multiplier": 2}
    assert from_json(data) == spec
    assert isinstance(from_json(data).embedding_multiplier, float)
