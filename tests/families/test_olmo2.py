from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from support.contract import DECODER_SIZES
from support.rotations import StockRotaryContract
from support.specs import mixer_norm_of

if TYPE_CHECKING:
    from kept.ir.program import Program


class TestOlmo2(StockRotaryContract):
    name = "olmo2"
    becomes_llama = r"qk_norm: queries and keys are normalised.*post_norm: a norm stands behind attention and MLP"
    sizes = (*DECODER_SIZES, "head_dim")
    numbers = ("rms_norm_eps",)
    flags = ("attention_bias", "tie_word_embeddings")
    words = ("hidden_act",)

    def test_norms(self, program: Program) -> None:
        """Behind the parts, and one gain over all heads."""
        layer = program.spec.layers[0]
        assert mixer_norm_of(layer).kind == "none"
        assert layer.mixer_post_norm is not None
        assert program.weights["layers.1.mixer.q_norm.gain"].shape == (64,)
        assert program.weights["layers.1.mixer.k_norm.gain"].shape == (32,)


class TestOlmo2TiedWithBiases(TestOlmo2):
    overrides: ClassVar[dict[str, Any]] = {
        "attention_bias": True,
        "tie_word_embeddings": True,
        "hidden_size": 48,
        "head_dim": 16,
    }
