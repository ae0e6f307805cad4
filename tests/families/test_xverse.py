from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from kept.families.xverse import XVERSE
from kept.ir.spec import Dynamic
from support.orphans import OrphanContract
from support.rotations import PUBLISHED, RotaryContract
from support.specs import attention_of
from support.tiny import TINY

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint


class TestXverse(OrphanContract, RotaryContract):
    name = "xverse"
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
    scalings = PUBLISHED
    defaults: ClassVar[dict[str, Any]] = {
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    }

    def test_what_is_not_read_is_named(self, checkpoint: Checkpoint) -> None:
        for key, value in (("quantization_bit", 8), ("num_experts", 64)):
            with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is {value}, it must be "):
                self.family.read_config({**checkpoint.config, key: value})


def test_a_long_context_must_say_how_it_rotates() -> None:
    """XVERSE-13B-256K's config leaves out what its code has; with a default it would be another model."""
    silent = {key: value for key, value in TINY["xverse"].items() if key != "rope_theta"}
    assert XVERSE.read_config({**silent, "max_position_embeddings": 16384}).context == 16384
    with pytest.raises(CheckpointError, match=r'^config\.json: has no rope_theta.*"rope_theta": 500000'):
        XVERSE.read_config({**silent, "max_position_embeddings": 32768})
    said = {"rope_theta": 500000, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    rope = attention_of(XVERSE.read_config({**silent, "max_position_embeddings": 32768, **said}).layers[0]).rope
    assert rope is not None
    assert (rope.theta, rope.scaling) == (500_000.0, Dynamic(2.0, 32768))
