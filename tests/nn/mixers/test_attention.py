"""One thing about attention at a time, against the plain formulas of `plain.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch
from torch import Tensor

from kept.ir import spec as ir
from support.logits import logits, random_program
from support.mixer_contract import MixerContract
from support.plain import plain_attention, plain_logits
from support.specs import VOCABULARY, attention_of, plain_spec, with_layer, with_mixer

if TYPE_CHECKING:
    from collections.abc import Mapping

EXACT = 1e-11
"""Logits of size 1 to 10 after two layers, both sides in float64."""

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]

SHARED = ir.Norm("rms", 1e-2)
CENTRED = ir.Norm("layer", 1e-2, bias=True)

CASES: dict[str, dict[str, object]] = {
    "plain": {},
    "grouped": {"heads": 6, "kv_heads": 2},
    "one key-value head": {"heads": 4, "kv_heads": 1},
    "wide heads": {"heads": 2, "head_dim": 10, "rope": ir.Rope(100.0, 10)},
    "narrow heads": {"heads": 3, "kv_heads": 3, "head_dim": 2, "rope": ir.Rope(100.0, 2)},
    "no rotation": {"rope": None},
    "partial rotation": {"head_dim": 6, "rope": ir.Rope(100.0, 2)},
    "interleaved": {"rope": ir.Rope(100.0, 4, interleaved=True)},
    "partial and interleaved": {"head_dim": 8, "rope": ir.Rope(100.0, 4, interleaved=True)},
    "proportional": {"rope": ir.Rope(100.0, 2, scaling=ir.Proportional())},
    "temperature": {"rope": ir.Rope(100.0, 4, scaling=ir.Yarn(4.0, 8))},
    "query bias": {"q_bias": True},
    "key bias": {"k_bias": True},
    "value bias": {"v_bias": True},
    "output bias": {"o_bias": True},
    "every bias": {"q_bias": True, "k_bias": True, "v_bias": True, "o_bias": True},
    "own scale": {"scale": 0.1},
    "window 1": {"window": 1},
    "window 4": {"window": 4},
    "norm shared by heads": {"qk_norm": ir.QkNorm(SHARED, "shared")},
    "norm of each head": {"heads": 4, "kv_heads": 2, "qk_norm": ir.QkNorm(CENTRED, "own")},
    "norm over all heads": {"heads": 4, "kv_heads": 2, "qk_norm": ir.QkNorm(SHARED, "full")},
    "norm over all heads, centred": {"qk_norm": ir.QkNorm(CENTRED, "full")},
    "fused": {"fused": True},
    "fused and grouped with biases": {
        "heads": 4, "kv_heads": 2, "fused": True, "q_bias": True, "k_bias": True, "v_bias": True
    },
}  # fmt: skip


ROPE = ir.Rope(100.0, 4)


class TestAttention(MixerContract):
    """Full, windowed, capped and fused attention, with and without rotary positions."""

    cases: ClassVar[Mapping[str, ir.Mixer]] = {
        "plain": ir.Attention(2, 2, 4, ROPE),
        "grouped, interleaved": ir.Attention(4, 2, 4, replace(ROPE, interleaved=True), q_bias=True, o_bias=True),
        "window": ir.Attention(2, 1, 4, ROPE, window=3),
        "window, capped": ir.Attention(2, 2, 4, ROPE, window=4, softcap=1.5, scale=0.3),
        "capped, fused": ir.Attention(4, 2, 4, ROPE, fused=True, softcap=2.0),
        "no positions": ir.Attention(2, 2, 4, None, qk_norm=ir.QkNorm(CENTRED, "own")),
    }
    sees_positions: ClassVar[frozenset[str]] = frozenset(cases) - {"no positions"}

    def reference(self, spec: ir.Mixer, weights: Mapping[str, Tensor], x_TD: Tensor) -> Tensor:
        assert isinstance(spec, ir.Attention)
        with torch.no_grad():
            return plain_attention(spec, {f"mixer.{name}": value for name, value in weights.items()}, x_TD)


@pytest.mark.parametrize("name", list(CASES))
def test_attention(name: str) -> None:
    program = random_program(with_mixer(plain_spec(), **CASES[name]))
    found = logits(program, torch.tensor([TOKENS]))[0]
    torch.testing.assert_close(found, plain_logits(program, TOKENS), rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", ["interleaved", "own scale", "window 1", "window 4", "proportional", "temperature"])
def test_what_adds_no_weight_still_matters(name: str) -> None:
    """Negative control: the same weights give other logits without it."""
    program = random_program(with_mixer(plain_spec(), **CASES[name]))
    plain = replace(program, spec=plain_spec())
    tokens = torch.tensor([TOKENS])
    assert float((logits(program, tokens) - logits(plain, tokens)).abs().max()) > 1e-2


def test_norm_scopes_differ() -> None:
    """Negative control: with gains of one, only what is normalised together differs."""
    spec = with_mixer(plain_spec(), heads=2, qk_norm=ir.QkNorm(replace(SHARED, gain=False), "shared"))
    over_all = with_mixer(spec, qk_norm=ir.QkNorm(replace(SHARED, gain=False), "full"))
    program, tokens = random_program(spec), torch.tensor([TOKENS])
    assert float((logits(program, tokens) - logits(replace(program, spec=over_all), tokens)).abs().max()) > 1e-2


def test_a_window_counts_the_token_itself() -> None:
    """Window 1 sees one key: a token's logits then depend on nothing before it."""
    spec = with_mixer(plain_spec(1), window=1, rope=None)
    program = random_program(spec)
    tokens = torch.tensor([TOKENS])
    found = logits(program, tokens)[0]
    alone = torch.cat([logits(program, tokens[:, i : i + 1])[0] for i in range(len(TOKENS))])
    torch.testing.assert_close(found, alone, rtol=0, atol=EXACT)
    wider = replace(program, spec=with_mixer(spec, window=2))
    assert not torch.allclose(logits(wider, tokens)[0], alone, atol=1e-2)


def test_a_window_as_long_as_the_sequence_hides_nothing() -> None:
    program = random_program(plain_spec())
    tokens = torch.tensor([TOKENS])
    covered = replace(program, spec=with_mixer(plain_spec(), window=len(TOKENS)))
    shorter = replace(program, spec=with_mixer(plain_spec(), window=len(TOKENS) - 1))
    assert torch.equal(logits(covered, tokens), logits(program, tokens))
    difference = (logits(shorter, tokens) - logits(program, tokens)).abs().amax(dim=-1)[0]
    assert float(difference[:-1].max()) < EXACT
    assert float(difference[-1]) > 1e-3


def test_layers_may_rotate_and_look_back_differently() -> None:
    spec = plain_spec(3)
    spec = with_layer(
        spec, 1, mixer=replace(attention_of(spec.layers[1]), rope=ir.Rope(7.0, 2, interleaved=True), window=3)
    )
    spec = with_layer(spec, 2, mixer=replace(attention_of(spec.layers[2]), rope=None, heads=4))
    program = random_program(spec)
    found = logits(program, torch.tensor([TOKENS]))[0]
    torch.testing.assert_close(found, plain_logits(program, TOKENS), rtol=0, atol=EXACT)


def test_the_past_is_never_changed_by_the_future() -> None:
    program = random_program(plain_spec())
    changed = [*TOKENS[:-1], (TOKENS[-1] + 1) % VOCABULARY]
    found, other = (logits(program, torch.tensor([tokens]))[0] for tokens in (TOKENS, changed))
    assert torch.equal(found[:-1], other[:-1])
    assert not torch.equal(found[-1], other[-1])
