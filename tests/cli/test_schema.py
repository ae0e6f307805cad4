"""`kept schema`: JSON schemas that name every key, and recipes that satisfy them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from kept.cli.commands.schema import SCHEMAS
from kept.cli.root import main
from kept.commands.step_kinds import KINDS


def schema(kind: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["schema", kind])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_key_has_a_description(kind: str) -> None:
    found = schema(kind)
    assert found["additionalProperties"] is False
    assert [key for key, value in found["properties"].items() if "description" not in value] == []


def test_a_step_has_the_keys_of_its_command() -> None:
    steps = {one["properties"]["do"]["const"]: one for one in schema("steps")["properties"]["steps"]["items"]["oneOf"]}
    assert set(steps) == {*KINDS}
    assert "learning_rate" in steps["heal"]["properties"]
    assert "out" not in steps["heal"]["properties"], "the recipe names the output"
    assert "out" in steps["eval"]["properties"]
