"""Losses of logits and hidden states, against their definitions and the laws they obey."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from kept.distillation.loss.hidden_states import cosine_distance, masked_mean, relative_squared_error
from support import plain_losses

EXACT = 1e-12
"""In float64: sums of a few dozen terms of size 1 to 10."""

SHAPES = st.tuples(st.integers(1, 6), st.integers(2, 30), st.integers(0, 99))
BETAS = st.floats(0.02, 0.98)
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 7.0])


def logits_of(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of a teacher and a student."""
    tokens, vocabulary, seed = shape
    drawn = torch.randn(2, tokens, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 3 * drawn[0], 3 * drawn[1]


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).abs().max() <= EXACT * (1 + wanted.abs().max()))


def by_hand(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@given(SHAPES, BETAS, TEMPERATURES)
def test_divergences_are_their_definitions(shape: tuple[int, int, int], beta: float, temperature: float) -> None:
    teacher, student = logits_of(shape)
    p_rows, q_rows = ((x / temperature).softmax(-1).tolist() for x in (teacher, student))
    found = zip(
        plain_losses.forward_kl(teacher, student, temperature).tolist(),
        plain_losses.reverse_kl(teacher, student, temperature).tolist(),
        plain_losses.jsd(teacher, student, beta, temperature).tolist(),
        strict=True,
    )
    for p, q, (forward, reverse, mixed) in zip(p_rows, q_rows, found, strict=True):
        m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        assert forward == pytest.approx(by_hand(p, q), rel=EXACT, abs=EXACT)
        assert reverse == pytest.approx(by_hand(q, p), rel=EXACT, abs=EXACT)
        assert mixed == pytest.approx(beta * by_hand(p, m) + (1 - beta) * by_hand(q, m), rel=EXACT, abs=EXACT)


@given(SHAPES, BETAS)
def test_divergences_are_zero_of_equals_and_positive_of_others(shape: tuple[int, int, int], beta: float) -> None:
    teacher, student = logits_of(shape)
    for loss in (plain_losses.forward_kl, plain_losses.reverse_kl, lambda t, s: plain_losses.jsd(t, s, beta)):
        assert bool((loss(teacher, teacher + 5).abs() <= EXACT).all()), "a constant changes nothing"
        assert bool((loss(teacher, student) > 0).all())


@given(SHAPES, BETAS)
def test_jsd_is_bounded_and_mirrors(shape: tuple[int, int, int], beta: float) -> None:
    """By the entropy of the coin that mixes; with the roles and the weights exchanged it is the same."""
    teacher, student = logits_of(shape)
    found = plain_losses.jsd(teacher, student, beta)
    assert bool((found <= -beta * math.log(beta) - (1 - beta) * math.log1p(-beta) + EXACT).all())
    assert close(found, plain_losses.jsd(student, teacher, 1 - beta))


def test_jsd_tends_to_either_kl() -> None:
    """For logits of size 1; the next term is beta times a chi-square, which grows as their exponential."""
    teacher, student = (x / 3 for x in logits_of((5, 20, 1)))
    forward, reverse = plain_losses.forward_kl(teacher, student), plain_losses.reverse_kl(teacher, student)
    assert torch.allclose(plain_losses.jsd(teacher, student, 1e-7) / 1e-7, forward, rtol=1e-5)
    assert torch.allclose(plain_losses.jsd(teacher, student, 1 - 1e-7) / 1e-7, reverse, rtol=1e-5)
    assert not torch.allclose(forward, reverse, rtol=1e-1)


def test_small_divergences_are_half_a_variance() -> None:
    """KL of logits that differ by e is var_p(e) / 2 + O(e^3): the nats are not scaled by a temperature's square."""
    teacher, other = logits_of((5, 20, 2))
    for tau in (1.0, 4.0):
        p = (teacher / tau).softmax(-1)
        e = 1e-4 * other / tau
        variance = (p * e.square()).sum(-1) - (p * e).sum(-1).square()
        assert torch.allclose(plain_losses.forward_kl(teacher, teacher + 1e-4 * other, tau), variance / 2, rtol=1e-2)


@given(SHAPES, st.integers(1, 30))
def test_a_list_is_never_above_the_whole(shape: tuple[int, int, int], k: int) -> None:
    teacher, student = logits_of(shape)
    log_p = teacher.log_softmax(-1)
    log_probs, ids = log_p.topk(min(k, shape[1]))
    tail = log_p.exp().scatter(-1, ids, 0).sum(-1)
    found, full = plain_losses.top_k_kl(ids, log_probs, tail, student), plain_losses.forward_kl(teacher, student)
    assert bool((found <= full + EXACT).all())
    assert bool((found >= -EXACT).all())
    if k >= shape[1] - 1:  # a tail of one token is no bucket
        assert close(found, full)
    elif k < shape[1] // 2:
        assert bool((found < full - 1e-9).any())


@given(SHAPES)
def test_cross_entropy_is_torchs(shape: tuple[int, int, int]) -> None:
    _, student = logits_of(shape)
    targets = torch.arange(shape[0]) % shape[1]
    assert close(
        plain_losses.cross_entropy(student, targets), functional.cross_entropy(student, targets, reduction="none")
    )


def test_hidden_losses_are_of_each_token_by_itself() -> None:
    teacher, student = (x.view(2, 3, 8) for x in logits_of((6, 8, 3)))
    mse, cosine = relative_squared_error(teacher, student), cosine_distance(teacher, student)
    assert mse.shape == cosine.shape == (2, 3)
    for b in range(2):
        for t in range(3):
            x, y = teacher[b, t], student[b, t]
            assert float(mse[b, t]) == pytest.approx(float((x - y) @ (x - y) / (x @ x)))
            assert float(cosine[b, t]) == pytest.approx(1 - float(x @ y / x.norm() / y.norm()))
    louder = teacher.clone(), student.clone()
    for x in louder:
        x[:, 0] *= 1000
    assert close(relative_squared_error(*louder), mse)
    assert close(relative_squared_error(teacher, teacher), torch.zeros(2, 3, dtype=torch.float64))
    assert close(cosine_distance(teacher, 2 * teacher), torch.zeros(2, 3, dtype=torch.float64))
    assert bool(relative_squared_error(torch.zeros(2, 4), torch.zeros(2, 4)).isfinite().all())


def test_what_is_masked_is_not_read() -> None:
    values = torch.tensor([1.0, math.nan, 4.0, math.inf])
    assert float(masked_mean(values, torch.tensor([1, 0, 1, 0]))) == 2.5
    assert float(masked_mean(values, torch.zeros(4))) == 0
    assert math.isnan(float(masked_mean(values, torch.ones(4))))


def test_half_precision_is_widened_first() -> None:
    """bfloat16 sums of a large vocabulary would lose all but two digits."""
    teacher, student = (x.bfloat16() for x in logits_of((3, 500, 4)))
    wanted = plain_losses.forward_kl(teacher.double(), student.double())
    assert plain_losses.forward_kl(teacher, student).dtype == torch.float32
    assert torch.allclose(plain_losses.forward_kl(teacher, student).double(), wanted, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradients_exist(temperature: float) -> None:
    teacher, student = logits_of((2, 5, 5))
    student.requires_grad_()
    for loss in (plain_losses.forward_kl, plain_losses.reverse_kl):
        assert torch.autograd.gradcheck(lambda s, loss=loss: loss(teacher, s, temperature), (student,))
    assert torch.autograd.gradcheck(lambda s: plain_losses.jsd(teacher, s, 0.3, temperature), (student,))
    ids, log_probs = torch.tensor([[0, 3], [1, 2]]), torch.tensor([[-1.0, -2.0], [-0.9, -1.8]], dtype=torch.float64)
    tail = 1 - log_probs.exp().sum(-1)
    assert torch.autograd.gradcheck(lambda s: plain_losses.top_k_kl(ids, log_probs, tail, s, temperature), (student,))
    assert torch.autograd.gradcheck(relative_squared_error, (teacher, student))
    assert torch.autograd.gradcheck(cosine_distance, (teacher, student))
