from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from kept.ir.spec import Rope
from support.logits import logits, some_tokens, worst
from support.rotations import StockRotaryContract
from support.specs import attention_of, mlp_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestFalcon(StockRotaryContract):
    """Falcon-40B: two query heads share a key and a value, two norms."""

    name = "falcon"
    sizes = (
        "vocab_size",
        "hidden_size",
        "ffn_hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_kv_heads",
        "num_ln_in_parallel_attn",
        "max_position_embeddings",
    )
    numbers = ("layer_norm_epsilon",)
    flags = ("bias", "new_decoder_architecture", "parallel_attn", "tie_word_embeddings")
    words = ("activation",)
    becomes_llama = r"^every layer's parallel: attention and MLP read the same stream, the target has no parallel"

    def test_spec(self, program: Program, checkpoint: Checkpoint) -> None:
        layer = program.spec.layers[0]
        assert layer.parallel
        assert layer.mlp_norm is not None
        assert (attention_of(layer).fused, attention_of(layer).kv_heads, attention_of(layer).rope) == (
            True,
            2,
            Rope(1000.0, 16),
        )
        assert (mlp_of(layer).gated, mlp_of(layer).activation, mlp_of(layer).size) == (False, "gelu", 256)
        assert "transformer.h.0.ln_mlp.weight" in checkpoint.tensors

    def test_heads_stand_in_groups(self, program: Program, checkpoint: Checkpoint) -> None:
        """Negative control: read as three blocks, it would be another model."""
        stored = checkpoint.tensors["transformer.h.1.self_attention.query_key_value.weight"]
        wrong = program.updated(program.spec, {"layers.1.mixer.qkv.weight": stored})
        assert worst(logits(wrong, some_tokens()), logits(program, some_tokens())) > 0.1

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"alibi": True}, "alibi is True, it must be False: ALiBi is not supported"),
            ({"parallel_attn": False}, "parallel_attn is False, it must be true: "),
            ({"new_decoder_architecture": False, "multi_query": False}, "multi_query is False, it must be true: "),
            (
                {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 3},
                "num_ln_in_parallel_attn is 3, it must be a positive integer of at most 2",
            ),
            (
                {"new_decoder_architecture": False, "num_ln_in_parallel_attn": 2},
                "num_ln_in_parallel_attn is 2, it must be 1 without new_decoder_architecture",
            ),
            ({"new_decoder_architecture": True, "num_kv_heads": 3}, "num_kv_heads is 3, it must be a divisor of the 4"),
        ],
    )
    def test_other_forms_are_refused(self, checkpoint: Checkpoint, keys: dict[str, Any], message: str) -> None:
        with pytest.raises(CheckpointError) as error:
            self.family.read_config({**checkpoint.config, **keys})
        assert str(error.value).startswith(f"config.json: {message}")


class TestFalconWithOneNorm(TestFalcon):
    """Falcon-11B, and biases."""

    overrides: ClassVar[dict[str, Any]] = {
        "num_ln_in_parallel_attn": 1,
        "bias": True,
        "tie_word_embeddings": False,
        "ffn_hidden_size": 96,
    }
    becomes_llama = r"^every layer's parallel: .* read the same stream"

    def test_spec(self, program: Program, checkpoint: Checkpoint) -> None:
        layer = program.spec.layers[0]
        assert layer.mlp_norm is None
        assert attention_of(layer).q_bias
        assert mlp_of(layer).down_bias
        assert not program.spec.head.tied
        assert "transformer.h.0.input_layernorm.weight" in checkpoint.tensors


class TestFalconOfOneKey(TestFalcon):
    """Falcon-7B: all query heads share one key and one value; `num_kv_heads` says otherwise and counts for nothing."""

    overrides: ClassVar[dict[str, Any]] = {"new_decoder_architecture": False, "num_kv_heads": 4}
    sizes = tuple(key for key in TestFalcon.sizes if key != "num_kv_heads")  # type: ignore[assignment]
    becomes_llama = TestFalconWithOneNorm.becomes_llama

    def test_spec(self, program: Program, checkpoint: Checkpoint) -> None:
        layer = program.spec.layers[0]
        assert (layer.mlp_norm, attention_of(layer).kv_heads) == (None, 1)
        assert not self.family.write_config(program.spec, "F32")["new_decoder_architecture"]
        assert "transformer.h.0.input_layernorm.weight" in checkpoint.tensors

    def test_heads_stand_in_groups(self, program: Program, checkpoint: Checkpoint) -> None:
        """There is one group, so that its rows are the slot's."""
        stored = checkpoint.tensors["transformer.h.1.self_attention.query_key_value.weight"]
        assert program.weights["layers.1.mixer.qkv.weight"] == stored
