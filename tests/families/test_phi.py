from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from kept.ir.spec import Rope
from support.contract import DECODER_SIZES
from support.rotations import StockRotaryContract
from support.specs import attention_of, mlp_of

if TYPE_CHECKING:
    from kept.ir.program import Program


class TestPhi(StockRotaryContract):
    """Phi-2: half of each head turns where nothing is said."""

    name = "phi"
    sizes = DECODER_SIZES
    numbers = ("layer_norm_eps",)
    flags = ("qk_layernorm", "tie_word_embeddings")
    words = ("hidden_act",)
    becomes_llama = r"^every layer's parallel: .* read the same stream"

    stated: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 1.0}

    def test_spec(self, program: Program) -> None:
        layer = program.spec.layers[0]
        assert layer.parallel
        assert layer.mlp_norm is None
        assert attention_of(layer).rope == Rope(1000.0, 8)
        assert (mlp_of(layer).gated, mlp_of(layer).activation) == (False, "gelu_tanh")

    def test_everything_has_a_bias(self, program: Program) -> None:
        matrices = {name for name in program.weights if name.endswith((".weight", ".gain"))} - {"embedding.weight"}
        biases = {name.rsplit(".", 1)[0] for name in program.weights if name.endswith(".bias")}
        assert biases - {"head"} == {name.rsplit(".", 1)[0] for name in matrices} - {"head"}
        assert program.spec.head.bias


class TestPhiWithHeadNorms(TestPhi):
    """The norms of queries and keys have a gain and a bias that all heads share; the head borrows the embedding."""

    overrides: ClassVar[dict[str, Any]] = {
        "qk_layernorm": True,
        "partial_rotary_factor": 0.25,
        "tie_word_embeddings": True,
        "hidden_act": "gelu",
    }
    becomes_llama = r"mixer\.attention\.qk_norm: queries and keys are normalised"

    def test_spec(self, program: Program) -> None:
        assert attention_of(program.spec.layers[0]).rope == Rope(1000.0, 4)
        assert program.weights["layers.2.mixer.k_norm.bias"].shape == (16,)
        assert program.spec.head.tied
