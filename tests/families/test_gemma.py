from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from support.contract import DECODER_SIZES
from support.rotations import StockRotaryContract
from support.specs import attention_of, mixer_norm_of, mlp_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestGemma(StockRotaryContract):
    name = "gemma"
    sizes = (*DECODER_SIZES, "head_dim")
    numbers = ("rms_norm_eps",)
    flags = ("attention_bias", "tie_word_embeddings")
    words = ("hidden_act",)
    lenient = ("num_key_value_heads",)  # absent, the stock class says 16, we say as many as queries

    def test_gains_and_embeddings(self, program: Program) -> None:
        assert program.spec.final_norm.offset == mixer_norm_of(program.spec.layers[0]).offset == 1.0
        assert program.spec.embedding_multiplier == program.spec.width**0.5
        assert program.spec.head.tied

    def test_heads_of_256(self, checkpoint: Checkpoint) -> None:
        config = {k: v for k, v in checkpoint.config.items() if k != "head_dim"}
        assert attention_of(self.family.read_config(config).layers[0]).head_dim == 256

    def test_gelu_is_its_tanh_form(self, checkpoint: Checkpoint) -> None:
        """The first releases say `gelu`; a later key says what was meant."""

        def activation(**keys: object) -> str:
            return mlp_of(self.family.read_config({**checkpoint.config, **keys}).layers[0]).activation

        assert activation(hidden_act="gelu", hidden_activation=None) == "gelu_tanh"
        assert activation(hidden_act="gelu", hidden_activation="gelu_pytorch_tanh") == "gelu_tanh"
        assert activation(hidden_act="silu", hidden_activation="silu") == "silu"

    @pytest.mark.parametrize(
        ("key", "value"),
        [("hidden_activation", "relu"), ("hidden_activation", 3), ("use_bidirectional_attention", True)],
    )
    def test_what_would_be_another_model_is_named(self, checkpoint: Checkpoint, key: str, value: object) -> None:
        with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is "):
            self.family.read_config({**checkpoint.config, key: value})


class TestGemmaWithBiasesAndAHead(TestGemma):
    overrides: ClassVar[dict[str, Any]] = {
        "attention_bias": True,
        "tie_word_embeddings": False,
        "hidden_size": 48,
        "hidden_act": "silu",
    }

    def test_gains_and_embeddings(self, program: Program) -> None:
        assert program.spec.embedding_multiplier == 48**0.5
        assert not program.spec.head.tied

    def test_gelu_is_its_tanh_form(self, checkpoint: Checkpoint) -> None:
        spec = self.family.read_config({**checkpoint.config, "hidden_act": "gelu", "hidden_activation": None})
        assert mlp_of(spec.layers[0]).activation == "gelu_tanh"
