"""Paths of facts, and access to their values.

A slot of an entry is named in the same way as a fact: `layers.*.mixer.attention.q.weight` is the weight of the query
projection of every layer whose mixer is softmax attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.ir.facts import ABSENT, PerLayer
from kept.ir.spec import Attention, LatentAttention, Mlp

if TYPE_CHECKING:
    from kept.ir.facts import Facts

LAYER = "layers.*."
"""Prefix of the facts of every layer."""

ATTENTION = f"{LAYER}mixer.{Attention.KIND}."
"""Prefix of the facts of every layer's softmax attention."""

LATENT = f"{LAYER}mixer.{LatentAttention.KIND}."
"""Prefix of the facts of every layer's latent attention."""

MLP = f"{LAYER}mlp.{Mlp.KIND}."
"""Prefix of the facts of every layer's MLP."""

NORMS = (f"{LAYER}mixer_norm", f"{LAYER}mlp_norm", "final_norm")
"""The norms of a decoder that has one before each branch and one at the end."""

QKV_BIASES = tuple(f"{ATTENTION}{name}_bias" for name in "qkv")

ATTENTION_BIASES = (*QKV_BIASES, f"{ATTENTION}o_bias")

PLAIN_MLP_BIASES = (f"{MLP}up_bias", f"{MLP}down_bias")

MLP_BIASES = (f"{MLP}gate_bias", *PLAIN_MLP_BIASES)


def first_value(facts: Facts, path: str) -> Any:  # noqa: ANN401 - facts hold any plain value
    """Return the value of a fact; if layers differ, that of the first layer that has it; None if there is none."""
    value = facts.get(path)
    if isinstance(value, PerLayer):
        value = next((v for v in value.values if v is not ABSENT), None)
    return value


def layer_values(facts: Facts, path: str) -> tuple[Any, ...]:
    """Return the value of a fact in each layer; None in a layer that does not have it."""
    value = facts.get(path)
    if not isinstance(value, PerLayer):
        return (value,) * int(facts["depth"])
    values: tuple[Any, ...] = value.values
    return tuple(None if one is ABSENT else one for one in values)
