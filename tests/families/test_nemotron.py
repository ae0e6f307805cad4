from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from support.contract import DECODER_SIZES
from support.rotations import StockRotaryContract

if TYPE_CHECKING:
    from kept.ir.program import Program


class TestNemotron(StockRotaryContract):
    """Half of each head turns, as the stock class assumes where nothing is said."""

    name = "nemotron"
    sizes = (*DECODER_SIZES, "head_dim")
    numbers = ("norm_eps",)
    flags = ("attention_bias", "mlp_bias", "tie_word_embeddings")
    words = ("hidden_act",)

    stated: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 1.0}
    turning = 8

    def test_spec(self, program: Program) -> None:
        layer = program.spec.layers[0]
        assert layer.mixer.rope is not None
        assert layer.mixer.rope.dims == self.turning
        assert (layer.mixer_norm.offset, layer.mixer_norm.bias) == (1.0, True)
        assert (layer.mlp.gated, layer.mlp.activation) == (False, "relu2")


class TestNemotronTiedWithBiasesAndNarrowHeads(TestNemotron):
    overrides: ClassVar[dict[str, Any]] = {
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "hidden_size": 128,
        "intermediate_size": 128,
        "head_dim": 16,
        "partial_rotary_factor": 0.75,
    }
    turning = 12
