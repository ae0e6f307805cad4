from __future__ import annotations

from typing import Any, ClassVar

from support.orphans import OrphanContract
from support.rotations import PUBLISHED, SCALINGS, RotaryContract


class TestExaone(OrphanContract, RotaryContract):
    name = "exaone"
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    )
    numbers = ("layer_norm_epsilon",)
    flags = ("tie_word_embeddings",)
    words = ("activation_function",)
    scalings = (*PUBLISHED, "llama3")
    required = ("hidden_size", "num_layers")
    defaults: ClassVar[dict[str, Any]] = {
        "num_key_value_heads": 4,
        "intermediate_size": 256,
        "activation_function": "silu",
        "max_position_embeddings": 2048,
        "layer_norm_epsilon": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
    }


class TestExaoneTiedWithLlama3Scaling(TestExaone):
    """EXAONE 3.5 2.4B."""

    overrides: ClassVar[dict[str, Any]] = {"tie_word_embeddings": True, "rope_scaling": SCALINGS["llama3"]}
