"""Text in, text out: greedy text is the stock class's, and every wrong argument is named."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import kept
from kept.errors import InputError
from support.models import write_checkpoint
from support.stored import write_readable

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = ["The keeper", "seven ships and one", "한"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("sources") / "llama", "llama")


def test_greedy_text_is_that_of_transformers(llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    tokenizer = AutoTokenizer.from_pretrained(llama)
    found = kept.generate(llama, PROMPTS, max_new_tokens=12)
    assert [one.prompt for one in found] == PROMPTS
    for one in found:
        ids = tokenizer(one.prompt, return_tensors="pt")
        with torch.inference_mode():
            theirs = model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]  # type: ignore[misc]
        assert one.prompt + one.text == tokenizer.decode(theirs, skip_special_tokens=True)


def test_batched_prompts_generate_the_same_as_each_alone(llama: Path) -> None:
    together = kept.generate(llama, PROMPTS, max_new_tokens=8)
    assert together == [kept.generate(llama, [prompt], max_new_tokens=8)[0] for prompt in PROMPTS]


def test_a_source_s_text_is_its_conversion_s(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "orion", "orion")
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    assert kept.generate(source, PROMPTS, max_new_tokens=12) == kept.generate(out, PROMPTS, max_new_tokens=12)


def test_a_seed_decides_what_is_sampled(llama: Path) -> None:
    def sampled(seed: int) -> str:
        return kept.generate(llama, PROMPTS[:1], max_new_tokens=24, temperature=1.5, seed=seed)[0].text

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_the_likeliest_token_alone_is_greedy(llama: Path) -> None:
    greedy = kept.generate(llama, PROMPTS, max_new_tokens=8)
    assert kept.generate(llama, PROMPTS, max_new_tokens=8, temperature=1.0, top_p=1e-6) == greedy


@pytest.mark.parametrize(
    "options",
    [
        *({"max_new_tokens": tokens} for tokens in (0, -1)),
        *({"temperature": kelvin} for kelvin in (-0.1, math.nan, math.inf, -math.inf, 1e-45, 1e45)),
        *({"top_p": share} for share in (0.0, 1.1, -1.0, math.nan, math.inf)),
        *({"seed": seed} for seed in (-1, 10**30)),
    ],
    ids=str,
)
def test_wrong_options(llama: Path, options: dict[str, Any]) -> None:
    (key,) = options
    with pytest.raises(InputError, match=f"^{key}: is "):
        kept.generate(llama, PROMPTS, **options)


def test_an_empty_prompt_and_one_too_long(llama: Path) -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        kept.generate(llama, ["", "x"], max_new_tokens=4)
    with pytest.raises(InputError, match="the prompt is empty"):
        kept.generate(llama, [], max_new_tokens=4)
    with pytest.raises(InputError, match="126 prompt tokens and 4 new ones pass the model's 128 positions"):
        kept.generate(llama, ["x" * 126], max_new_tokens=4)


def test_a_checkpoint_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has none of tokenizer\.json, tokenizer\.model, qwen\.tiktoken"):
        kept.generate(write_checkpoint(tmp_path, "llama"), PROMPTS, max_new_tokens=4)
