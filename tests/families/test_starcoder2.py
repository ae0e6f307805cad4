from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from support.rotations import StockRotaryContract
from support.specs import attention_of, mixer_norm_of, mlp_of

if TYPE_CHECKING:
    from kept.ir.program import Program


class TestStarcoder2(StockRotaryContract):
    name = "starcoder2"
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "sliding_window",
    )
    numbers = ("norm_epsilon",)
    flags = ("use_bias", "tie_word_embeddings")
    words = ("hidden_act",)

    def test_spec(self, program: Program) -> None:
        layer = program.spec.layers[0]
        assert (mixer_norm_of(layer).kind, mixer_norm_of(layer).bias) == ("layer", True)
        assert (mlp_of(layer).gated, mlp_of(layer).activation) == (False, "gelu_tanh")
        assert program.spec.head.tied


class TestStarcoder2WithAWindowAndAHead(TestStarcoder2):
    overrides: ClassVar[dict[str, Any]] = {"sliding_window": 9, "tie_word_embeddings": False, "hidden_act": "gelu"}
    becomes_llama = r"layers\.\d\.mixer: a sliding window of 9 is active.*\(--context 9\)"

    def test_spec(self, program: Program) -> None:
        assert attention_of(program.spec.layers[2]).window == 9
        assert mlp_of(program.spec.layers[2]).activation == "gelu"
        assert not program.spec.head.tied


class TestStarcoder2WithoutBiases(TestStarcoder2):
    overrides: ClassVar[dict[str, Any]] = {"use_bias": False}

    def test_spec(self, program: Program) -> None:
        names = [name for name in program.weights if name.endswith(".bias")]
        assert all("norm" in name for name in names)
        assert "final_norm.bias" in names
