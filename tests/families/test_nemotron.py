from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from support.contract import DECODER_SIZES
from support.rotations import StockRotaryContract
from support.specs import attention_of, mixer_norm_of, mlp_of, rope_of

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
        assert attention_of(layer).rope is not None
        assert rope_of(layer).dims == self.turning
        assert (mixer_norm_of(layer).offset, mixer_norm_of(layer).bias) == (1.0, True)
        assert (mlp_of(layer).gated, mlp_of(layer).activation) == (False, "relu2")


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
