from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from support.contract import DECODER_SIZES
from support.rotations import StockRotaryContract
from support.specs import attention_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


QK_NORM = (
    r"^every layer's mixer\.attention\.qk_norm: queries and keys are normalised, which no weights of the target can do"
)


class TestQwen3(StockRotaryContract):
    name = "qwen3"
    becomes_llama = QK_NORM
    sizes = (*DECODER_SIZES, "head_dim")
    numbers = ("rms_norm_eps",)
    flags = ("attention_bias", "use_sliding_window", "tie_word_embeddings")
    words = ("hidden_act",)
    lenient = ("num_key_value_heads",)  # absent, the stock class says 32, we say as many as queries

    def test_all_heads_share_one_gain(self, program: Program) -> None:
        assert program.weights["layers.1.mixer.q_norm.gain"].shape == (16,)
        assert program.weights["layers.1.mixer.k_norm.gain"].shape == (16,)

    def test_heads_of_128(self, checkpoint: Checkpoint) -> None:
        config = {k: v for k, v in checkpoint.config.items() if k != "head_dim"}
        assert attention_of(self.family.read_config(config).layers[0]).head_dim == 128


class TestQwen3WithBiasesAndWindows(TestQwen3):
    overrides: ClassVar[dict[str, Any]] = {
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
        "num_key_value_heads": 1,
    }

    def test_windows_begin_at_a_layer(self, program: Program) -> None:
        assert [attention_of(layer).window for layer in program.spec.layers] == [None, 6, 6]
