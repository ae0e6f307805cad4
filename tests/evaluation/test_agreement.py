"""Agreement: a model with itself in all, with its exact conversion nearly so, with another in little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import kept
from kept.errors import InputError
from kept.evaluation.agreement import (
    agreement_estimates,
    measure_greedy,
    prompts_of,
    text_agreement,
)
from support.stored import PROSE, write_readable
from support.subjects import subject, tiny

if TYPE_CHECKING:
    from pathlib import Path


def test_prompts_begin_at_words_all_over_the_text() -> None:
    text = " ".join(f"word{n}" for n in range(1000))
    found = prompts_of(text, 5)
    assert len(found) == 5
    assert all(prompt.startswith("word") for prompt in found)
    assert found[0].startswith("word0 ")
    assert "word6" in found[3]
    with pytest.raises(InputError, match="the text to take prompts from is empty"):
        prompts_of(" \n", 5)


def test_a_conversion_says_what_its_source_says(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "orion", "orion")
    out = kept.convert(source, tmp_path / "out", dtype="float32", verify_tokens=0).path
    first, same = (measure_greedy(subject(path), PROSE, 4) for path in (source, out))
    figures = agreement_estimates(first, same)
    assert {name: one.value for name, one in figures.items()} == {
        "identical text": 1.0,
        "common prefix": 1.0,
        "same greedy token": 1.0,
    }
    other = measure_greedy(tiny(tmp_path / "other", "orion", seed=5), PROSE, 4)
    figures = agreement_estimates(first, other)
    assert figures["identical text"].value == 0
    assert figures["same greedy token"].value < 0.5
    assert len(figures["same greedy token"].influences) == len(PROSE) - 1


def test_tokens_of_another_tokenizer_are_not_compared(tmp_path: Path) -> None:
    first = measure_greedy(tiny(tmp_path, "llama"), PROSE, 2)
    assert "same greedy token" not in agreement_estimates(first, {**first, "ids": "others"})


def test_how_far_texts_go_together() -> None:
    found = text_agreement(["abcd", "", "x"], ["abxyzw", "", "y"])
    assert found["identical text"].value == pytest.approx(1 / 3)
    assert found["common prefix"].value == pytest.approx((2 / 6 + 1 + 0) / 3)
