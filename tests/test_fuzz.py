"""Damaged files of every kind: only KeptError comes out, whatever they say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets import TARGETS_OF_FUZZING, material, run

CHANGES = st.tuples(st.integers(0, 255), st.binary(max_size=24)).map(lambda parts: bytes((parts[0],)) + parts[1])


@pytest.mark.parametrize("name", TARGETS_OF_FUZZING)
@settings(max_examples=75)
@given(data=CHANGES)
def test_damage_is_refused_or_harmless(name: str, data: bytes) -> None:
    run(name, data)


@pytest.mark.parametrize("name", TARGETS_OF_FUZZING)
def test_the_good_files_are_good(name: str) -> None:
    target = TARGETS_OF_FUZZING[name]
    for at in range(len(target.good())):
        target.use(material(target, bytes((4 * at + 2,))))
