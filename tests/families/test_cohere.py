from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from kept.ir.spec import Rope
from support.contract import DECODER_SIZES
from support.rotations import StockRotaryContract
from support.specs import attention_of, mlp_of

if TYPE_CHECKING:
    from kept.ir.program import Program


class TestCohere(StockRotaryContract):
    """Command R: a tied head whose logits have a factor."""

    name = "cohere"
    sizes = DECODER_SIZES
    numbers = ("layer_norm_eps", "logit_scale")
    flags = ("use_qk_norm", "attention_bias", "tie_word_embeddings")
    words = ("hidden_act",)
    theta = 500_000.0
    becomes_llama = r"^every layer's parallel: .* read the same stream"

    def test_spec(self, program: Program) -> None:
        layer = program.spec.layers[0]
        assert layer.parallel
        assert layer.mlp_norm is None
        assert attention_of(layer).rope == Rope(1000.0, 16, interleaved=True)
        assert (program.spec.head.tied, program.spec.head.multiplier) == (True, 0.75)
        assert not any(name.endswith(".bias") for name in program.weights)


class TestCohereWithHeadNorms(TestCohere):
    """Command R+: each head has its own gain."""

    overrides: ClassVar[dict[str, Any]] = {
        "use_qk_norm": True,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "logit_scale": 1.25,
    }
    becomes_llama = r"mixer\.attention\.qk_norm: queries and keys are normalised"

    def test_spec(self, program: Program) -> None:
        assert program.weights["layers.1.mixer.q_norm.gain"].shape == (4, 16)
        assert program.weights["layers.1.mixer.k_norm.gain"].shape == (2, 16)
        assert program.spec.head.multiplier == 1.25
        assert attention_of(program.spec.layers[0]).o_bias
        assert not mlp_of(program.spec.layers[0]).up_bias
