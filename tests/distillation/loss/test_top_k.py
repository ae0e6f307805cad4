"""A teacher as its likeliest tokens: what is listed, and what that costs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.distillation.loss.output_head import HeadInput
from kept.distillation.loss.top_k import top_k
from kept.distillation.loss.top_k_bias import top_k_bias
from kept.ir.spec import Head
from kept.nn.decoder import project
from support import plain_losses

COUNT, VOCABULARY = 9, 40


def head_input(seed: int, head: Head) -> HeadInput:
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(COUNT, 6, generator=random, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, 6, generator=random, dtype=torch.float64)
    return HeadInput(hidden, weight, None, head)


def logits_of(given: HeadInput) -> torch.Tensor:
    return project(given.hidden_ND, given.weight_VD, given.bias_V, given.head)


@given(st.integers(0, 99), st.integers(1, 50), st.integers(1, 10), st.sampled_from([1.0, 2.0]), st.booleans())
def test_what_is_listed_is_the_teachers(seed: int, k: int, chunk: int, temperature: float, normalised: bool) -> None:  # noqa: FBT001 - drawn
    teacher = head_input(seed, Head(multiplier=2.0, softcap=9.0, normalised=normalised))
    found = top_k(teacher, k, temperature, chunk)
    p = (logits_of(teacher) / temperature).softmax(-1)
    ordered, ids = p.sort(-1, descending=True)
    assert found.ids_NK.shape == (COUNT, min(k, VOCABULARY))
    assert torch.equal(found.ids_NK, ids[:, :k])
    assert torch.allclose(found.log_probs_NK.exp(), ordered[:, :k], rtol=1e-12)
    assert torch.allclose(found.tail_N, ordered[:, k:].sum(-1), rtol=1e-12, atol=1e-300)
    assert found.temperature == temperature


def test_a_tail_too_small_for_a_difference_is_there() -> None:
    """In float32 one minus what is listed would be 0, or below."""
    weight = torch.tensor([[30.0], [1.0], [0.0]])
    found = top_k(HeadInput(torch.ones(1, 1), weight), 1)
    assert float(found.tail_N) == pytest.approx(3.48e-13, rel=1e-2)


@given(st.integers(0, 99), st.integers(1, 10))
def test_the_bias_is_what_the_losses_say(seed: int, chunk: int) -> None:
    student, teacher = head_input(seed, Head()), head_input(seed + 100, Head())
    mask = torch.arange(COUNT) % 3 != 1
    found = top_k_bias(student, teacher, mask, (2, 10, VOCABULARY), chunk=chunk)
    ours, theirs = logits_of(student)[mask].requires_grad_(), logits_of(teacher)[mask]
    full = plain_losses.forward_kl(theirs, ours)
    (wanted,) = torch.autograd.grad(full.sum(), ours)
    for bias, k in zip(found, (2, 10, VOCABULARY), strict=True):
        top = top_k(teacher, k)[mask]
        listed = plain_losses.top_k_kl(top.ids_NK, top.log_probs_NK, top.tail_N, ours)
        (grad,) = torch.autograd.grad(listed.sum(), ours)
        assert bias.k == k
        assert bias.full == pytest.approx(float(full.mean()), rel=1e-10)
        assert bias.listed == pytest.approx(float(listed.mean()), rel=1e-10)
        assert bias.tail == pytest.approx(float(top.tail_N.mean()), rel=1e-10, abs=1e-15)
        assert bias.gradient == pytest.approx(float((grad - wanted).norm() / wanted.norm()), rel=1e-8, abs=1e-10)
    assert found[0].bias < found[1].bias < 0
    assert abs(found[2].bias) < 1e-12


def test_without_a_token_that_counts_there_is_no_bias() -> None:
    found = top_k_bias(head_input(1, Head()), head_input(2, Head()), torch.zeros(COUNT), (3,))
    assert (found[0].full, found[0].listed, found[0].tail, found[0].gradient) == (0, 0, 0, 0)
