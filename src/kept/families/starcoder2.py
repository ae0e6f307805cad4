"""StarCoder2: LayerNorm with bias, plain MLP, biases everywhere, one sliding window, a tied head."""

from __future__ import annotations

from kept.families.items import (
    ACTIVATIONS,
    Always,
    Choice,
    DerivedFact,
    Flag,
    KeyValueHeads,
    Number,
    Size,
    SpecialTokens,
    Window,
    split_heads,
)
from kept.families.llama import ATTENTION_BIASES, DECODER, ENTRIES, NORM_EPS, ROTARY_BUFFERS
from kept.families.orion import LAYER_NORMS
from kept.families.rotary import Rotary
from kept.families.table import Family, L, linear

STARCODER2 = Family(
    name="starcoder2",
    architecture="Starcoder2ForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=4096),
        DECODER[4],
        KeyValueHeads("num_key_value_heads", f"{L}mixer.kv_heads", default=2),
        DerivedFact(f"{L}mixer.head_dim", split_heads),
        Size("intermediate_size", f"{L}mlp.size"),
        Choice("hidden_act", f"{L}mlp.activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
        Always(((f"{L}mlp.gated", False),)),
        LAYER_NORMS,
        Number("norm_epsilon", NORM_EPS, default=1e-5),
        Rotary(),
        Flag("use_bias", (*ATTENTION_BIASES, f"{L}mlp.up_bias", f"{L}mlp.down_bias"), default=True),
        Window(),
        Flag("tie_word_embeddings", ("head.tied",), default=True),
        SpecialTokens(bos=50256, eos=50256),
    ),
    entries=(
        *(entry for entry in ENTRIES if ".mlp." not in entry.slot),
        *linear("layers.{i}.mlp.up", "model.layers.{i}.mlp.c_fc"),
        *linear("layers.{i}.mlp.down", "model.layers.{i}.mlp.c_proj"),
    ),
    ignored=ROTARY_BUFFERS,
)
