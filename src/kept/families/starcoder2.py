"""StarCoder2: LayerNorm with bias, plain MLP, biases everywhere, one sliding window, a tied head."""

from __future__ import annotations

from kept.families.entries import ROTARY_BUFFERS, llama_entries, plain_mlp_entries
from kept.families.items import WIDTH_OVER_HEADS, Flag, KeyValueHeads, Rotary, SpecialTokens, Window
from kept.families.parts import activation, attention, layer_norms, mlp, sizes, tied_head
from kept.families.paths import ATTENTION_BIASES, PLAIN_MLP_BIASES
from kept.families.table import Family

STARCODER2 = Family(
    name="starcoder2",
    architecture="Starcoder2ForCausalLM",
    items=(
        *sizes(default_context=4096),
        *attention(kv_heads=KeyValueHeads(default=2), head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("gelu_pytorch_tanh"), gated=False),
        *layer_norms("norm_epsilon"),
        Rotary(),
        Flag("use_bias", (*ATTENTION_BIASES, *PLAIN_MLP_BIASES), default=True),
        Window(),
        tied_head(default=True),
        SpecialTokens(bos=50256, eos=50256),
    ),
    entries=llama_entries(mlp=plain_mlp_entries(up="c_fc", down="c_proj")),
    ignored=ROTARY_BUFFERS,
)
