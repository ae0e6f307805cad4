from __future__ import annotations

from typing import Any, ClassVar

import torch

from orphans import OrphanContract
from rotations import PUBLISHED, RotaryContract


class TestAquila(OrphanContract, RotaryContract):
    name = "aquila"
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
    flags = ("tie_word_embeddings",)
    words = ("hidden_act",)
    defaults: ClassVar[dict[str, Any]] = {
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    }


class TestAquilaTiedInBfloat16(TestAquila):
    overrides: ClassVar[dict[str, Any]] = {"tie_word_embeddings": True, "num_key_value_heads": 4}
    dtype = torch.bfloat16
