"""Dense Granite 4 and HyperCLOVA X: Granite under other names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from kept.families.granite import GRANITE
from support.contract import DECODER_SIZES, StockContract
from support.rotations import StockRotaryContract
from support.specs import attention_of, mlp_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program

MULTIPLIERS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")


class TestGraniteMoeHybrid(StockRotaryContract):
    name = "granitemoehybrid"
    overrides: ClassVar[dict[str, Any]] = {"attention_bias": True}
    sizes = tuple("shared_intermediate_size" if key == "intermediate_size" else key for key in DECODER_SIZES)
    numbers = ("rms_norm_eps", *MULTIPLIERS)
    flags = ("attention_bias", "tie_word_embeddings")
    words = ("hidden_act",)

    def test_it_is_granite_with_a_fused_gate(self, program: Program) -> None:
        assert mlp_of(program.spec.layers[0]).fused
        assert {violation.path for violation in GRANITE.violations(program.spec)} == {"layers.*.mlp.dense.fused"}

    @pytest.mark.parametrize("value", [None, "nope"])
    def test_without_a_rotation(self, checkpoint: Checkpoint, value: str | None) -> None:
        spec = self.family.read_config({**checkpoint.config, "position_embedding_type": value})
        assert attention_of(spec.layers[0]).rope is None
        assert self.family.violations(spec) == []

    @pytest.mark.parametrize(
        ("key", "value", "reason"),
        [
            ("num_local_experts", 8, "mixtures of experts are not supported"),
            ("layer_types", ["attention", "mamba", "attention"], "Mamba-2 layers are not supported"),
            ("layer_types", None, "Mamba-2 layers are not supported"),
        ],
    )
    def test_other_models_of_the_class_are_named(
        self, checkpoint: Checkpoint, key: str, value: object, reason: str
    ) -> None:
        with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is .*{reason}; take a dense model"):
            self.family.read_config({**checkpoint.config, key: value})


class TestGraniteMoeHybridWithoutRotation(StockContract):
    name = "granitemoehybrid"
    overrides: ClassVar[dict[str, Any]] = {"position_embedding_type": None}
    becomes_llama = r"^every layer's mixer\.attention\.rope: queries and keys are not rotated"
    sizes = TestGraniteMoeHybrid.sizes
    numbers = TestGraniteMoeHybrid.numbers
    flags = TestGraniteMoeHybrid.flags
    words = ("hidden_act",)


class TestHyperClovaX(StockRotaryContract):
    name = "hyperclovax"
    sizes = (*DECODER_SIZES, "head_dim")
    numbers = ("rms_norm_eps", *MULTIPLIERS)
    flags = ("attention_bias", "mlp_bias", "use_post_norm", "tie_word_embeddings")
    words = ("hidden_act",)
    overrides: ClassVar[dict[str, Any]] = {"attention_bias": True, "mlp_bias": True, "attention_multiplier": None}

    def test_the_logits_are_multiplied(self, program: Program) -> None:
        assert program.spec.head.multiplier == 0.7
        assert attention_of(program.spec.layers[0]).scale is None


class TestHyperClovaXWithPostNorms(TestHyperClovaX):
    overrides: ClassVar[dict[str, Any]] = {"use_post_norm": True}
    becomes_llama = r"mixer_post_norm, mlp_post_norm: a norm stands behind attention and MLP"

    def test_the_logits_are_multiplied(self, program: Program) -> None:
        assert attention_of(program.spec.layers[0]).scale == 0.4
        assert program.spec.layers[0].mlp_post_norm is not None
