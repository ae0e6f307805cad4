"""Dense models with latent attention: DeepSeek-V2 and -V3, Youtu and MiniCPM3."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import DerivedFact, Flag, Number, Rotary, Size, SpecialTokens
from kept.families.latent import DenseUntil, latent_attention, latent_entries, score_scale
from kept.families.minicpm import (
    ScaledMultiplier,
    over_root_of_depth,
    over_width,
    times_root_of_depth,
    times_width,
)
from kept.families.parts import activation, mlp, rms_norms, sizes, tied_head
from kept.families.paths import LATENT, LAYER, MLP_BIASES
from kept.families.table import Family
from kept.ir.facts import Violation

if TYPE_CHECKING:
    from kept.families.table import Item
    from kept.ir.facts import Facts
    from kept.ir.spec import Spec

VALUES = Size("v_head_dim", f"{LATENT}value_dim", default=128)

ROPE, ROPE_DIM = f"{LATENT}rope", f"{LATENT}rope_dim"

SCALE = DerivedFact(f"{LATENT}scale", score_scale)

LATENT_ITEMS = latent_attention(rank=512, q_rank=1536, nope=128, rope=64, value=VALUES)

ROTATION: tuple[Item, ...] = (
    Rotary(path=ROPE, head_dim=ROPE_DIM),
    Flag("rope_interleave", (f"{ROPE}.interleaved",), default=True),
    SCALE,
)
"""RoPE on the rotary parts; a flag says which dimensions form pairs."""


def heads_divide_width(spec: Spec) -> Violation | None:
    """Return a violation unless the heads divide the width: the config class requires it."""
    for i, layer in enumerate(spec.layers):
        heads = getattr(layer.mixer, "heads", 1)
        if spec.width % heads:
            return Violation(f"{LATENT}heads", heads, f"a divisor of the width {spec.width}", i)
    return None


DEEPSEEK_V3 = Family(
    name="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    items=(
        *sizes(default_context=4096),
        DenseUntil(3),
        *LATENT_ITEMS,
        *mlp(activation("silu")),
        *rms_norms(),
        *ROTATION,
        tied_head(),
        SpecialTokens(bos=0, eos=1),
    ),
    entries=llama_entries(attention=latent_entries()),
    ignored=ROTARY_BUFFERS,
)

YOUTU = Family(
    name="youtu",
    architecture="YoutuForCausalLM",
    items=(
        *sizes(default_context=131072),
        *LATENT_ITEMS,
        *mlp(activation("silu")),
        *rms_norms(),
        *ROTATION,
        tied_head(default=True),
        SpecialTokens(bos=128000, eos=128001, zeroes_pad=True),
    ),
    entries=llama_entries(attention=latent_entries()),
    ignored=ROTARY_BUFFERS,
)

DEEPSEEK_V2 = Family(
    name="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    items=(
        *sizes(),
        DenseUntil(0),
        *LATENT_ITEMS,
        *mlp(activation("silu")),
        *rms_norms(),
        Rotary(path=ROPE, head_dim=ROPE_DIM, interleaved=True),
        SCALE,
        Flag("mlp_bias", MLP_BIASES),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(attention=latent_entries()),
    ignored=ROTARY_BUFFERS,
    limits=(heads_divide_width,),
)


def width_over_latent_heads(facts: Facts) -> int:
    """Return the value size that MiniCPM3 assumes for a null key."""
    return int(facts["width"] // facts[f"{LATENT}heads"])


def width_of(facts: Facts) -> float:
    """Return the `dim_model_base` that MiniCPM3 assumes for a null key: logits are then not scaled."""
    return float(facts["width"])


def root_of_depth(facts: Facts) -> float:
    """Return the `scale_depth` that MiniCPM3 assumes for a null key: residuals are then added as they are."""
    return math.sqrt(facts["depth"])


MINICPM3 = Family(
    name="minicpm3",
    architecture="MiniCPM3ForCausalLM",
    items=(
        *sizes(default_context=32768),
        *latent_attention(
            rank=256,
            q_rank=768,
            nope=64,
            rope=32,
            value=Size(
                "v_head_dim", f"{LATENT}value_dim", default=width_over_latent_heads, null=width_over_latent_heads
            ),
        ),
        *mlp(activation("silu")),
        *rms_norms(default=1e-5),
        Rotary(path=ROPE, head_dim=ROPE_DIM),
        SCALE,
        Flag("mlp_bias", MLP_BIASES),
        Number("scale_emb", ("embedding_multiplier",), default=12.0),
        ScaledMultiplier(
            "scale_depth", f"{LAYER}residual_multiplier", over_root_of_depth, times_root_of_depth, 1.4, root_of_depth
        ),
        ScaledMultiplier("dim_model_base", "head.multiplier", over_width, times_width, 256.0, width_of, whole=True),
        tied_head(default=True),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(attention=latent_entries()),
    ignored=ROTARY_BUFFERS,
    limits=(heads_divide_width,),
)
