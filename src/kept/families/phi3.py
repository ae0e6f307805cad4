"""Phi-3 and Phi-4: Llama with fused query-key-value and gate-up projections, LongRoPE, and a window for all layers."""

from __future__ import annotations

from kept.families.items import Always, Flag, Number, Size, SpecialTokens, Window
from kept.families.lengths import recomputing_rule
from kept.families.llama import DECODER, ENTRIES, GATED, HEAD_DIM, NORM_EPS, RMS_NORMS, ROTARY_BUFFERS
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, MLP, Family, linear
from kept.ir.spec import LongRope

LONG_ROPES = {"longrope": LongRope, "su": LongRope, "yarn": LongRope}
"""The stock class's only scaling, and the names that older files have for it."""

PHI3 = Family(
    name="phi3",
    architecture="Phi3ForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=4096),
        *DECODER[4:],
        HEAD_DIM,
        Always(((f"{ATTENTION}fused", True), (f"{MLP}fused", True))),
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-5),
        Rotary(says_partial=True, original=4096, kinds=LONG_ROPES),
        Window(),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=32000, pad=32000),
    ),
    entries=(
        *(entry for entry in ENTRIES if not entry.slot.startswith("layers.{i}.m") or "_norm." in entry.slot),
        *linear("layers.{i}.mixer.qkv", "model.layers.{i}.self_attn.qkv_proj"),
        *linear("layers.{i}.mixer.o", "model.layers.{i}.self_attn.o_proj"),
        *linear("layers.{i}.mlp.gate_up", "model.layers.{i}.mlp.gate_up_proj"),
        *linear("layers.{i}.mlp.down", "model.layers.{i}.mlp.down_proj"),
    ),
    ignored=ROTARY_BUFFERS,
    rule=recomputing_rule,
)
