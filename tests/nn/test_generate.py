"""Generation: greedy and sampled, batched with padding, up to the end token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from kept.errors import InputError
from kept.ir import spec as ir
from kept.nn import Model, generate
from kept.nn.generate import _choose
from support.logits import model_of, random_program
from support.specs import plain_spec, with_mixer

if TYPE_CHECKING:
    from collections.abc import Sequence

PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6, 5], [7]]


@pytest.fixture(scope="module")
def model() -> Model:
    spec = with_mixer(plain_spec(), heads=4, kv_heads=2, window=5)
    return model_of(random_program(spec, seed=3))


def greedy(model: Model, prompt: Sequence[int], count: int) -> list[int]:
    """The most likely token, each time from the whole sequence."""
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_greedy_is_the_most_likely_token_each_time(model: Model) -> None:
    for prompt in PROMPTS:
        (found,) = generate(model, [prompt], 20)
        assert found == greedy(model, prompt, 20)
        assert len(set(found)) > 1  # a model that repeats itself would prove little


def test_batched_prompts_generate_the_same_as_single_ones(model: Model) -> None:
    batch = generate(model, PROMPTS, 12)
    assert batch == [generate(model, [prompt], 12)[0] for prompt in PROMPTS]
    assert batch != [generate(model, [[0, *prompt]], 12)[0] for prompt in PROMPTS]


def test_generation_stops_at_the_end_token(model: Model) -> None:
    (free,) = generate(model, [PROMPTS[0]], 20)
    end = free[2]
    assert free[3:].count(end) + 1 < len(free[3:])  # a row that went on after its end would show
    for eos in (end, (end, 99)):
        model.spec, before = replace(model.spec, tokens=ir.TokenIds(eos=eos)), model.spec
        (stopped,) = generate(model, [PROMPTS[0]], 20)
        batch = generate(model, PROMPTS, 20)
        model.spec = before
        assert stopped == free[: free.index(end)]
        assert batch[0] == stopped
        assert all(end not in row for row in batch)


def test_sampling_is_reproducible(model: Model) -> None:
    def sampled(seed: int) -> list[list[int]]:
        return generate(model, PROMPTS, 15, temperature=1.0, top_p=0.95, seed=seed)

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_a_temperature_near_zero_is_greedy(model: Model) -> None:
    assert generate(model, PROMPTS, 10, temperature=1e-4) == generate(model, PROMPTS, 10)
    assert generate(model, PROMPTS, 10, temperature=10.0) != generate(model, PROMPTS, 10)


def test_a_tiny_nucleus_is_greedy(model: Model) -> None:
    assert generate(model, PROMPTS, 10, temperature=1.0, top_p=1e-6) == generate(model, PROMPTS, 10)


P = torch.tensor([[0.05, 0.4, 0.3, 0.05, 0.2]])


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.35, {1}), (0.45, {1, 2}), (0.65, {1, 2}), (0.75, {1, 2, 4}), (1.0, {0, 1, 2, 3, 4})]
)
def test_the_nucleus_is_the_least_set_that_reaches_top_p(top_p: float, kept: set[int]) -> None:
    """2,000 draws see every token of the nucleus: the rarest, at 0.05, is missed with probability 1e-45."""
    random = torch.Generator().manual_seed(0)
    drawn = _choose(P.log().expand(2000, -1), 1.0, top_p, random)
    assert set(drawn.tolist()) == kept


def test_sampled_frequencies_are_the_probabilities() -> None:
    """20,000 draws at temperature 2: five standard deviations of a frequency are 0.018 at most."""
    random = torch.Generator().manual_seed(0)
    drawn = _choose(P.log().expand(20_000, -1), 2.0, 1.0, random)
    frequencies = torch.bincount(drawn, minlength=5) / len(drawn)
    wanted = P[0].sqrt() / P[0].sqrt().sum()
    assert float((frequencies - wanted).abs().max()) < 0.018
    assert float((frequencies - P[0]).abs().max()) > 0.03


@pytest.mark.parametrize("prompts", [[], [[]], [[1, 2], []]])
def test_an_empty_prompt_is_refused(model: Model, prompts: list[list[int]]) -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        generate(model, prompts, 3)


def test_the_context_is_not_passed(model: Model) -> None:
    room = model.spec.context - len(PROMPTS[1])
    assert len(generate(model, PROMPTS, room)[1]) == room
    with pytest.raises(InputError, match=f"6 prompt tokens and {room + 1} new ones pass the model's 40 positions"):
        generate(model, PROMPTS, room + 1)


@pytest.mark.parametrize("top_p", [0.0, -0.5, 1.5])
def test_a_top_p_that_keeps_nothing_is_refused(model: Model, top_p: float) -> None:
    with pytest.raises(InputError, match="top-p"):
        generate(model, PROMPTS, 3, temperature=1.0, top_p=top_p)
