from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from kept.errors import CheckpointError
from kept.families.llama import LLAMA
from kept.ir.tensors import InMemory
from support.models import frequencies
from support.rotations import StockRotaryContract
from support.specs import attention_of, mixer_norm_of, mlp_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestLlama(StockRotaryContract):
    name = "llama"
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
    )
    numbers = ("rms_norm_eps",)
    flags = ("attention_bias", "mlp_bias", "tie_word_embeddings")
    words = ("hidden_act",)

    def test_spec(self, program: Program) -> None:
        layer = program.spec.layers[0]
        assert (attention_of(layer).heads, attention_of(layer).kv_heads, attention_of(layer).head_dim) == (4, 2, 16)
        assert mixer_norm_of(layer).kind == "rms"
        assert not mixer_norm_of(layer).bias
        assert mlp_of(layer).gated

    def test_heads_must_be_shared_evenly(self, checkpoint: Checkpoint) -> None:
        with pytest.raises(
            CheckpointError, match="num_key_value_heads is 3, it must be a divisor of the 4 query heads"
        ):
            self.family.read_config({**checkpoint.config, "num_key_value_heads": 3})

    def test_computed_frequencies_in_old_files_are_ignored(self, checkpoint: Checkpoint) -> None:
        head_dim = attention_of(self.family.read_config(checkpoint.config).layers[0]).head_dim
        value = frequencies(dims=head_dim)
        old = {"model.layers.0.self_attn.rotary_emb.inv_freq": InMemory(tuple(value.shape), "F32", value)}
        assert self.family.read(checkpoint.config, {**checkpoint.tensors, **old}).spec.depth == 3


class TestLlamaInBfloat16(TestLlama):
    dtype = torch.bfloat16


class TestLlamaWithBiases(TestLlama):
    overrides: ClassVar[dict[str, Any]] = {"attention_bias": True, "mlp_bias": True}


class TestLlamaWithWideHeadsAndATiedHead(TestLlama):
    """Heads of 16 in a width of 48, and no matrix of its own for the head."""

    overrides: ClassVar[dict[str, Any]] = {"head_dim": 16, "hidden_size": 48, "tie_word_embeddings": True}

    def test_a_stored_head_is_not_read_when_it_is_tied(self, checkpoint: Checkpoint) -> None:
        more = {"lm_head.weight": checkpoint.tensors["model.embed_tokens.weight"]}
        assert "head.weight" not in self.family.read(checkpoint.config, {**checkpoint.tensors, **more}).weights


class TestLlamaWithScaledRotation(TestLlama):
    """Trained for 16 positions and stretched: the tokens of the tests reach beyond them."""

    overrides: ClassVar[dict[str, Any]] = {
        "rope_theta": None,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    }


@pytest.mark.parametrize("depth", [1001, 10**9])
def test_a_damaged_depth_costs_nothing(depth: int) -> None:
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        LLAMA.read_config({**sizes, "num_hidden_layers": depth})


def test_true_is_no_token() -> None:
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    with pytest.raises(CheckpointError, match="eos_token_id"):
        LLAMA.read_config({**sizes, "num_hidden_layers": 1, "eos_token_id": [1, True]})
