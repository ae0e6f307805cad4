"""Orion: Llama whose norms are LayerNorms with bias. Their epsilon stands under the misleading `rms_norm_eps`."""

from __future__ import annotations

from kept.families.items import Always, DerivedFact, Flag, Number, Size, SpecialTokens, split_heads
from kept.families.lengths import published_rule
from kept.families.llama import (
    ATTENTION_BIASES,
    DECODER,
    ENTRIES,
    GATED,
    NORM_EPS,
    NORM_PATHS,
    ROTARY_BUFFERS,
)
from kept.families.rotary import PUBLISHED, Rotary
from kept.families.table import ATTENTION, Family


def layer_norms(*paths: str, bias: bool = True) -> Always:
    """LayerNorm with gain at each path, and with bias unless said otherwise."""
    return Always(
        tuple((f"{path}.{fact}", value) for path in paths for fact, value in (("kind", "layer"), ("bias", bias)))
    )


LAYER_NORMS = layer_norms(*NORM_PATHS)
"""LayerNorm with gain and bias everywhere."""

ORION = Family(
    name="orion",
    architecture="OrionForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=4096),
        *DECODER[4:],
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        *GATED,
        LAYER_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-5),
        Rotary(kinds=PUBLISHED),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=published_rule,
)
