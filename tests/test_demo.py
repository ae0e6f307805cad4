"""The demonstration: what ships is small, is what its card says, and becomes a Llama that says the same."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from kept.demo import TOKENS, model_path, run_demo
from kept.errors import InputError
from kept.loaded import open_model

if TYPE_CHECKING:
    from pathlib import Path

    from kept.demo import Demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo"))


def test_the_model_that_comes_along_is_a_small_orion() -> None:
    opened = open_model(model_path())
    assert opened.family.name == "orion"
    assert sum(file.stat().st_size for file in model_path().iterdir()) <= 5_000_000
    assert not (model_path() / "tokenizer.json").exists(), "the conversion must build it from tokenizer.model"
    assert f"{opened.program.parameters:,} parameters" in (model_path() / "README.md").read_text()


def test_the_conversion_keeps_its_promise(demo: Demo) -> None:
    found = demo.conversion.verification
    assert found is not None
    assert found.failure is None
    assert found.proof is not None
    assert found.proof.max_logit_error < 1e-9 * found.proof.logit_std
    assert demo.stock_class == "LlamaForCausalLM"


def test_source_and_stock_class_write_the_same(demo: Demo) -> None:
    # Greedy choices in bfloat16-rounded weights can part at a near-tie; the first words cannot.
    assert all(pair.source[:20] == pair.output[:20] for pair in demo.pairs)
    assert all(len(pair.source) > TOKENS for pair in demo.pairs), "a token is more than a character of real text"


def test_its_english_is_recognisable(demo: Demo) -> None:
    words = re.findall(r"[a-z]+", demo.pairs[0].source.lower())
    common = {"the", "a", "and", "was", "to", "of", "he", "she", "it", "in", "her", "his", "they", "said", "had"}
    assert sum(word in common for word in words) >= len(words) / 6


def test_the_page_is_self_contained(demo: Demo) -> None:
    html = demo.page.read_text(encoding="utf-8")
    assert "<svg" in html
    assert "promise exact: kept" in html
    assert not re.search(r'<script|src=|@import|url\(http|href="(?!#|data:,)', html)
    assert json.dumps(demo.record)


def test_it_replaces_its_own_result_and_nothing_else(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    with pytest.raises(InputError, match="no earlier demonstration"):
        run_demo(tmp_path)
    again = run_demo(demo.page.parent)
    assert again.pairs == demo.pairs
