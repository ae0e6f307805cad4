"""StableLM: LayerNorm with bias, partial rotation; optionally parallel residuals and a query-key norm for each head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.entries import ROTARY_BUFFERS, attention_entries, llama_entries, qk_norm_entries
from kept.families.items import WIDTH_OVER_HEADS, Flag, HeadNorms, Rotary, SpecialTokens
from kept.families.layout import Stacked
from kept.families.parts import activation, attention, layer_norms, mlp, sizes, tied_head, without_mlp_norm
from kept.families.paths import LAYER, QKV_BIASES, first_value
from kept.families.table import Family

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts


@dataclass(frozen=True)
class ParallelResidual:
    """`use_parallel_residual`: attention and MLP read the output of the same norm. Comes after the norms."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the facts: a parallel layer has no second norm."""
        parallel = config.flag("use_parallel_residual", default=False)
        return {f"{LAYER}parallel": parallel, **(without_mlp_norm(facts) if parallel else {})}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {"use_parallel_residual": bool(first_value(facts, f"{LAYER}parallel"))}


STABLELM = Family(
    name="stablelm",
    architecture="StableLmForCausalLM",
    items=(
        *sizes(default_context=4096),
        *attention(head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("silu")),
        *layer_norms("layer_norm_eps"),
        Rotary(partial=0.25, reads_partial=True),
        Flag("use_qkv_bias", QKV_BIASES),
        HeadNorms("qk_layernorm", "own"),
        ParallelResidual(),
        tied_head(),
        SpecialTokens(bos=0, eos=0),
    ),
    entries=llama_entries(
        attention=(
            *attention_entries(),
            *qk_norm_entries("q_layernorm.norms.{h}", "k_layernorm.norms.{h}", Stacked()),
        )
    ),
    ignored=ROTARY_BUFFERS,
)
