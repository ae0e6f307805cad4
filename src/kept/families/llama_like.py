"""Llama under other names: families that differ in biases, defaults, the rotated part of a head or the MLP's gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.families.entries import FEED_FORWARD, ROTARY_BUFFERS, linear, llama_entries
from kept.families.items import HEAD_DIM, HEADS_OF_128, Fixed, Flag, KeyValueHeads, Rotary, Size, SpecialTokens
from kept.families.parts import activation, attention, layer_norms, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, ATTENTION_BIASES, MLP, MLP_BIASES, PLAIN_MLP_BIASES, QKV_BIASES
from kept.families.table import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.families.entries import Entries
    from kept.families.parts import Items
    from kept.families.table import Item

SILU_GATES = mlp(activation("silu"))

NO_GATES = mlp(activation("relu2"), gated=False)
"""A plain MLP with squared ReLU."""

EPS_6, EPS_5 = rms_norms(), rms_norms(default=1e-5)

ENTRIES = llama_entries()


def llama_like(
    architecture: str,
    name: str,
    *own: Item,
    context: int,
    tokens: SpecialTokens,
    kv_heads: int | None = None,
    head_dim: Item = HEAD_DIM,
    mlp_items: Items = SILU_GATES,
    norms: Items = EPS_6,
    rotary: Rotary | None = None,
    entries: Entries = ENTRIES,
    also: tuple[str, ...] = (),
    aliases: Mapping[str, str] | None = None,
) -> Family:
    """Return the table of a family that differs from Llama in these parts. `own` are the items of its own keys.

    `context` and `kv_heads` are the class's defaults; None: as many key-value heads as query heads.
    """
    keys = KeyValueHeads() if kv_heads is None else KeyValueHeads(default=kv_heads)
    parts = (*sizes(default_context=context), *attention(kv_heads=keys, head_dim=head_dim), *mlp_items, *norms)
    rest = (rotary or Rotary(), *own, tokens)
    return Family(name, architecture, (*parts, *rest), entries, ROTARY_BUFFERS, also=also, aliases=aliases or {})


ARCEE = llama_like(
    "ArceeForCausalLM",
    "arcee",
    Flag("attention_bias", ATTENTION_BIASES),
    Flag("mlp_bias", PLAIN_MLP_BIASES),
    tied_head(),
    context=4096,
    tokens=SpecialTokens(bos=128000, eos=128001),
    mlp_items=NO_GATES,
    norms=EPS_5,
)

JAIS2 = llama_like(
    "Jais2ForCausalLM",
    "jais2",
    Flag("attention_bias", ATTENTION_BIASES, default=True),
    Flag("mlp_bias", PLAIN_MLP_BIASES, default=True),
    tied_head(),
    context=8192,
    tokens=SpecialTokens(bos=0, eos=150024),
    mlp_items=NO_GATES,
    norms=layer_norms("layer_norm_eps"),
)

SEED_OSS = llama_like(
    "SeedOssForCausalLM",
    "seed_oss",
    Flag("attention_bias", QKV_BIASES, default=True),
    Flag("attention_out_bias", (f"{ATTENTION}o_bias",)),
    Flag("mlp_bias", MLP_BIASES),
    tied_head(),
    context=524288,
    tokens=SpecialTokens(bos=0, eos=2, pad=1),
    kv_heads=8,
    head_dim=HEADS_OF_128,
)

INTERNLM3 = llama_like(
    "InternLM3ForCausalLM",
    "internlm3",
    Flag("qkv_bias", QKV_BIASES),
    Flag("bias", (f"{ATTENTION}o_bias", *MLP_BIASES)),
    tied_head(),
    context=32768,
    tokens=SpecialTokens(bos=1, eos=2, pad=2),
    kv_heads=2,
    head_dim=HEADS_OF_128,
    norms=EPS_5,
    also=("LlamaForCausalLM",),
    aliases={"attention_bias": "qkv_bias", "mlp_bias": "bias"},
)
"""transformers runs it as a Llama, and requires that both flags are equal."""

IQUESTCODER = llama_like(
    "IQuestCoderForCausalLM",
    "iquestcoder",
    Fixed("clip_qkv", value=None, why="clipped queries, keys and values are not supported"),
    Fixed("use_sliding_window", value=False, why="sliding windows are not supported"),
    Flag("attention_bias", ATTENTION_BIASES),
    Flag("mlp_bias", MLP_BIASES),
    tied_head(),
    context=131072,
    tokens=SpecialTokens(bos=1, eos=2),
    kv_heads=8,
    head_dim=HEADS_OF_128,
    norms=EPS_5,
    also=("LlamaForCausalLM",),
)
"""transformers runs it as a Llama."""

ERNIE4_5 = llama_like(
    "Ernie4_5ForCausalLM",
    "ernie4_5",
    Flag("use_bias", (*ATTENTION_BIASES, *MLP_BIASES)),
    tied_head(default=True),
    context=131072,
    tokens=SpecialTokens(bos=1, eos=2, pad=0),
    kv_heads=2,
    head_dim=HEADS_OF_128,
    norms=EPS_5,
    rotary=Rotary(theta=500_000.0, interleaved=True),
)

HELIUM = llama_like(
    "HeliumForCausalLM",
    "helium",
    Flag("attention_bias", QKV_BIASES),
    Flag("mlp_bias", MLP_BIASES),
    tied_head(),
    context=4096,
    tokens=SpecialTokens(bos=1, eos=2, pad=3),
    kv_heads=20,
    head_dim=Size("head_dim", f"{ATTENTION}head_dim", default=128),
    norms=rms_norms(default=1e-8),
    rotary=Rotary(theta=100_000.0, interleaved=True),
)

GLM = llama_like(
    "GlmForCausalLM",
    "glm",
    Flag("attention_bias", QKV_BIASES, default=True),
    tied_head(),
    context=131072,
    tokens=SpecialTokens(eos=(151329, 151336, 151338), pad=151329),
    kv_heads=2,
    head_dim=HEADS_OF_128,
    mlp_items=mlp(activation("silu"), fused=True),
    norms=rms_norms(default=1.5625e-7),
    rotary=Rotary(partial=0.5, reads_partial=True, interleaved=True),
    entries=llama_entries(
        mlp=(
            *linear(f"{MLP}gate_up", f"{FEED_FORWARD}.gate_up_proj"),
            *linear(f"{MLP}down", f"{FEED_FORWARD}.down_proj"),
        )
    ),
)
"""GLM-4-9B and GLM-Edge; the first half of each head rotates, in neighbouring pairs."""
