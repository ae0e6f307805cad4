"""GPT-2's relatives that were published in formats of their own, with what their authors say that they compute."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kept.ir.spec import Mlp
from kept.nn import Model, generate
from support.foreign import SORT, packed_tensors, slm_corpus, write_slm, write_sort
from support.logits import model_of, program_of, stock_logits, worst
from support.shared_data import needs_data
from support.specs import with_mlp

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_data

GOLDEN = 2e-6
"""Tolerance relative to the largest activation: both sides are float32, theirs from other code on another machine."""


@pytest.fixture(scope="module")
def sort_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sort(tmp_path_factory.mktemp("sort"))


@pytest.fixture(scope="module")
def sort(sort_directory: Path) -> Model:
    return model_of(program_of(sort_directory), torch.float32)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return packed_tensors(SORT / "gpt-nano-sort-t0-partials.json")[1]


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@torch.inference_mode()
def test_sort_has_its_golden_streams(sort: Model, golden: dict[str, torch.Tensor]) -> None:
    tokens = golden["idx"].long()
    streams = dict(zip(("x", "block0", "block1", "block2"), sort.streams(tokens), strict=True))
    for name, stream in streams.items():
        assert off(stream, golden[name]) < GOLDEN, name
    assert off(sort.final_norm(streams["block2"]), golden["ln_f"]) < GOLDEN
    assert off(sort(tokens), golden["lm_head"]) < GOLDEN
    assert off(sort(tokens).softmax(-1), golden["probs"]) < GOLDEN
    assert off(sort(tokens.roll(1)), golden["lm_head"]) > 0.1  # negative control: other symbols


@torch.inference_mode()
def test_sort_has_the_golden_parts_of_its_first_block(sort: Model, golden: dict[str, torch.Tensor]) -> None:
    block: Any = sort.layers[0]
    normed = block.mixer_norm(golden["x"])
    assert off(normed, golden["ln1"]) < GOLDEN
    for name, heads in zip("qkv", block.mixer._project(normed), strict=True):
        assert off(heads, golden[name]) < GOLDEN, name
    assert off(block.mlp_norm(golden["attnResid"]), golden["ln2"]) < GOLDEN
    assert off(block.mlp.up(golden["ln2"]), golden["fc"]) < GOLDEN
    assert off(block.mlp(golden["ln2"]), golden["mlp"]) < GOLDEN


@torch.inference_mode()
def test_sort_sorts_everything(sort: Model) -> None:
    """All 729 words of six symbols; the sorted word follows, one symbol at a time."""
    words = torch.tensor(list(itertools.product(range(3), repeat=6)))
    tokens = words
    for _ in range(6):
        tokens = torch.cat((tokens, sort(tokens)[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(tokens[:, 6:], words.sort(dim=1).values)
    assert not torch.equal(tokens[:, 6:], words)


def test_sort_sorts_with_a_cache(sort: Model) -> None:
    words = [[2, 0, 1, 1, 0, 2], [2, 2, 2, 1, 1, 0], [0, 0, 2, 0, 1, 0]]
    assert generate(sort, words, 5) == [sorted(word)[:5] for word in words]


def test_sort_is_a_gpt2_to_transformers_too(sort_directory: Path, sort: Model) -> None:
    tokens = torch.randint(0, 3, (4, 11), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert worst(sort(tokens), stock_logits(sort_directory, tokens, torch.float32)) < 2e-6  # roundings of float32


@pytest.fixture(scope="module")
def slm(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model_of(program_of(write_slm(tmp_path_factory.mktemp("slm"))), torch.float32)


@torch.inference_mode()
def bits(model: Model, tokens: torch.Tensor) -> float:
    """Bits per character over the text in pieces of the context, each predicted from its own beginning."""
    pieces = tokens.unfold(0, 129, 128)
    nats = torch.nn.functional.cross_entropy(model(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())
    return float(nats) / math.log(2)


def test_slm_knows_its_page_by_heart(slm: Model) -> None:
    corpus = slm_corpus()
    assert bits(slm, corpus) == pytest.approx(0.101, abs=5e-4)
    assert bits(slm, corpus.flip(0)) > 5  # negative control: the same characters backwards


def test_slm_recites(slm: Model) -> None:
    """Greedy from 48 characters, as far as the context reaches."""
    corpus = slm_corpus()
    starts = range(0, 4000, 500)
    found = generate(slm, [corpus[start : start + 48].tolist() for start in starts], 80)
    right = sum(out == corpus[start + 48 : start + 128].tolist() for start, out in zip(starts, found, strict=True))
    assert right >= 7


def test_slm_has_the_gelu_that_it_was_trained_with(slm: Model) -> None:
    """Negative control: with the tanh form it remembers less well, by little: the forms are near."""
    corpus, mlp = slm_corpus(), slm.spec.layers[0].mlp
    assert mlp == Mlp(256, "gelu", gated=False, up_bias=True, down_bias=True)
    other = Model(with_mlp(slm.spec, activation="gelu_tanh"))
    other.load_state_dict(slm.state_dict())
    assert abs(bits(other, corpus) - bits(slm, corpus)) > 1e-6
