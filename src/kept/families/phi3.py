"""Phi-3 and Phi-4: Llama with fused query-key-value and gate-up projections, LongRoPE, and a window for all layers."""

from __future__ import annotations

from kept.families.entries import FEED_FORWARD, ROTARY_BUFFERS, fused_attention_entries, linear, llama_entries
from kept.families.items import Rotary, SpecialTokens, Window
from kept.families.lengths import recomputing_rule
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import MLP
from kept.families.table import Family
from kept.ir.spec import LongRope

PHI3_SCALINGS = {"longrope": LongRope, "su": LongRope, "yarn": LongRope}
"""The only scaling of the class in transformers, and its names in older configs."""

PHI3 = Family(
    name="phi3",
    architecture="Phi3ForCausalLM",
    items=(
        *sizes(default_context=4096),
        *attention(fused=True),
        *mlp(activation("silu"), fused=True),
        *rms_norms(default=1e-5),
        Rotary(reads_partial=True, original=4096, scalings=PHI3_SCALINGS),
        Window(),
        tied_head(),
        SpecialTokens(bos=1, eos=32000, pad=32000),
    ),
    entries=llama_entries(
        attention=fused_attention_entries(qkv="qkv_proj"),
        mlp=(
            *linear(f"{MLP}gate_up", f"{FEED_FORWARD}.gate_up_proj"),
            *linear(f"{MLP}down", f"{FEED_FORWARD}.down_proj"),
        ),
    ),
    ignored=ROTARY_BUFFERS,
    rule=recomputing_rule,
)
