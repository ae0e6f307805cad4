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
from kept.families.table import ATTENTION, MLP, Family, linear

STARCODER2 = Family(
    name="starcoder2",
    architecture="Starcoder2ForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=4096),
        DECODER[4],
        KeyValueHeads("num_key_value_heads", f"{ATTENTION}kv_heads", default=2),
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        Size("intermediate_size", f"{MLP}size"),
        Choice("hidden_act", f"{MLP}activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
        Always(((f"{MLP}gated", False),)),
        LAYER_NORMS,
        Number("norm_epsilon", NORM_EPS, default=1e-5),
        Rotary(),
        Flag("use_bias", (*ATTENTION_BIASES, f"{MLP}up_bias", f"{MLP}down_bias"), default=True),
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
