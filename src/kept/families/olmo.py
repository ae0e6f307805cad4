"""OLMo: Llama whose norms are LayerNorms without gain or bias, and with an epsilon that no config states."""

from __future__ import annotations

from kept.families.items import Always, Fixed, Flag, SpecialTokens
from kept.families.llama import ATTENTION_BIASES, DECODER, ENTRIES, GATED, HEAD_DIM, NORM_PATHS, ROTARY_BUFFERS
from kept.families.rotary import Rotary
from kept.families.table import Family
from kept.ir.spec import Norm

OLMO = Family(
    name="olmo",
    architecture="OlmoForCausalLM",
    items=(
        *DECODER,
        HEAD_DIM,
        *GATED,
        Always(tuple((path, Norm("layer", 1e-5, gain=False)) for path in NORM_PATHS)),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        Fixed("clip_qkv", value=None, why="clipped queries, keys and values are not supported"),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(eos=50279, pad=1),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
)
