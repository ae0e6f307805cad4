"""Llama: RMSNorm without bias, full rotation, gated MLP; all biases of attention or none, and the same of the MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import Flag, Rotary, SpecialTokens
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, ATTENTION_BIASES, MLP_BIASES
from kept.families.table import Family
from kept.ir.facts import Violation

if TYPE_CHECKING:
    from kept.ir.spec import Spec


def heads_divide_width(spec: Spec) -> Violation | None:
    """Return a violation unless the heads divide the width: the class requires it for every head size."""
    for i, layer in enumerate(spec.layers):
        if layer.attention is not None and spec.width % layer.attention.heads:
            return Violation(f"{ATTENTION}heads", layer.attention.heads, f"a divisor of the width {spec.width}", i)
    return None


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    items=(
        *sizes(),
        *attention(),
        *mlp(activation("silu")),
        *rms_norms(),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("mlp_bias", MLP_BIASES),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
    limits=(heads_divide_width,),
)
