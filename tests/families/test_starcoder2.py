from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from support.rotations import StockRotaryContract

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
        assert (layer.mixer_norm.kind, layer.mixer_norm.bias) == ("layer", True)
        assert (layer.mlp.gated, layer.mlp.activation) == (False, "gelu_tanh")
        assert program.spec.head.tied


class TestStarcoder2WithAWindowAndAHead(TestStarcoder2):
    overrides: ClassVar[dict[str, Any]] = {"sliding_window": 9, "tie_word_embeddings": False, "hidden_act": "gelu"}
    becomes_llama = r"layers\.\d\.mixer: a sliding window of 9 is active.*\(--context 9\)"

    def test_spec(self, program: Program) -> None:
        assert program.spec.layers[2].mixer.window == 9
        assert program.spec.layers[2].mlp.activation == "gelu"
        assert not program.spec.head.tied


class TestStarcoder2WithoutBiases(TestStarcoder2):
    overrides: ClassVar[dict[str, Any]] = {"use_bias": False}

    def test_spec(self, program: Program) -> None:
        names = [name for name in program.weights if name.endswith(".bias")]
        assert all("norm" in name for name in names)
        assert "final_norm.bias" in names
