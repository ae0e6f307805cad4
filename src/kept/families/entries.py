"""Entries: the stored name and layout of each slot, chosen layer by layer and by the kind of the branch's operation.

The functions return the entries of one part of a decoder. Their default names are Llama's, which many families share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kept.families.layout import Same
from kept.families.paths import ATTENTION, LAYER, MLP

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.families.layout import Layout
    from kept.ir.spec import Layer

    Entries = tuple["Entry", ...]
    When = Callable[[Layer], bool]


@dataclass(frozen=True)
class Entry:
    """The stored name of a slot; `{i}` in it is the layer's number.

    `slot` is the slot's name with `*` for the number and the kind of the operation after the branch, as in the paths of
    facts: `layers.*.mixer.attention.q.weight`. So it applies only to layers whose mixer is of that kind. `when` says
    which of these layers use this name, if a slot has several; None: all.
    """

    slot: str
    name: str
    layout: Layout = field(default_factory=Same)
    when: When | None = None


def linear(slot: str, name: str, layout: Layout | None = None) -> Entries:
    """Return the entries of a projection: weight and bias. `layout` is the weight's; None: stored as it is."""
    used = layout or Same()
    return Entry(f"{slot}.weight", f"{name}.weight", used), Entry(f"{slot}.bias", f"{name}.bias", used.of_bias)


def norm(slot: str, name: str, layout: Layout | None = None, when: When | None = None) -> Entries:
    """Return the entries of a norm: gain and bias."""
    used = layout or Same()
    gain = Entry(f"{slot}.gain", f"{name}.weight", used, when)
    return gain, Entry(f"{slot}.bias", f"{name}.bias", used.of_bias, when)


SELF_ATTENTION, FEED_FORWARD = "model.layers.{i}.self_attn", "model.layers.{i}.mlp"


def norm_entries(
    mixer: str = "model.layers.{i}.input_layernorm", mlp: str = "model.layers.{i}.post_attention_layernorm"
) -> Entries:
    """Return the entries of the norms before mixer and MLP."""
    return *norm(f"{LAYER}mixer_norm", mixer), *norm(f"{LAYER}mlp_norm", mlp)


def attention_entries(
    module: str = SELF_ATTENTION, *, q: str = "q_proj", k: str = "k_proj", v: str = "v_proj", o: str = "o_proj"
) -> Entries:
    """Return the entries of attention with separate projections in the module `module`."""
    names = {"q": q, "k": k, "v": v, "o": o}
    return tuple(entry for slot, name in names.items() for entry in linear(f"{ATTENTION}{slot}", f"{module}.{name}"))


def fused_attention_entries(
    module: str = SELF_ATTENTION, *, qkv: str, o: str = "o_proj", layout: Layout | None = None
) -> Entries:
    """Return the entries of attention with a fused projection `qkv`, of the given layout."""
    return *linear(f"{ATTENTION}qkv", f"{module}.{qkv}", layout), *linear(f"{ATTENTION}o", f"{module}.{o}")


def qk_norm_entries(q: str = "q_norm", k: str = "k_norm", layout: Layout | None = None) -> Entries:
    """Return the entries of the norms of queries and keys."""
    names = {"q_norm": q, "k_norm": k}
    return tuple(
        entry
        for slot, name in names.items()
        for entry in norm(f"{ATTENTION}{slot}", f"{SELF_ATTENTION}.{name}", layout)
    )


def mlp_entries(
    module: str = FEED_FORWARD, *, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
) -> Entries:
    """Return the entries of an MLP in the module `module`."""
    names = {"gate": gate, "up": up, "down": down}
    return tuple(entry for slot, name in names.items() for entry in linear(f"{MLP}{slot}", f"{module}.{name}"))


def plain_mlp_entries(module: str = FEED_FORWARD, *, up: str, down: str, layout: Layout | None = None) -> Entries:
    """Return the entries of an MLP without a gate."""
    return *linear(f"{MLP}up", f"{module}.{up}", layout), *linear(f"{MLP}down", f"{module}.{down}", layout)


def llama_entries(
    *,
    norms: Entries | None = None,
    attention: Entries | None = None,
    mlp: Entries | None = None,
    final_norm: str = "model.norm",
) -> Entries:
    """Return the entries of Llama, or of a family with other entries for some parts."""
    return (
        Entry("embedding.weight", "model.embed_tokens.weight"),
        *(norm_entries() if norms is None else norms),
        *(attention_entries() if attention is None else attention),
        *(mlp_entries() if mlp is None else mlp),
        *norm("final_norm", final_norm),
        *linear("head", "lm_head"),
    )


ROTARY_BUFFERS = ("*.rotary_emb.inv_freq",)
"""Buffers of old checkpoints that hold computed values."""
