"""Tables of families on random specs: those that they can express, and violations of the others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given

from kept.errors import CheckpointError
from kept.families import FAMILIES, family_of
from kept.ir.facts import differences, facts
from support.logits import random_program
from support.specs import specs
from support.tiny import TINY

if TYPE_CHECKING:
    from kept.families.table import Family
    from kept.ir.spec import Spec

FREE = [FAMILIES[name] for name in ("gpt2", "llama", "mistral")]
"""Families whose config can state any size of head, or that do not rotate."""


@pytest.mark.parametrize("family", FREE, ids=lambda family: family.name)
@given(spec=specs())
def test_violations_are_the_difference_that_writing_makes(family: Family, spec: Spec) -> None:
    """No spec is too odd to be told what is in its way, and what remains of it is expressible."""
    said = family.read_config(family.write_config(spec, "F32"))
    found = family.violations(spec)
    if said != spec:
        assert found == list(differences(facts(spec), facts(said)))
        assert found
    limits = [v for limit in family.limits if (v := limit(said)) is not None]
    assert family.violations(said) == limits


@pytest.mark.parametrize("family", FREE, ids=lambda family: family.name)
@given(spec=specs())
def test_what_is_written_is_read_again(family: Family, spec: Spec) -> None:
    """Spec and values, for everything that the family can say."""
    said = family.read_config(family.write_config(spec, "F64"))
    program = random_program(said)
    again = family.read(json.loads(json.dumps(family.write_config(said, "F64"))), family.write(program))
    assert again.spec == said
    for name, lazy in program.weights.items():
        assert torch.equal(again.weights[name].value("float64"), lazy.value("float64")), name


def test_every_family_has_a_tiny_model_and_its_own_tests() -> None:
    assert sorted(TINY) == sorted(FAMILIES)


def test_no_family_writes_what_it_does_not_read() -> None:
    """Entries are reversible only if no two slots share a stored name."""
    for family in FAMILIES.values():
        names, slots = [e.name for e in family.entries], [(e.slot, e.when) for e in family.entries]
        assert len(set(names)) == len(names)
        assert len(set(slots)) == len(slots)


@pytest.mark.parametrize("config", [{}, {"model_type": None}])
def test_a_config_without_a_family(config: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: has no model_type"):
        family_of(config)


def test_a_model_type_that_is_not_a_string() -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: model_type is 3, it must be a string"):
        family_of({"model_type": 3})


def test_an_unknown_family_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(CheckpointError, match=r"'lama' is not a family .*starcoder2.*did you mean llama\?"):
        family_of({"model_type": "lama"})
    with pytest.raises(CheckpointError, match=r"'bert' is not a family that kept reads \(\w+, .*gpt2, .*\)$"):
        family_of({"model_type": "bert"})
