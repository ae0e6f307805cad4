"""The parts of a truncation against references that are computed another way."""

from __future__ import annotations

import torch

from kept.compression.latent.heads import AttentionHeads, turned
from kept.compression.latent.low_rank import low_rank
from kept.compression.latent.ranks import chosen_slots, leading, ranks_by_layer
from kept.compression.latent.rotary import key_moments, rotary_part, whitened_components
from kept.compression.latent.sizes import largest_rank, with_constants
from kept.compression.latent.statistics import AttentionSums
from kept.ir import spec as ir
from support.logits import random_program
from support.pass_helpers import GATED, rms_spec

BARE = ir.Attention(4, 2, 8, ir.Rope(100.0, 8))


def positive(size: int, seed: int) -> torch.Tensor:
    root = torch.randn(size, 2 * size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / size


def cost(rows: torch.Tensor, approximated: torch.Tensor, metric: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    error = rows - approximated
    return (metric @ error @ inputs @ error.T).trace()


def test_low_rank_is_what_a_numerical_optimum_finds() -> None:
    """Alternating least squares from a random start, each half solved exactly."""
    metric, inputs, rank = positive(7, 1), positive(9, 2), 3
    rows = torch.randn(7, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = low_rank(rows @ inputs @ rows.T, [metric])
    ours = found.up_NN[:, :rank] @ found.down_NN[:rank] @ rows
    down = torch.randn(rank, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for _ in range(500):
        up = rows @ inputs @ down.T @ torch.linalg.inv(down @ inputs @ down.T)
        down = torch.linalg.solve(up.T @ metric @ up, up.T @ metric @ rows)
    best = cost(rows, up @ down, metric, inputs)
    assert torch.isclose(cost(rows, ours, metric, inputs), best, rtol=1e-6)
    assert torch.isclose(found.cost_N[rank:].sum(), best, rtol=1e-6)


def test_a_transposed_metric_is_no_optimum() -> None:
    """Rows weighted by the inverse of their metric."""
    metric, inputs = positive(7, 1), positive(9, 2)
    rows = torch.randn(7, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    right, wrong = (low_rank(rows @ inputs @ rows.T, [one]) for one in (metric, torch.linalg.inv(metric)))
    costs = [cost(rows, one.up_NN[:, :3] @ one.down_NN[:3] @ rows, metric, inputs) for one in (right, wrong)]
    assert costs[1] > 1.2 * costs[0]


def test_scores_of_all_components_are_those_of_the_heads_in_any_basis() -> None:
    random = torch.Generator().manual_seed(5)
    turn = torch.polar(torch.rand(4, 4, generator=random).double(), torch.rand(4, 4, generator=random).double())
    moments = key_moments(positive(16, 6), 2, 8, 4)
    part = rotary_part(
        whitened_components(moments, torch.rand(4, 4, generator=random).double(), turn), (2,) * 4, 8, 1.0
    )
    keys, query = torch.randn(2, 8, generator=random).double(), torch.randn(4, 8, generator=random).double()
    frequencies, slots = torch.rand(4, generator=random).double(), torch.arange(4).repeat_interleave(2)
    shared, own = part.rotary_MK @ keys.flatten(), torch.einsum("hqe,he->hq", part.query_HQE, query)
    wanted = (turned(query, 3 * frequencies, 4) * turned(keys, 1 * frequencies, 4)[[0, 0, 1, 1]]).sum(-1)
    found = (turned(own, 3 * frequencies[slots], 8) * turned(shared, 1 * frequencies[slots], 8)).sum(-1)
    assert part.nope_dim == 0
    assert torch.allclose(found, wanted, atol=1e-12)
    wrong = (turned(own, 3 * frequencies[slots.flip(0)], 8) * turned(shared, frequencies[slots.flip(0)], 8)).sum(-1)
    assert (wrong - wanted).abs().max() > 1e-2


def test_a_component_that_does_not_turn_costs_nothing() -> None:
    moments, energy = key_moments(positive(16, 6), 2, 8, 4), torch.ones(4, 4, dtype=torch.float64)
    turn = torch.zeros(4, 4, dtype=torch.complex128)
    turn[:, 2] = 1
    assert whitened_components(moments, energy, turn).cost_FC[2].max() < 1e-5
    assert chosen_slots(whitened_components(moments, energy, turn).cost_FC, 6)[2] == 0


def test_sensitivities_are_the_derivatives_of_the_output() -> None:
    """The sum over keys of the squared derivative by each score, of which the second moment of queries is weighted."""
    program = random_program(rms_spec(BARE, GATED))
    heads = AttentionHeads.load(program, 0)
    x = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(1))
    sums = AttentionSums(heads)
    sums.add(x)
    q, k, v = (heads.projected(one, x) for one in (heads.q_HEX, heads.k_GEX, heads.v_GEX))
    scores = heads.scale * (heads.rotated(q) @ heads.rotated(k).repeat_interleave(2, 1).mT)[0, :, 3]

    def output(scores_HT: torch.Tensor) -> torch.Tensor:
        mixed = (scores_HT.softmax(-1)[:, None] @ v[0].repeat_interleave(2, 0))[:, 0]
        return torch.einsum("he,hde->hd", mixed, heads.o_HDE)

    jacobian = torch.autograd.functional.jacobian(output, scores)  # type: ignore[no-untyped-call]
    squares = torch.stack([jacobian[h, :, h].square().sum() for h in range(4)]) * heads.scale**2
    wanted = squares[:, None, None] * q[0, :, 3, :, None] * q[0, :, 3, None]
    assert torch.allclose(sums.result().read_HEE, wanted.double(), rtol=1e-3, atol=1e-6)


def test_ranks_take_the_largest_costs_within_the_budget() -> None:
    costs = [torch.arange(30, 0, -1).double() ** power for power in (1, 2)]
    ranks = ranks_by_layer(costs, 34)
    assert sum(map(with_constants, ranks)) <= 34
    assert ranks[1] > ranks[0]
    assert leading(torch.tensor([1.0, 8.0, 1.0]), 0.8) == 1
    assert all(with_constants(largest_rank(n)) <= n for n in range(2, 60))
