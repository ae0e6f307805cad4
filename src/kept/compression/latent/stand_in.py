"""The truncation of a plan that is not measured: the right shapes without values. Needs no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kept.compression.latent.sizes import rotated_pairs
from kept.ir.slots import layer_slots
from kept.ir.spec import Attention
from kept.ir.tensors import zeros
from kept.passes.latent_spec import truncated
from kept.passes.replace_branches import BranchChoice
from kept.passes.to_latent import has_query_bias
from kept.passes.truncate_latent import TruncateLatent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.compression.latent.settings import RankRule
    from kept.compression.latent.sizes import CacheSize
    from kept.ir.program import Program


def stand_in(program: Program, size: CacheSize, ranks: RankRule) -> TruncateLatent:
    """Return a truncation of every layer to a size. Measured ranks of layers differ: here one does, by 1."""
    return TruncateLatent(tuple(_choices(program, size, ranks)))


def _choices(program: Program, size: CacheSize, ranks: RankRule) -> Iterator[BranchChoice]:
    for at, layer in enumerate(program.spec.layers):
        one = layer.mixer
        if not isinstance(one, Attention):
            continue
        less = 1 if ranks == "per-layer" and at == 0 else 0
        pairs = rotated_pairs(one)
        slots = [slot % pairs for slot in range(size.slots)]
        spec = truncated(
            one,
            slots,
            nope=one.head_dim,
            rank=max(1, size.rank - less),
            eps=TruncateLatent.EPS,
            query_latent=has_query_bias(layer),
        )
        made = {
            name: zeros(slot.shape, program.dtype)
            for name, slot in layer_slots(replace(layer, mixer=spec), program.spec.width)
            if name.startswith("mixer.")
        }
        yield BranchChoice(at, "mixer", spec, reused=made)
