"""Configs that no model has: the key is named, whatever the family."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kept.errors import CheckpointError
from kept.families import FAMILIES
from kept.families.items import Size
from kept.ir.spec import TokenIds
from support.specs import attention_of
from support.tiny import TINY

HUGE = 10**400

LONG: dict[str, Any] = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 2.0}
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

TURNING = ("llama", "mistral", "orion", "qwen2", "starcoder2")
"""Families that turn whole heads."""


def refusal(family: str, **changes: Any) -> str:
    """The line with which a config is refused; without the changes it is read."""
    FAMILIES[family].read_config(TINY[family])
    with pytest.raises(CheckpointError) as caught:
        FAMILIES[family].read_config({**TINY[family], **changes})
    line = str(caught.value)
    assert line.isprintable()
    assert line.startswith("config.json: ")
    return line


@pytest.mark.parametrize("scaling", [YARN, LONG, {**LLAMA3, "original_max_position_embeddings": 64}])
def test_the_scalings_are_good_before_they_are_changed(scaling: dict[str, Any]) -> None:
    FAMILIES["llama"].read_config({**TINY["llama"], "rope_scaling": scaling})


@pytest.mark.parametrize("value", [-1, 0, 0.5, "10", True, HUGE, -HUGE, math.nan, math.inf, [1], {}])
def test_theta(value: object) -> None:
    assert "rope_theta is " in refusal("llama", rope_theta=value)
    assert "rope_parameters: rope_theta is " in refusal("llama", rope_parameters={"rope_theta": value})


def test_yarn_divides_by_the_logarithm_of_theta() -> None:
    assert "rope_theta is 1" in refusal("llama", rope_theta=1, rope_scaling=YARN)


ABSURD = (-1, 1e-300, 1e300, 5e-324, HUGE, -HUGE, math.nan, math.inf, True, "2", [2])


@pytest.mark.parametrize("value", [0, *ABSURD])
@pytest.mark.parametrize("key", ["factor", "beta_fast", "beta_slow", "attention_factor"])
def test_numbers_of_yarn(key: str, value: object) -> None:
    assert f"rope_scaling: {key} is " in refusal("llama", rope_scaling={**YARN, key: value})


@pytest.mark.parametrize("value", [HUGE, math.inf, math.nan, True, 0, -1.0, 1e-320, 1e308, "1"])
@pytest.mark.parametrize("key", ["short_factor", "long_factor"])
def test_divisors_of_longrope(key: str, value: object) -> None:
    said = refusal("llama", rope_scaling={**LONG, key: [*LONG[key][:-1], value]})
    assert f"rope_scaling: {key} is " in said
    assert "a list of 8 numbers" in said


def test_longrope_divides_by_the_logarithm_of_the_original_length() -> None:
    said = refusal("llama", rope_scaling={**LONG, "original_max_position_embeddings": 1})
    assert "original_max_position_embeddings is 1, it must be at least 2" in said


def test_llama3_needs_a_ramp() -> None:
    section = {**LLAMA3, "original_max_position_embeddings": 64, "low_freq_factor": 4.0}
    assert "high_freq_factor is 4.0, it must be above low_freq_factor, 4" in refusal("llama", rope_scaling=section)


def test_dynamic_needs_two_pairs() -> None:
    section = {"rope_type": "dynamic", "factor": 2.0}
    assert "divides by 0" in refusal("llama", head_dim=2, rope_scaling=section)


@pytest.mark.parametrize("family", [*TURNING, "stablelm"])
def test_a_rotation_for_each_type_of_layer(family: str) -> None:
    nested = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    said = refusal(family, rope_parameters=nested)
    assert "rope_parameters: states a rotation for each of full_attention, sliding_attention" in said


@pytest.mark.parametrize("family", TURNING)
@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_fraction_that_the_classes_do_not_read(family: str, where: str) -> None:
    fraction: dict[str, Any] = {"partial_rotary_factor": 0.5}
    said = refusal(family, **(fraction if where == "outside" else {"rope_parameters": fraction}))
    assert "partial_rotary_factor is 0.5, it must be 1: the classes of this family rotate whole heads" in said
    FAMILIES[family].read_config({**TINY[family], "partial_rotary_factor": 1.0})


@pytest.mark.parametrize("family", ["gpt2", "orion", "qwen2", "stablelm", "starcoder2"])
def test_a_head_size_that_is_computed(family: str) -> None:
    size = attention_of(FAMILIES[family].read_config(TINY[family]).layers[0]).head_dim
    assert f"head_dim is 128, it must be {size}, which this family computes" in refusal(family, head_dim=128)
    FAMILIES[family].read_config({**TINY[family], "head_dim": size})


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [1.0, True, "</s>", {}])
def test_an_invalid_special_token_is_refused(family: str, key: str, value: object) -> None:
    assert f"{key} is " in refusal(family, **{key: value})


@pytest.mark.parametrize("value", [[None], [True], [[1]], [1, "2"]])
def test_invalid_end_token_ids_are_refused(value: object) -> None:
    assert "eos_token_id is " in refusal("llama", eos_token_id=value)


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.parametrize("value", [-1, 97, 10**6])
def test_an_id_outside_the_vocabulary_is_no_token(family: str, value: int) -> None:
    """Stock classes accept such an id: the model neither reads nor produces it."""
    read = FAMILIES[family].read_config
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), value)
    assert read({**TINY[family], **ids}).tokens == TokenIds()
    assert read({**TINY[family], "eos_token_id": [value, 5, value]}).tokens.eos == (5,)


@pytest.mark.parametrize("family", ["gpt2", "starcoder2"])
def test_a_default_token_past_a_small_vocabulary_is_none(family: str) -> None:
    config = {key: value for key, value in TINY[family].items() if key not in {"bos_token_id", "eos_token_id"}}
    tokens = FAMILIES[family].read_config(config).tokens
    assert (tokens.bos, tokens.eos) == (None, None)


@pytest.mark.parametrize("types", [[], ["full_attention"], ["x"] * 3, "full_attention", [["full_attention"]] * 3])
def test_layer_types_count_even_where_no_window_slides(types: object) -> None:
    said = refusal("qwen2", layer_types=types, use_sliding_window=False)
    assert "layer_types is " in said
    assert "a list of 3 of full_attention, sliding_attention" in said


# The sizes of our own class stand in its spec (test_native.py).
@pytest.mark.parametrize("family", sorted(TINY.keys() - {"kept"}))
@pytest.mark.parametrize("value", [-1, 0, 2**31, HUGE, 1.5, math.nan, True, "64", [64], {}])
def test_sizes(family: str, value: object) -> None:
    key = next(item.key for item in FAMILIES[family].items if isinstance(item, Size) and item.path == "vocabulary")
    assert f"{key} is " in refusal(family, **{key: value})


def test_a_number_of_thousands_of_digits_is_named() -> None:
    assert "vocab_size is a number of thousands of digits" in refusal("llama", vocab_size=10**5000)
