"""OLMo 2: Llama without norms before its parts: they stand behind them, and on queries and keys over all heads."""

from __future__ import annotations

from kept.families.items import Always, Flag, Number, SpecialTokens
from kept.families.llama import (
    ATTENTION_BIASES,
    DECODER,
    ENTRIES,
    GATED,
    HEAD_DIM,
    QK_NORM_ENTRIES,
    ROTARY_BUFFERS,
    qk_rms_norm,
)
from kept.families.rotary import Rotary
from kept.families.table import Family, L, norm
from kept.ir.spec import NO_NORM

NORMS = (f"{L}mixer_post_norm", f"{L}mlp_post_norm", "final_norm")

OLMO2 = Family(
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    items=(
        *DECODER,
        HEAD_DIM,
        *GATED,
        Always(((f"{L}mixer_norm", NO_NORM), (f"{L}mlp_norm", NO_NORM))),
        Always(tuple((f"{path}.kind", "rms") for path in NORMS)),
        Number("rms_norm_eps", tuple(f"{path}.eps" for path in NORMS), default=1e-5),
        qk_rms_norm("full"),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(eos=50279, pad=1),
    ),
    entries=(
        *(entry for entry in ENTRIES if "_norm." not in entry.slot or entry.slot.startswith("final_norm")),
        *QK_NORM_ENTRIES,
        *norm("layers.{i}.mixer_post_norm", "model.layers.{i}.post_attention_layernorm"),
        *norm("layers.{i}.mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm"),
    ),
    ignored=ROTARY_BUFFERS,
)
