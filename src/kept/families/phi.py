"""Phi 1 and 2: one LayerNorm for attention and plain MLP side by side, and biases everywhere, on the head too."""

from __future__ import annotations

from kept.families.gpt_neox import PLAIN_MLP
from kept.families.items import (
    ACTIVATIONS,
    Always,
    Choice,
    DerivedFact,
    Flag,
    HeadNorms,
    Number,
    Size,
    SpecialTokens,
    split_heads,
)
from kept.families.llama import ATTENTION_BIASES, DECODER, ENTRIES, ROTARY_BUFFERS
from kept.families.orion import layer_norms
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, MLP, Family, L, linear, norm

SHARED_NORM = (f"{L}mixer_norm", "final_norm")
"""The norms where attention and MLP read the same one."""

SIDE_BY_SIDE = Always(((f"{L}parallel", True), (f"{L}shared_norm", True), (f"{L}mlp_norm", None)))
"""Attention and MLP read the same norm of the same stream."""

PHI = Family(
    name="phi",
    architecture="PhiForCausalLM",
    items=(
        *DECODER,
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        Size("intermediate_size", f"{MLP}size"),
        Choice("hidden_act", f"{MLP}activation", ACTIVATIONS, default="gelu_new"),
        PLAIN_MLP,
        SIDE_BY_SIDE,
        Always(tuple((path, True) for path in (*ATTENTION_BIASES, "head.bias"))),
        layer_norms(*SHARED_NORM),
        Number("layer_norm_eps", tuple(f"{path}.eps" for path in SHARED_NORM), default=1e-5),
        Rotary(partial=0.5, says_partial=True),
        HeadNorms("qk_layernorm", "shared", bias=True),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=(
        *(entry for entry in ENTRIES if not any(part in entry.slot for part in (".mixer.o.", ".mlp", "final_norm"))),
        *norm("layers.{i}.mixer.q_norm", "model.layers.{i}.self_attn.q_layernorm"),
        *norm("layers.{i}.mixer.k_norm", "model.layers.{i}.self_attn.k_layernorm"),
        *linear("layers.{i}.mixer.o", "model.layers.{i}.self_attn.dense"),
        *linear("layers.{i}.mlp.up", "model.layers.{i}.mlp.fc1"),
        *linear("layers.{i}.mlp.down", "model.layers.{i}.mlp.fc2"),
        *norm("final_norm", "model.final_layernorm"),
    ),
    ignored=ROTARY_BUFFERS,
)
