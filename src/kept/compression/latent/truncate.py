"""Truncate the attention of a model to a latent, without training: statistics, sizes, factors, refit.

The model is run twice on the calibration text, one layer at a time: for the statistics, from which the sizes of all
layers follow, and for the refit. Weights and sums of one layer are in memory, with the small second moments and the
factors of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kept.compression.latent.build import TruncatedLayer
from kept.compression.latent.factors import factors, latent_rows
from kept.compression.latent.heads import AttentionHeads
from kept.compression.latent.low_rank import low_rank
from kept.compression.latent.methods import components, metrics, rows_moment
from kept.compression.latent.ranks import cache_total, chosen_slots, leading, ranks_by_layer, uniform_rank
from kept.compression.latent.refit import Refit
from kept.compression.latent.rotary import rotary_part
from kept.compression.latent.sizes import planned_size, with_constants
from kept.compression.latent.statistics import AttentionSums
from kept.ir.spec import Attention
from kept.passes.truncate_latent import TruncateLatent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from kept.compression.calibrate import Calibration
    from kept.compression.latent.factors import LatentFactors
    from kept.compression.latent.low_rank import RankedRows
    from kept.compression.latent.rotary import RotaryComponents, RotaryPart
    from kept.compression.latent.settings import TruncationSettings
    from kept.compression.latent.sizes import CacheSize
    from kept.compression.latent.statistics import AttentionStatistics
    from kept.ir.program import Program
    from kept.reporting import Reporter

TINY = 1e-300
"""Smallest mean square of an output that is divided by."""


@dataclass(frozen=True)
class TruncatedBasis:
    """The bases of one layer for a choice of rotary slots: what is kept of the latent is still open."""

    kept: tuple[int, ...]
    part: RotaryPart
    latent: RankedRows


def truncate(
    calibration: Calibration,
    settings: TruncationSettings,
    reporter: Reporter,
    about: Mapping[str, Any],
    found: Mapping[int, AttentionStatistics] | None = None,
) -> TruncateLatent:
    """Return the pass that truncates the attention of the calibration's program, with every layer's weights.

    `about` describes the calibration text in the record. `found` are the statistics of every layer, if they are known.
    """
    program = calibration.program
    chosen, ranks = choose(program, found or attention_statistics(calibration, reporter), settings)
    made = {
        at: factors(AttentionHeads.load(program, at), basis.part, basis.kept, basis.latent, rank)
        for (at, basis), rank in zip(chosen.items(), ranks, strict=True)
    }
    if settings.refit:
        made = refitted(calibration, made, reporter)
    layers = {at: TruncatedLayer.of(program, at, one, TruncateLatent.EPS) for at, one in made.items()}
    choices = tuple(layer.choice(at, program.dtype) for at, layer in layers.items())
    return TruncateLatent(choices, {**about, **_described(program, settings, made)})


def attention_statistics(calibration: Calibration, reporter: Reporter) -> dict[int, AttentionStatistics]:
    """Return the statistics of every layer with attention, by its number."""
    program, found = calibration.program, {}
    with reporter.stage("calibrate", program.spec.depth, "layers") as advance:
        for layer, runs in calibration.layers(advance):
            sums = None
            if isinstance(program.spec.layers[layer].mixer, Attention):
                sums = AttentionSums(AttentionHeads.load(program, layer))
            for branches in runs:
                for one in branches:
                    if sums is not None and one.branch.name == "mixer":
                        sums.add(one.input_BTD)
            if sums is not None:
                found[layer] = sums.result()
    return found


def choose(
    program: Program, found: Mapping[int, AttentionStatistics], settings: TruncationSettings
) -> tuple[dict[int, TruncatedBasis], tuple[int, ...]]:
    """Return the bases of every layer, and the rank of each."""
    heads = {at: AttentionHeads.load(program, at) for at in found}
    rotary = {at: components(heads[at], one, settings.method) for at, one in found.items()}
    weight = {at: 1 / max(one.output, TINY) for at, one in found.items()}
    cost_FC = torch.stack([one.cost_FC * weight[at] for at, one in rotary.items()]).sum(0)
    size = planned_size(next(iter(heads.values())).spec, settings)
    slots = size.slots if settings.energy is None else leading(cost_FC, settings.energy)
    kept = chosen_slots(cost_FC, slots)
    bases = {at: _basis(heads[at], found[at], rotary[at], kept, settings) for at in found}
    costs = [basis.latent.cost_N * weight[at] for at, basis in bases.items()]
    return bases, _ranks(settings, size, costs)


def _ranks(settings: TruncationSettings, size: CacheSize, costs: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the rank of each layer."""
    if settings.energy is not None:
        each = [leading(cost, settings.energy) for cost in costs]
        return tuple(each if settings.ranks == "per-layer" else [uniform_rank(costs, settings.energy)] * len(each))
    if settings.ranks == "per-layer":
        return ranks_by_layer(costs, with_constants(size.rank) * len(costs))
    return (min(size.rank, *map(len, costs)),) * len(costs)


def _basis(
    heads: AttentionHeads,
    found: AttentionStatistics,
    rotary: RotaryComponents,
    kept: tuple[int, ...],
    settings: TruncationSettings,
) -> TruncatedBasis:
    """Return the bases of a layer for a choice of rotary components."""
    part = rotary_part(rotary, kept, heads.spec.head_dim, heads.temperature)
    rows = latent_rows(part, heads.spec.kv_size)
    moment_NN = rows @ rows_moment(heads, found, settings.method) @ rows.T
    return TruncatedBasis(kept, part, low_rank(moment_NN, metrics(heads, found, part, moment_NN, settings.method)))


def refitted(
    calibration: Calibration, made: Mapping[int, LatentFactors], reporter: Reporter
) -> dict[int, LatentFactors]:
    """Return the factors with values and output projections that are fitted to the teacher's outputs."""
    program, fitted = calibration.program, {}
    with reporter.stage("refit", program.spec.depth, "layers") as advance:
        for layer, runs in calibration.layers(advance):
            fit = Refit(AttentionHeads.load(program, layer), made[layer]) if layer in made else None
            bias = program.weights.get(f"layers.{layer}.mixer.o.bias")
            for one in (one for branches in runs for one in branches if one.branch.name == "mixer"):
                if fit is not None:
                    fit.add(one.input_BTD, one.output_BTD if bias is None else one.output_BTD - bias.value())
            if fit is not None:
                fitted[layer] = fit.fitted()
    return fitted


def _described(program: Program, settings: TruncationSettings, made: Mapping[int, LatentFactors]) -> dict[str, Any]:
    """Return what the record states: method, sizes and shares, and the errors of the refit."""
    first = next(iter(made))
    whole = len(made) * 2 * AttentionHeads.load(program, first).spec.kv_size
    errors = [one.errors for one in made.values() if one.errors is not None]
    return {
        "method": settings.method,
        "rotary": 2 * len(made[first].slots),
        "ranks": [one.rank for one in made.values()],
        "share": cache_total(len(made[first].slots), [one.rank for one in made.values()]) / whole,
        **({"errors": [[round(part, 6) for part in pair] for pair in errors]} if errors else {}),
    }
