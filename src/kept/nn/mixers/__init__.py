"""A torch module for each kind of mixer, and the positional tables and masks that a spec's mixers read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.ir.spec import Attention, LatentAttention
from kept.nn.mixers.attention import AttentionModule
from kept.nn.mixers.latent import LatentAttentionModule
from kept.nn.sequence import TableKeys

if TYPE_CHECKING:
    from kept.ir.spec import Mixer, Spec
    from kept.nn.mixers.mixer import MixerModule

MIXERS: dict[type[Mixer], type[MixerModule[Any]]] = {
    Attention: AttentionModule,
    LatentAttention: LatentAttentionModule,
}


def mixer_module(spec: Mixer, width: int) -> MixerModule[Any]:
    """Return the module of a mixer for a residual stream of `width`."""
    return MIXERS[type(spec)](spec, width)


def tables_of(spec: Spec) -> TableKeys:
    """Return the tables that the mixers of a spec read."""
    keys = TableKeys()
    for layer in spec.layers:
        if layer.mixer is not None:
            keys |= MIXERS[type(layer.mixer)].tables(layer.mixer)
    return keys
