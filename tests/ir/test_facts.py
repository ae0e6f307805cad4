"""A spec and its flat table of facts say the same thing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given

from kept.ir.facts import ABSENT, PerLayer, Violation, at_layer, build_spec, differences, facts
from support.specs import (
    attention_of,
    layers,
    plain_spec,
    specs,
    with_layer,
    with_mixer,
)

if TYPE_CHECKING:
    from kept.ir import spec as ir


@given(specs())
def test_facts_build_the_spec_they_came_from(spec: ir.Spec) -> None:
    assert build_spec(facts(spec)) == spec


@given(specs(), layers())
def test_facts_of_other_specs_differ(spec: ir.Spec, other: ir.Layer) -> None:
    changed = replace(spec, layers=(*spec.layers[:-1], other))
    same = changed == spec
    assert (facts(changed) == facts(spec)) is same
    assert (not list(differences(facts(changed), facts(spec)))) is same


@given(specs())
def test_a_layer_has_its_own_facts(spec: ir.Spec) -> None:
    table = facts(spec)
    for i, layer in enumerate(spec.layers):
        alone = facts(replace(spec, layers=(layer,)))
        mine = {path: value for path, value in at_layer(table, i).items() if path.startswith("layers.")}
        assert mine == {path: value for path, value in alone.items() if path.startswith("layers.")}


def test_centred_is_a_fact_about_weights_and_no_fact_of_a_format() -> None:
    centred = replace(plain_spec(), centred=True)
    assert build_spec(facts(centred)) == plain_spec()


def test_what_layers_share_is_one_fact() -> None:
    table = facts(plain_spec(3))
    assert table["depth"] == 3
    assert table["layers.*.mixer.attention.heads"] == 2
    assert table["layers.*.mixer.attention.rope.theta"] == 100.0
    assert not any(isinstance(value, PerLayer) for value in table.values())


def test_what_layers_do_not_share_is_a_value_for_each() -> None:
    spec = with_layer(plain_spec(3), 1, mlp_norm=None, parallel=True, shared_norm=True)
    table = facts(spec)
    assert table["layers.*.parallel"] == PerLayer((False, True, False))
    assert table["layers.*.mlp_norm"] == PerLayer(("Norm", None, "Norm"))
    assert table["layers.*.mlp_norm.kind"] == PerLayer(("rms", ABSENT, "rms"))
    assert "layers.*.mlp_norm.kind" not in at_layer(table, 1)


def test_missing_facts_take_the_defaults() -> None:
    table = facts(plain_spec())
    said = {path: value for path, value in table.items() if "bias" not in path and not path.startswith("tokens")}
    assert build_spec(said) == plain_spec()


def test_a_fact_without_a_default_is_not_made_up() -> None:
    table = facts(plain_spec())
    del table["layers.*.mixer.attention.heads"]
    with pytest.raises(AssertionError, match="heads"):
        build_spec(table)


def test_equal_tables_have_no_differences() -> None:
    assert list(differences(facts(plain_spec()), facts(plain_spec()))) == []


def test_a_difference_in_all_layers_is_one_violation() -> None:
    spec = with_mixer(plain_spec(), o_bias=True)
    (violation,) = differences(facts(spec), facts(plain_spec()))
    assert violation == Violation("layers.*.mixer.attention.o_bias", found=True, needs=False)
    assert str(violation).endswith("mixer.attention.o_bias is True, the target has False")


def test_a_difference_in_some_layers_names_the_first() -> None:
    spec = plain_spec(4)
    for i in (2, 3):
        spec = with_layer(spec, i, mixer=replace(attention_of(spec.layers[i]), window=5))
    (violation,) = differences(facts(spec), facts(plain_spec(4)))
    assert (violation.where, violation.layer) == ("layers.2.mixer.attention.window", 2)
    assert str(violation) == "layers.2.mixer.attention.window is 5, the target has none"


def test_only_the_outermost_difference_is_reported() -> None:
    spec = with_mixer(plain_spec(), rope=None)
    assert [v.path for v in differences(facts(spec), facts(plain_spec()))] == ["layers.*.mixer.attention.rope"]
    assert [v.path for v in differences(facts(plain_spec()), facts(spec))] == ["layers.*.mixer.attention.rope"]
