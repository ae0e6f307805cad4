"""Types of setting values: the JSON schema accepts the texts that the parser accepts, and no others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from kept.commands.shrink import ShrinkSettings
from kept.distillation.settings import HealSettings
from kept.errors import RecipeError
from kept.evaluation.settings import EvalSettings
from kept.recipe import Recipe
from kept.settings_model import json_schema

if TYPE_CHECKING:
    from kept.settings_model import Settings

HEAL = {"student": "s", "out": "o", "teacher": "t"}
CONVERT = {"source": "s", "out": "o"}

TEXTS = (
    *[
        " ",
        "2M",
        " 2M",
        "2 m",
        "1.5M",
        "1.5",
        "1_000",
        "_",
        "-1",
        "1.2.3",
        "5GB",
        "5 gb",
        "5",
        "0.7,1",
        "4,9",
        "x",
        ",",
    ],
)


def patterns(schema: Any) -> list[str]:
    """Return every pattern of a JSON schema."""
    if isinstance(schema, dict):
        return [schema["pattern"]] if "pattern" in schema else [p for one in schema.values() for p in patterns(one)]
    return [p for one in schema for p in patterns(one)] if isinstance(schema, list) else []


def accepts(model: type[Settings], key: str, value: Any, others: dict[str, str]) -> bool:
    """Return whether the parser takes a value."""
    try:
        model.from_table({**others, key: value})
    except RecipeError:
        return False
    return True


@pytest.mark.parametrize(
    ("model", "key", "others"),
    [
        (HealSettings, "tokens", HEAL),
        (HealSettings, "sample_temperatures", HEAL),
        (Recipe, "max_shard_size", CONVERT),
        (ShrinkSettings, "layers", CONVERT),
    ],
)
def test_schema_and_parser_accept_the_same_texts(model: type[Settings], key: str, others: dict[str, str]) -> None:
    (pattern,) = patterns(json_schema(model)["properties"][key])
    by_schema = [text for text in TEXTS if re.search(pattern, text, re.ASCII)]
    assert by_schema == [text for text in TEXTS if accepts(model, key, text, others)]
    assert 0 < len(by_schema) < len(TEXTS)


@pytest.mark.parametrize(("value", "problem"), [("0", "at least 1"), (-1, "at least 1"), (2**63, "is too large")])
def test_counts_outside_of_their_limits_name_the_limit(value: int | str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        HealSettings.from_table({**HEAL, "tokens": value})


def test_limits_of_counts_and_lists_are_in_the_schema() -> None:
    properties = json_schema(HealSettings)["properties"]
    assert properties["tokens"]["anyOf"][0]["minimum"] == 1
    assert properties["data"]["anyOf"][1]["minItems"] == 1


def test_texts_of_an_evaluation_are_files() -> None:
    with pytest.raises(RecipeError, match="must be a table of files by domain") as caught:
        EvalSettings.from_table({"texts": {"a": 1}})
    assert caught.value.key == "texts"


@pytest.mark.parametrize("key", ["batch_size", "sequence_length", "gradient_accumulation"])
def test_a_step_with_too_many_tokens_names_its_largest_factor(key: str) -> None:
    with pytest.raises(RecipeError, match="a step has at most") as caught:
        HealSettings.from_table({**HEAL, key: 10**9})
    assert caught.value.key == key
