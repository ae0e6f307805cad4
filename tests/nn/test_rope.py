"""Rotary positions: frequencies against transformers, rotations against complex numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, StableLmConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from kept.ir import spec as ir
from kept.nn.rope import cos_sin, inverse_frequencies, rotate

HEAD, THETA, CONTEXT = 16, 10000.0, 64
SHORT = tuple(1.0 + i / 8 for i in range(HEAD // 2))
LONG = tuple(2.0 + i for i in range(HEAD // 2))

FLOAT32 = 2e-6
"""Relative: transformers computes a frequency in float32 in about four operations; ours has float64's exactness."""


@dataclass(frozen=True)
class Case:
    """Return the same scaling in the form of transformers and of a spec, for a sequence of `length` tokens."""

    kind: str
    scaling: ir.Scaling
    says: dict[str, Any] = field(default_factory=dict)
    length: int = 10

    def config(self, **more: Any) -> LlamaConfig:
        said = {"rope_type": self.kind, "rope_theta": THETA, **self.says, **more}
        return LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            head_dim=HEAD,
            max_position_embeddings=CONTEXT,
            rope_parameters={key: list(value) if isinstance(value, tuple) else value for key, value in said.items()},
        )


YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
DIVISORS = {"short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 32, "factor": 2.0}

CASES = {
    "linear": Case("linear", ir.Linear(3.0), {"factor": 3.0}),
    "dynamic within": Case("dynamic", ir.Dynamic(2.0, CONTEXT), {"factor": 2.0}, CONTEXT),
    "dynamic just beyond": Case("dynamic", ir.Dynamic(2.0, CONTEXT), {"factor": 2.0}, CONTEXT + 1),
    "dynamic far beyond": Case("dynamic", ir.Dynamic(2.0, CONTEXT), {"factor": 2.0}, 5 * CONTEXT),
    "llama3": Case("llama3", ir.Llama3(8.0, 1.0, 4.0, 32), LLAMA3),
    "llama3 of a long original": Case(
        "llama3", ir.Llama3(8.0, 1.0, 4.0, 8192), {**LLAMA3, "original_max_position_embeddings": 8192}
    ),
    "yarn": Case("yarn", ir.Yarn(4.0, 32), YARN),
    "yarn, not truncated": Case("yarn", ir.Yarn(4.0, 32, truncate=False), {**YARN, "truncate": False}),
    "yarn, other ramp": Case(
        "yarn", ir.Yarn(4.0, 4096, beta_fast=8.0, beta_slow=2.0), {"factor": 4.0, "beta_fast": 8.0, "beta_slow": 2.0}
    ),
    "yarn, own temperature": Case("yarn", ir.Yarn(4.0, 32, attention_factor=1.5), {**YARN, "attention_factor": 1.5}),
    "yarn, mscale": Case(
        "yarn", ir.Yarn(4.0, 32, mscale=0.7, mscale_all_dim=1.3), {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}
    ),
    "yarn, half an mscale": Case("yarn", ir.Yarn(4.0, 32, mscale=0.7), {**YARN, "mscale": 0.7}),
    "yarn, factor 1": Case("yarn", ir.Yarn(1.0, 32), {**YARN, "factor": 1.0}),
    "longrope short": Case("longrope", ir.LongRope(SHORT, LONG, 32, 2.0), DIVISORS, 32),
    "longrope long": Case("longrope", ir.LongRope(SHORT, LONG, 32, 2.0), DIVISORS, 33),
    "longrope, own temperature": Case(
        "longrope", ir.LongRope(SHORT, LONG, 32, 2.0, 1.25), {**DIVISORS, "attention_factor": 1.25}
    ),
    "longrope, factor 1": Case("longrope", ir.LongRope(SHORT, LONG, 32, 1.0), {**DIVISORS, "factor": 1.0}),
    "proportional": Case("proportional", ir.Proportional(), {}),
    "proportional, divided": Case("proportional", ir.Proportional(2.0), {"factor": 2.0}),
}
CASES["yarn, other ramp"].says["original_max_position_embeddings"] = 4096


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_frequencies_are_those_of_transformers(case: Case) -> None:
    theirs, their_temperature = ROPE_INIT_FUNCTIONS[case.kind](case.config(), seq_len=case.length)
    ours, temperature = inverse_frequencies(ir.Rope(THETA, HEAD, scaling=case.scaling), HEAD, case.length)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours.float(), theirs, rtol=FLOAT32, atol=0)
    assert temperature == pytest.approx(their_temperature, rel=1e-12)


def test_frequencies_of_a_scaling_are_not_the_plain_ones(case: Case) -> None:
    """Negative control: each scaling moves a frequency or the temperature, unless it says that it does not."""
    plain, _ = inverse_frequencies(ir.Rope(THETA, HEAD), HEAD, case.length)
    ours, temperature = inverse_frequencies(ir.Rope(THETA, HEAD, scaling=case.scaling), HEAD, case.length)
    moves = temperature != 1 or not torch.allclose(ours, plain)
    idle = case.scaling in (ir.Proportional(), ir.Yarn(1.0, 32)) or case is CASES["dynamic within"]
    assert moves is not idle


@pytest.mark.parametrize("kind", ["linear", "dynamic", "llama3", "yarn", "longrope"])
def test_scalings_of_partial_rotations(kind: str) -> None:
    """Half of the head turns: 8 of 16 dimensions, with the frequencies of a head of 8."""
    case = next(case for case in CASES.values() if case.kind == kind)
    halves = {"short_factor": SHORT[:4], "long_factor": LONG[:4]} if kind == "longrope" else {}
    scaling = ir.LongRope(SHORT[:4], LONG[:4], 32, 2.0) if kind == "longrope" else case.scaling
    config = case.config(partial_rotary_factor=0.5, **halves)
    theirs, _ = ROPE_INIT_FUNCTIONS[kind](config, seq_len=3 * CONTEXT)
    ours, _ = inverse_frequencies(ir.Rope(THETA, 8, scaling=scaling), HEAD, 3 * CONTEXT)
    assert ours.shape == (4,)
    torch.testing.assert_close(ours.float(), theirs, rtol=FLOAT32, atol=0)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
def test_proportional_rotations_hold_the_rest_still(fraction: float) -> None:
    config = CASES["proportional"].config(partial_rotary_factor=fraction)
    theirs, _ = ROPE_INIT_FUNCTIONS["proportional"](config)
    dims = int(HEAD * fraction)
    ours, _ = inverse_frequencies(ir.Rope(THETA, dims, scaling=ir.Proportional()), HEAD, 10)
    assert ours.shape == (HEAD // 2,)
    assert ours.count_nonzero() == dims // 2
    torch.testing.assert_close(ours.float(), theirs, rtol=FLOAT32, atol=0)


def test_plain_frequencies_by_hand() -> None:
    ours, temperature = inverse_frequencies(ir.Rope(10000.0, 4), 4, 10)
    assert ours.tolist() == pytest.approx([1.0, 0.01], rel=1e-15)
    assert temperature == 1.0


@pytest.mark.parametrize("name", ["dynamic far beyond", "longrope short", "longrope long", "llama3", "yarn", "linear"])
def test_cosines_and_sines_of_a_sequence(name: str) -> None:
    """Return the angles of the stock module. It multiplies in float32: an angle of 300 is good to 300 * 2^-24 * 2."""
    case = CASES[name]
    positions = torch.arange(case.length)[None]
    theirs = LlamaRotaryEmbedding(case.config())(torch.zeros(1), positions)
    ours = cos_sin(ir.Rope(THETA, HEAD, scaling=case.scaling), HEAD, positions, torch.float32)
    for mine, stock in zip(ours, theirs, strict=True):
        doubled = torch.cat((mine, mine), dim=-1)[:, 0]
        torch.testing.assert_close(doubled, stock, rtol=0, atol=max(1e-5, 3 * case.length * 2**-24))
        assert not torch.allclose(doubled.roll(1, dims=1), stock, atol=1e-2)


def test_the_partial_fraction_of_stablelm_is_its_default_rule() -> None:
    """The stock config and ours turn the same quarter of a head."""
    config = StableLmConfig(hidden_size=64, num_attention_heads=4)
    assert config.rope_parameters["partial_rotary_factor"] == 0.25  # type: ignore[index]
    ours, _ = inverse_frequencies(ir.Rope(10000.0, 4), 16, 1)
    assert ours.shape == (2,)


def heads(batch: int = 2, count: int = 3, length: int = 7) -> torch.Tensor:
    shape = (batch, count, length, HEAD)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def turned(x: torch.Tensor, positions: torch.Tensor, dims: int, *, interleaved: bool) -> torch.Tensor:
    rope = ir.Rope(THETA, dims, interleaved=interleaved)
    cos, sin = cos_sin(rope, HEAD, positions, x.dtype)
    return rotate(x, cos, sin, interleaved=interleaved)


@pytest.mark.parametrize("dims", [4, HEAD])
def test_interleaved_rotation_is_multiplication_of_complex_numbers(dims: int) -> None:
    """Tolerance: a product and a sum in float64."""
    x, positions = heads(), torch.tensor([[0, 1, 2, 3, 4, 5, 6], [3, 9, 27, 81, 243, 729, 2187]])
    z = torch.view_as_complex(x[..., :dims].unflatten(-1, (-1, 2)).contiguous())
    frequencies = THETA ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    angles = positions[:, None, :, None] * frequencies
    wanted = torch.view_as_real(z * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    ours = turned(x, positions, dims, interleaved=True)
    torch.testing.assert_close(ours[..., :dims], wanted, rtol=0, atol=1e-13)
    assert torch.equal(ours[..., dims:], x[..., dims:])


@pytest.mark.parametrize("dims", [4, HEAD])
def test_half_split_rotation_is_the_interleaved_one_in_another_order(dims: int) -> None:
    x, positions = heads(), torch.arange(7)[None]
    order = [i // 2 + (i % 2) * (dims // 2) for i in range(dims)] + list(range(dims, HEAD))
    split = turned(x, positions, dims, interleaved=False)
    assert torch.equal(split[..., order], turned(x[..., order], positions, dims, interleaved=True))
    assert not torch.allclose(split, turned(x, positions, dims, interleaved=True), atol=1e-2)


@pytest.mark.parametrize("interleaved", [True, False])
def test_only_distances_matter(interleaved: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Scores of two rotated vectors depend on how far apart they are; 1e-12 for angles of up to 1000 in float64."""
    q, k = heads(1, 1, 1), heads(1, 1, 1).flip(-1)

    def score(at: int, other: int) -> float:
        left = turned(q, torch.tensor([[at]]), HEAD, interleaved=interleaved)
        right = turned(k, torch.tensor([[other]]), HEAD, interleaved=interleaved)
        return float((left * right).sum())

    assert score(12, 5) == pytest.approx(score(1012, 1005), abs=1e-12)
    assert abs(score(12, 5) - score(12, 6)) > 1e-2


def test_a_temperature_scales_what_turns() -> None:
    rope = ir.Rope(THETA, HEAD, scaling=ir.Yarn(4.0, 32, attention_factor=2.0))
    cos, sin = cos_sin(rope, HEAD, torch.arange(5)[None], torch.float64)
    torch.testing.assert_close(cos.square() + sin.square(), torch.full_like(cos, 4.0), rtol=1e-12, atol=0)


def test_angles_far_out_keep_their_accuracy() -> None:
    """Position 1,000,001 in float32 angles would be off by 0.06; the angle is computed in float64 and rounded once."""
    positions = torch.tensor([[1_000_001]])
    cos, _ = cos_sin(ir.Rope(THETA, 4), 4, positions, torch.float32)
    exact = torch.tensor(1_000_001.0, dtype=torch.float64).cos()
    assert float((cos[..., 0] - exact).abs()) < 1e-7
