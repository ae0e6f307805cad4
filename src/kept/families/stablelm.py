"""StableLM: LayerNorm with bias, partial rotation; optionally parallel residuals and a query-key norm for each head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.items import (
    DerivedFact,
    Flag,
    HeadNorms,
    Number,
    Size,
    SpecialTokens,
    first,
    one_shared_norm,
    split_heads,
)
from kept.families.llama import DECODER, ENTRIES, GATED, NORM_EPS, ROTARY_BUFFERS
from kept.families.orion import LAYER_NORMS
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, Entry, Family, L

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts


@dataclass(frozen=True)
class ParallelResidual:
    """`use_parallel_residual`: attention and MLP read the same norm of the same stream. Comes after the norms."""

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to facts: a parallel block has no second norm."""
        parallel = config.flag("use_parallel_residual", default=False)
        return {f"{L}parallel": parallel, **(one_shared_norm(known) if parallel else {})}

    def write(self, table: Facts) -> dict[str, Any]:
        """Facts to key."""
        return {"use_parallel_residual": bool(first(table, f"{L}parallel"))}


STABLELM = Family(
    name="stablelm",
    architecture="StableLmForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=4096),
        *DECODER[4:],
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        *GATED,
        LAYER_NORMS,
        Number("layer_norm_eps", NORM_EPS, default=1e-5),
        Rotary(partial=0.25, says_partial=True),
        Flag("use_qkv_bias", tuple(f"{ATTENTION}{name}_bias" for name in "qkv")),
        HeadNorms("qk_layernorm", "own"),
        ParallelResidual(),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=0, eos=0),
    ),
    entries=(
        *ENTRIES,
        Entry("layers.{i}.mixer.q_norm.gain", "model.layers.{i}.self_attn.q_layernorm.norms.{h}.weight", "stacked"),
        Entry("layers.{i}.mixer.k_norm.gain", "model.layers.{i}.self_attn.k_layernorm.norms.{h}.weight", "stacked"),
    ),
    ignored=ROTARY_BUFFERS,
)
