"""Nemotron: LayerNorms that add 1 to stored gains, a plain MLP with squared ReLU; half of each head rotates."""

from __future__ import annotations

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import Flag, Rotary, SpecialTokens
from kept.families.parts import activation, attention, layer_norms, mlp, sizes, tied_head
from kept.families.paths import ATTENTION_BIASES, PLAIN_MLP_BIASES
from kept.families.table import Family

NEMOTRON = Family(
    name="nemotron",
    architecture="NemotronForCausalLM",
    items=(
        *sizes(default_context=4096),
        *attention(),
        *mlp(activation("relu2"), gated=False),
        *layer_norms("norm_eps", offset=1.0),
        Rotary(partial=0.5, reads_partial=True),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("mlp_bias", PLAIN_MLP_BIASES),
        tied_head(),
        SpecialTokens(bos=2, eos=3),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)
