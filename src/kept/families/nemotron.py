"""Nemotron: LayerNorm with gains stored less 1, a plain MLP of squared ReLUs, half of each head rotated."""

from __future__ import annotations

from kept.families.items import ACTIVATIONS, Always, Choice, Flag, Number, Size, SpecialTokens
from kept.families.llama import ATTENTION_BIASES, DECODER, ENTRIES, HEAD_DIM, NORM_EPS, OFFSET_GAINS, ROTARY_BUFFERS
from kept.families.orion import LAYER_NORMS
from kept.families.rotary import Rotary
from kept.families.table import MLP, Family

NEMOTRON = Family(
    name="nemotron",
    architecture="NemotronForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=4096),
        *DECODER[4:],
        HEAD_DIM,
        Size("intermediate_size", f"{MLP}size"),
        Choice("hidden_act", f"{MLP}activation", ACTIVATIONS, default="relu2"),
        Always(((f"{MLP}gated", False),)),
        LAYER_NORMS,
        OFFSET_GAINS,
        Number("norm_eps", NORM_EPS, default=1e-5),
        Rotary(partial=0.5, says_partial=True),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("mlp_bias", (f"{MLP}up_bias", f"{MLP}down_bias")),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=2, eos=3),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
)
