from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from kept.ir.spec import Dynamic
from support.orphans import OrphanContract
from support.rotations import PUBLISHED, RotaryContract
from support.specs import attention_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestInternLm2(OrphanContract, RotaryContract):
    """Two groups of two query heads, their key and their value."""

    name = "internlm2"
    scalings = PUBLISHED
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    )
    numbers = ("rms_norm_eps",)
    flags = ("bias", "tie_word_embeddings")
    words = ("hidden_act",)
    defaults: ClassVar[dict[str, Any]] = {
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "bias": True,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    }

    def test_groups_are_taken_apart(self, program: Program, checkpoint: Checkpoint) -> None:
        """Rows of the first group's key stand behind its two queries, and in the slot behind all four."""
        stored = checkpoint.tensors["model.layers.0.attention.wqkv.weight"].read()
        fused = program.weights["layers.0.mixer.qkv.weight"].read()
        assert torch.equal(fused[64:80], stored[32:48])
        assert not torch.equal(fused[64:80], stored[64:80])


class TestInternLm2WithBiasesAndGrowth(TestInternLm2):
    overrides: ClassVar[dict[str, Any]] = {"bias": True, "rope_scaling": {"type": "dynamic", "factor": 2.0}}

    def test_spec(self, program: Program) -> None:
        rope = attention_of(program.spec.layers[0]).rope
        assert rope is not None
        assert rope.scaling == Dynamic(2.0, 128)
        assert attention_of(program.spec.layers[0]).o_bias


class TestInternLm2OneGroupAHead(TestInternLm2):
    overrides: ClassVar[dict[str, Any]] = {"num_key_value_heads": 4}

    def test_groups_are_taken_apart(self, program: Program, checkpoint: Checkpoint) -> None:
        stored = checkpoint.tensors["model.layers.0.attention.wqkv.weight"].read()
        fused = program.weights["layers.0.mixer.qkv.weight"].read()
        assert torch.equal(fused[64:80], stored[16:32])
