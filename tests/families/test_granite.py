from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from support.contract import DECODER_SIZES
from support.rotations import StockRotaryContract
from support.specs import attention_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestGranite(StockRotaryContract):
    name = "granite"
    sizes = (*DECODER_SIZES, "head_dim")
    numbers = ("rms_norm_eps", "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
    flags = ("attention_bias", "mlp_bias", "tie_word_embeddings")
    words = ("hidden_act",)

    def test_multipliers(self, program: Program) -> None:
        layer = program.spec.layers[0]
        assert (program.spec.embedding_multiplier, layer.residual_multiplier, attention_of(layer).scale) == (
            12.0,
            0.22,
            0.4,
        )
        assert program.spec.head.multiplier == 1 / 1.3

    @pytest.mark.parametrize("scaling", [1.0, 3, 8.0, 13, 16.0, 0.3, 1.3, 49.0, 1e-3, 1 / 3, 12345.678])
    def test_a_divisor_round_trips_to_the_bit(self, checkpoint: Checkpoint, scaling: float) -> None:
        spec = self.family.read_config({**checkpoint.config, "logits_scaling": scaling})
        written = self.family.write_config(spec, "F32")
        assert written["logits_scaling"] == scaling
        assert self.family.read_config(written) == spec

    @pytest.mark.parametrize("key", ["attention_multiplier", "logits_scaling"])
    @pytest.mark.parametrize("value", [0, 1e-300, 1e300])
    def test_what_has_no_inverse_is_named(self, checkpoint: Checkpoint, key: str, value: float) -> None:
        with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is "):
            self.family.read_config({**checkpoint.config, key: value})

    def test_the_usual_scale_is_none(self, checkpoint: Checkpoint) -> None:
        spec = self.family.read_config({**checkpoint.config, "attention_multiplier": 0.25})
        assert attention_of(spec.layers[0]).scale is None
        assert self.family.write_config(spec, "F32")["attention_multiplier"] == 0.25


class TestGraniteTiedWithBiases(TestGranite):
    overrides: ClassVar[dict[str, Any]] = {
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "embedding_multiplier": 2.0,
    }

    def test_multipliers(self, program: Program) -> None:
        assert program.spec.embedding_multiplier == 2.0
        assert program.spec.head.tied
