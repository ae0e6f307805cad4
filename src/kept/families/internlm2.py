"""InternLM2 and 2.5: Llama under older names, query, key and value fused group by group."""

from __future__ import annotations

from kept.families.items import Always, DerivedFact, Flag, Number, SpecialTokens, split_heads
from kept.families.lengths import published_rule
from kept.families.llama import ATTENTION_BIASES, DECODER, GATED, NORM_EPS, RMS_NORMS, ROTARY_BUFFERS
from kept.families.rotary import PUBLISHED, Rotary
from kept.families.table import ATTENTION, Entry, Family, linear, norm

INTERNLM2 = Family(
    name="internlm2",
    architecture="InternLM2ForCausalLM",
    items=(
        *DECODER,
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        Always(((f"{ATTENTION}fused", True),)),
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        Rotary(kinds=PUBLISHED),
        Flag("bias", ATTENTION_BIASES, default=True),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2, pad=0),
    ),
    entries=(
        Entry("embedding.weight", "model.tok_embeddings.weight"),
        *norm("layers.{i}.mixer_norm", "model.layers.{i}.attention_norm"),
        *linear("layers.{i}.mixer.qkv", "model.layers.{i}.attention.wqkv", "grouped"),
        *linear("layers.{i}.mixer.o", "model.layers.{i}.attention.wo"),
        *norm("layers.{i}.mlp_norm", "model.layers.{i}.ffn_norm"),
        *linear("layers.{i}.mlp.gate", "model.layers.{i}.feed_forward.w1"),
        *linear("layers.{i}.mlp.up", "model.layers.{i}.feed_forward.w3"),
        *linear("layers.{i}.mlp.down", "model.layers.{i}.feed_forward.w2"),
        *norm("final_norm", "model.norm"),
        *linear("head", "output"),
    ),
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=published_rule,
)
