from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from kept.errors import CheckpointError
from kept.ir.spec import Rope
from kept.ir.tensors import InMemory, Lazy, zeros
from support.conversions import EXACT
from support.logits import logits, some_tokens, worst
from support.models import frequencies
from support.rotations import StockRotaryContract, unrotated
from support.specs import attention_of, mlp_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program

SIDE_BY_SIDE = (
    r"^every layer's parallel: attention and MLP read the same stream, the target has no parallel residual; no exact"
)


class TestGptNeox(StockRotaryContract):
    """Pythia: side by side, two norms, biases, a quarter of each head turns."""

    name = "gpt_neox"
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    )
    numbers = ("layer_norm_eps",)
    flags = ("attention_bias", "use_parallel_residual", "tie_word_embeddings")
    words = ("hidden_act",)
    theta_key = "rotary_emb_base"
    partial_key = "rotary_pct"
    becomes_llama = SIDE_BY_SIDE

    stated: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 1.0}

    def test_spec(self, program: Program) -> None:
        layer = program.spec.layers[0]
        assert layer.parallel
        assert layer.mlp_norm is not None
        assert (attention_of(layer).fused, attention_of(layer).kv_heads, attention_of(layer).rope) == (
            True,
            4,
            Rope(1000.0, 4),
        )
        assert (mlp_of(layer).gated, mlp_of(layer).activation) == (False, "gelu")
        assert not program.spec.head.bias

    def test_query_key_and_value_stand_apart(self, program: Program, checkpoint: Checkpoint) -> None:
        """Stored head by head as query, key, value; held as all queries, all keys, all values."""
        for kind, shape in (("weight", (4, 3, 16, 64)), ("bias", (4, 3, 16))):
            stored = checkpoint.tensors[f"gpt_neox.layers.1.attention.query_key_value.{kind}"].read()
            held = program.weights[f"layers.1.mixer.qkv.{kind}"].read()
            assert torch.equal(held, stored.view(shape).transpose(0, 1).flatten(0, 2))

    def test_buffers_of_old_versions_are_left_out(self, program: Program, checkpoint: Checkpoint) -> None:
        at = "gpt_neox.layers.0.attention"
        old = {f"{at}.bias": (1, 1, 128, 128), f"{at}.masked_bias": ()}
        more: dict[str, Lazy] = {name: zeros(shape, "F32") for name, shape in old.items()}
        rope = attention_of(program.spec.layers[0]).rope
        assert rope is not None
        value = frequencies(rope.theta, rope.dims)
        more[f"{at}.rotary_emb.inv_freq"] = InMemory(tuple(value.shape), "F32", value)
        assert self.family.read(checkpoint.config, {**checkpoint.tensors, **more}).weights == program.weights

    def test_a_base_on_which_versions_disagree_is_refused(self, checkpoint: Checkpoint) -> None:
        """transformers 4 takes `rope_theta`, 5 takes `rotary_emb_base`."""
        plain = unrotated(checkpoint.config)
        for keys in ({"rope_theta": 500.0}, {"rope_theta": 500.0, "rotary_emb_base": 10_000}):
            with pytest.raises(CheckpointError, match=r"^config\.json: rope_theta is 500\.0, it must be 10000, as"):
                self.family.read_config({**plain, **keys})
        spec = self.family.read_config({**plain, "rope_theta": 500, "rotary_emb_base": 500})
        assert attention_of(spec.layers[0]).rope == Rope(500.0, 4)


class TestGptNeoxInSequence(TestGptNeox):
    overrides: ClassVar[dict[str, Any]] = {
        "use_parallel_residual": False,
        "rotary_pct": 0.5,
        "hidden_act": "gelu_new",
        "tie_word_embeddings": True,
    }
    becomes_llama = EXACT

    def test_spec(self, program: Program) -> None:
        layer = program.spec.layers[0]
        assert not layer.parallel
        assert (attention_of(layer).rope, mlp_of(layer).activation) == (Rope(1000.0, 8), "gelu_tanh")
        assert program.spec.head.tied


class TestGptNeoxWithoutBiases(TestGptNeox):
    overrides: ClassVar[dict[str, Any]] = {"attention_bias": False, "rotary_pct": 1.0}

    def test_spec(self, program: Program) -> None:
        assert attention_of(program.spec.layers[0]).rope == Rope(1000.0, 16)
        assert not any("mixer." in name for name in program.weights if name.endswith(".bias"))
        assert mlp_of(program.spec.layers[0]).up_bias

    def test_query_key_and_value_stand_apart(self, program: Program, checkpoint: Checkpoint) -> None:
        """Negative control: read as three blocks, it would be another model."""
        name = "layers.1.mixer.qkv.weight"
        blocks = checkpoint.tensors["gpt_neox.layers.1.attention.query_key_value.weight"]
        wrong = program.updated(program.spec, {name: blocks})
        assert worst(logits(wrong, some_tokens()), logits(program, some_tokens())) > 0.1
