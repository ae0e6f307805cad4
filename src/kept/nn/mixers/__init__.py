"""A module for each kind of mixer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.ir.spec import Attention
from kept.nn.mixers.attention import AttentionModule

if TYPE_CHECKING:
    from torch import nn

    from kept.ir.spec import Mixer

MIXERS: dict[type[Mixer], type[nn.Module]] = {Attention: AttentionModule}


def mixer_module(spec: Mixer, width: int) -> nn.Module:
    """Return the module of a mixer for a residual stream of `width`."""
    return MIXERS[type(spec)](spec, width)
