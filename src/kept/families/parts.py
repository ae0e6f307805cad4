"""The parts of a config that most families share: each function returns items, with a family's key names and defaults.

The default names are Llama's. Items are read in order: sizes, attention, MLP, norms, rotation, everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kept.families.items import (
    ACTIVATIONS,
    HEAD_DIM,
    Always,
    Choice,
    DerivedFact,
    Fixed,
    Flag,
    KeyValueHeads,
    Number,
    Size,
)
from kept.families.paths import ATTENTION, LAYER, MLP, NORMS
from kept.ir.serialise import MOST_LAYERS
from kept.ir.spec import Norm, QkNorm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.families.items.sizes import DefaultSize
    from kept.families.table import Item
    from kept.ir.facts import Facts

    Items = tuple[Item, ...]


def sizes(
    *,
    width: str = "hidden_size",
    depth: str = "num_hidden_layers",
    context: str = "max_position_embeddings",
    default_context: int | None = 2048,
) -> Items:
    """Return the items of vocabulary, width, depth and context. `default_context` None: the key is required."""
    return (
        Size("vocab_size", "vocabulary"),
        Size(width, "width"),
        Size(depth, "depth", largest=MOST_LAYERS),
        Size(context, "context", default=default_context),
    )


def attention(
    *,
    heads: str = "num_attention_heads",
    kv_heads: Item | None = None,
    head_dim: Item = HEAD_DIM,
    fused: bool = False,
) -> Items:
    """Return the items of heads, key-value heads (None: `num_key_value_heads`) and head size.

    `fused`: query, key and value are one projection.
    """
    return (
        Size(heads, f"{ATTENTION}heads"),
        kv_heads or KeyValueHeads(),
        head_dim,
        Always(((f"{ATTENTION}fused", fused),)),
    )


def activation(default: str, *, key: str = "hidden_act", names: tuple[tuple[str, str], ...] = ACTIVATIONS) -> Choice:
    """Return the item of the MLP's activation."""
    return Choice(key, f"{MLP}activation", names, default=default)


def mlp(
    act: Item,
    *,
    gated: bool = True,
    size: str = "intermediate_size",
    default_size: DefaultSize = None,
    fused: bool = False,
) -> Items:
    """Return the items of the MLP's size and activation. `fused`: gate and up are one projection."""
    return (
        Size(size, f"{MLP}size", default=default_size),
        act,
        Always(((f"{MLP}gated", gated), (f"{MLP}fused", fused))),
    )


def rms_norms(
    key: str = "rms_norm_eps", default: float = 1e-6, *, norms: Sequence[str] = NORMS, offset: float = 0.0
) -> Items:
    """Return RMSNorms at these paths, with one epsilon. `offset` is added to stored gains."""
    return _norms(key, default, norms, kind="rms", offset=offset)


def layer_norms(
    key: str, default: float = 1e-5, *, norms: Sequence[str] = NORMS, bias: bool = True, offset: float = 0.0
) -> Items:
    """Return LayerNorms with gain at these paths, with one epsilon. `offset` is added to stored gains."""
    return _norms(key, default, norms, kind="layer", bias=bias, offset=offset)


def _norms(key: str, default: float, norms: Sequence[str], **fields: object) -> Items:
    stated = tuple((f"{norm}.{field}", value) for norm in norms for field, value in fields.items())
    return Always(stated), Number(key, tuple(f"{norm}.eps" for norm in norms), default=default)


def qk_rms_norm(scope: Literal["shared", "full"], *, offset: float = 0.0) -> DerivedFact:
    """Return an RMSNorm of queries and keys with the epsilon of the other norms. Comes after them."""
    return DerivedFact(
        f"{ATTENTION}qk_norm", lambda facts: QkNorm(Norm("rms", facts["final_norm.eps"], offset=offset), scope)
    )


SHARED_NORM = (f"{LAYER}mixer_norm", "final_norm")
"""The norms of a decoder whose MLP reads the output of the mixer's norm."""

PARALLEL_WITH_SHARED_NORM = Always(
    ((f"{LAYER}parallel", True), (f"{LAYER}shared_norm", True), (f"{LAYER}mlp_norm", None))
)
"""Attention and MLP read the output of the same norm."""


def without_mlp_norm(facts: Facts) -> Facts:
    """Return the facts of an MLP that shares the mixer's norm; `facts` include those of its own norm."""
    own = (f"{LAYER}mlp_norm", *(path for path in facts if path.startswith(f"{LAYER}mlp_norm.")))
    return {**dict.fromkeys(own), f"{LAYER}shared_norm": True}


def tied_head(*, default: bool = False) -> Flag:
    """Return the item of the head that is the embedding's matrix."""
    return Flag("tie_word_embeddings", ("head.tied",), default=default)


NO_EXPERTS = Fixed("num_experts", value=None, why="mixtures of experts are not supported")
"""For families whose mixtures of experts have the `model_type` of their dense models."""
