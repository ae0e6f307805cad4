"""Granite under other names: the dense Granite 4, and HyperCLOVA X with optional post-norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.entries import ROTARY_BUFFERS, linear, llama_entries, norm, norm_entries
from kept.families.items import Flag, Number, Power, Rotary, Scale, SpecialTokens
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION_BIASES, LAYER, MLP, MLP_BIASES, first_value
from kept.families.table import Family
from kept.ir.spec import Norm

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

POST_NORMS = {f"{LAYER}mixer_post_norm": "post_norm1", f"{LAYER}mlp_post_norm": "post_norm2"}
"""The norms behind attention and MLP, with their stored names."""

ATTENTION_LAYERS = ("attention", "full_attention")
"""Names of a layer with attention, in transformers 4 and 5."""

TYPE, ROPE = "position_embedding_type", "rope"

MULTIPLIERS = (
    Number("embedding_multiplier", ("embedding_multiplier",), default=1.0),
    Number("residual_multiplier", (f"{LAYER}residual_multiplier",), default=1.0),
)


@dataclass(frozen=True)
class PostNorms:
    """`use_post_norm`: an RMSNorm behind attention and MLP, with the epsilon of the other norms. Comes after them."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the norms, or that there are none."""
        used = config.flag("use_post_norm", default=True)
        return dict.fromkeys(POST_NORMS, Norm("rms", facts["final_norm.eps"]) if used else None)

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {"use_post_norm": any(first_value(facts, path) is not None for path in POST_NORMS)}


@dataclass(frozen=True)
class DenseLayers:
    """Keys of Granite 4's mixtures of experts and Mamba-2 layers, of which a dense model has none."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return no facts. Raises CheckpointError for a model with experts or Mamba-2 layers."""
        if config.get("num_local_experts", 8) != 0:
            wrong = "0: mixtures of experts are not supported; take a dense model of the family"
            raise config.wrong_value("num_local_experts", config.get("num_local_experts", 8), wrong)
        types = config.get("layer_types")
        if not isinstance(types, list) or len(types) != facts["depth"] or not {*map(str, types)} <= {*ATTENTION_LAYERS}:
            wrong = f"a list of {facts['depth']} times attention: Mamba-2 layers are not supported; take a dense model"
            raise config.wrong("layer_types", wrong)
        return {}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the keys. The config class checks Mamba-2 sizes even if no layer has them; 1 head fits any width."""
        return {
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "layer_types": [ATTENTION_LAYERS[0]] * facts["depth"],
            "mamba_n_heads": 1,
        }


@dataclass(frozen=True)
class OptionalRotary(Rotary):
    """RoPE if `position_embedding_type` is "rope"; with any other value the class ignores the keys of the rotation."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the rotation, or that there is none."""
        return super().read(config, facts) if config.get(TYPE) == ROPE else {self.path: None}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the keys."""
        return {TYPE: None} if first_value(facts, self.path) is None else {TYPE: ROPE, **super().write(facts)}


GRANITEMOEHYBRID = Family(
    name="granitemoehybrid",
    architecture="GraniteMoeHybridForCausalLM",
    items=(
        *sizes(),
        DenseLayers(),
        *attention(),
        *mlp(activation("silu"), size="shared_intermediate_size", default_size=1024, fused=True),
        *rms_norms(),
        OptionalRotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        *MULTIPLIERS,
        Scale("attention_multiplier"),
        Power("logits_scaling", "head.multiplier", power=-1.0, default=1.0),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(
        mlp=(
            *linear(f"{MLP}gate_up", "model.layers.{i}.shared_mlp.input_linear"),
            *linear(f"{MLP}down", "model.layers.{i}.shared_mlp.output_linear"),
        )
    ),
    ignored=ROTARY_BUFFERS,
    aliases={"layers_block_type": "layer_types"},
)

HYPERCLOVAX = Family(
    name="hyperclovax",
    architecture="HyperCLOVAXForCausalLM",
    items=(
        *sizes(),
        *attention(),
        *mlp(activation("silu")),
        *rms_norms(),
        PostNorms(),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("mlp_bias", MLP_BIASES),
        *MULTIPLIERS,
        Scale("attention_multiplier", optional=True),
        Power("logits_scaling", "head.multiplier", power=1.0, default=1.0),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(
        norms=(
            *norm_entries(),
            *(one for path, name in POST_NORMS.items() for one in norm(path, f"model.layers.{{i}}.{name}")),
        )
    ),
    ignored=ROTARY_BUFFERS,
)
"""`logits_scaling` is a factor, not a divisor as in Granite."""
