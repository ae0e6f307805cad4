"""Cohere (Command R): one LayerNorm without bias for attention and MLP side by side, neighbours turn, scaled logits."""

from __future__ import annotations

from kept.families.items import DerivedFact, Flag, HeadNorms, Number, Size, SpecialTokens, split_heads
from kept.families.llama import ATTENTION_BIASES, DECODER, ENTRIES, GATED, ROTARY_BUFFERS
from kept.families.orion import layer_norms
from kept.families.phi import SHARED_NORM, SIDE_BY_SIDE
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, Entry, Family

COHERE = Family(
    name="cohere",
    architecture="CohereForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=8192),
        *DECODER[4:],
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        *GATED,
        SIDE_BY_SIDE,
        layer_norms(*SHARED_NORM, bias=False),
        Number("layer_norm_eps", tuple(f"{path}.eps" for path in SHARED_NORM), default=1e-5),
        Rotary(theta=500_000.0, interleaved=True),
        HeadNorms("use_qk_norm", "own"),
        Flag("attention_bias", ATTENTION_BIASES),
        Number("logit_scale", ("head.multiplier",), default=0.0625),
        Flag("tie_word_embeddings", ("head.tied",), default=True),
        SpecialTokens(bos=5, eos=255001, pad=0),
    ),
    entries=(
        *ENTRIES,
        Entry("layers.{i}.mixer.q_norm.gain", "model.layers.{i}.self_attn.q_norm.weight"),
        Entry("layers.{i}.mixer.k_norm.gain", "model.layers.{i}.self_attn.k_norm.weight"),
    ),
    ignored=ROTARY_BUFFERS,
)
