"""Latent attention against plain formulas, absorbed against expanded, and the bytes of its cache."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch
from torch import Tensor

from kept.ir import spec as ir
from kept.nn.mixers import mixer_module
from kept.nn.mixers.latent import absorbed_is_cheaper
from support.mixer_contract import MixerContract, MixerRun, distance, in_pieces, noise
from support.plain import linear, turned

if TYPE_CHECKING:
    from collections.abc import Mapping

ROPE = ir.Rope(100.0, 4)
NORM = ir.Norm("rms", 1e-2)
PLAIN = ir.LatentAttention(2, 2, 3, 4, 5, 6, ROPE, NORM)
REPEATED = ir.LongRope((1.0, 3.0, 1.0, 3.0), (1.0, 3.0, 1.0, 3.0), 64, 1.0, 1.0)


class TestLatentAttention(MixerContract):
    """Shared up-projections, query ranks, absent norms, biases, and frequencies of each pair."""

    cases: ClassVar[Mapping[str, ir.Mixer]] = {
        "plain": PLAIN,
        "shared, interleaved": replace(PLAIN, heads=4, kv_heads=2, rope=replace(ROPE, interleaved=True)),
        "query rank": replace(PLAIN, q_rank=3, q_norm=NORM, q_bias=True, scale=0.2),
        "query rank without norms": replace(PLAIN, q_rank=3, kv_norm=None),
        "every bias": replace(PLAIN, q_bias=True, kv_bias=True, o_bias=True),
        "frequencies of two heads": replace(PLAIN, rope_dim=8, rope=ir.Rope(1.0, 8, scaling=REPEATED)),
        "no positions": replace(PLAIN, rope=None),
    }
    sees_positions: ClassVar[frozenset[str]] = frozenset(cases) - {"no positions"}

    def reference(self, spec: ir.Mixer, weights: Mapping[str, Tensor], x_TD: Tensor) -> Tensor:
        assert isinstance(spec, ir.LatentAttention)
        with torch.no_grad():
            return plain_latent(spec, weights, x_TD)


def plain_latent(spec: ir.LatentAttention, w: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Latent attention of one sequence (T, D), one score at a time."""
    if spec.q_rank is None:
        queries = linear(w, "q", x)
    else:
        queries = linear(w, "q_b", _normed(spec.q_norm, linear(w, "q_a", x), w.get("q_norm.gain")))
    queries = queries.unflatten(-1, (spec.heads, -1))
    cached = linear(w, "kv_a", x)
    latent = _normed(spec.kv_norm, cached[:, : spec.kv_rank], w.get("kv_norm.gain"))
    both = linear(w, "kv_b", latent).unflatten(-1, (spec.kv_heads, -1))
    rotary = turned(spec.rope, spec.rope_dim, cached[:, None, spec.kv_rank :])[:, 0]
    turning = turned(spec.rope, spec.rope_dim, queries[..., spec.nope_dim :])
    mixed = x.new_zeros(len(x), spec.heads, spec.value_dim)
    scale = (spec.nope_dim + spec.rope_dim) ** -0.5 if spec.scale is None else spec.scale
    for head in range(spec.heads):
        group = head * spec.kv_heads // spec.heads
        for t in range(len(x)):
            plain = [float(queries[t, head, : spec.nope_dim] @ both[s, group, : spec.nope_dim]) for s in range(t + 1)]
            scores = [scale * (plain[s] + float(turning[t, head] @ rotary[s])) for s in range(t + 1)]
            weights = [math.exp(score - max(scores)) for score in scores]
            for s, weight in enumerate(weights):
                mixed[t, head] += weight / sum(weights) * both[s, group, spec.nope_dim :]
    return linear(w, "o", mixed.flatten(1))


def _normed(norm: ir.Norm | None, x: Tensor, gain: Tensor | None) -> Tensor:
    if norm is None or gain is None:
        return x
    return torch.stack([row / math.sqrt(float(row @ row) / len(row) + norm.eps) * gain for row in x])


# ------------------------------------------------------------------------------------------------ absorbed and expanded


@pytest.mark.parametrize("absorbed", [False, True])
def test_both_forms_give_the_same(monkeypatch: pytest.MonkeyPatch, *, absorbed: bool) -> None:
    spec = replace(PLAIN, heads=4, kv_heads=2)
    torch.manual_seed(0)
    module = mixer_module(spec, 6).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    wanted = in_pieces(MixerRun(module), noise(9), [5, 1, 3])
    monkeypatch.setattr("kept.nn.mixers.latent.absorbed_is_cheaper", lambda *_: absorbed)
    assert distance(in_pieces(MixerRun(module), noise(9), [5, 1, 3]), wanted) < 1e-12


DEEPSEEK = ir.LatentAttention(128, 128, 128, 64, 128, 512, ir.Rope(10000.0, 64), NORM)
"""The sizes of DeepSeek-V3."""


@pytest.mark.parametrize(("new", "keys", "absorbed"), [(1, 1, False), (1, 8192, True), (4096, 4096, False)])
def test_a_token_is_decoded_absorbed_and_a_prompt_expanded(new: int, keys: int, *, absorbed: bool) -> None:
    assert absorbed_is_cheaper(DEEPSEEK, new, keys) == absorbed


@pytest.mark.parametrize("tokens", [1024, 8192, 32768])
def test_the_cache_has_latents_and_rotary_keys_and_nothing_else(tokens: int) -> None:
    """Its bytes are those of the formula, with room for at most 2 % further tokens."""
    spec = replace(PLAIN, kv_rank=48, rope_dim=16, rope=ir.Rope(100.0, 16))
    state = mixer_module(spec, 6).empty_state()
    state.append(torch.zeros(1, 1, tokens - 1, spec.cached_size, dtype=torch.bfloat16))  # type: ignore[attr-defined]
    state.append(torch.zeros(1, 1, 1, spec.cached_size, dtype=torch.bfloat16))  # type: ignore[attr-defined]
    stated = 2 * sum(part.elements(tokens) for part in spec.state())
    assert stated == 2 * 64 * tokens
    assert stated <= state.nbytes <= 1.02 * stated
