from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from support.orphans import OrphanContract
from support.rotations import PUBLISHED, RotaryContract
from support.specs import attention_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestDeci(OrphanContract, RotaryContract):
    """One, four and two key-value heads."""

    name = "deci"
    scalings = PUBLISHED
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    )
    numbers = ("rms_norm_eps",)
    flags = ("tie_word_embeddings",)
    words = ("hidden_act",)
    required = ("hidden_size", "num_hidden_layers", "num_key_value_heads_per_layer")
    defaults: ClassVar[dict[str, Any]] = {
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    }

    def test_layers_differ(self, program: Program) -> None:
        heads = self.overrides.get("num_key_value_heads_per_layer", [1, 4, 2])
        assert [attention_of(layer).kv_heads for layer in program.spec.layers] == heads
        shapes = [program.weights[f"layers.{i}.mixer.k.weight"].shape for i in range(3)]
        assert shapes == [(16 * count, 64) for count in heads]
        assert self.family.write_config(program.spec, "F32")["num_key_value_heads_per_layer"] == heads

    @pytest.mark.parametrize("value", [2, "2", [2, 2], [2, 2, 2, 2], [1, 2, 3], [1, 2, 0], [1, 2, True], [1, 2, "2"]])
    def test_wrong_lists_are_named(self, checkpoint: Checkpoint, value: object) -> None:
        wanted = r"^config\.json: num_key_value_heads_per_layer is .*, it must be a list of 3 divisors of the 4 query"
        with pytest.raises(CheckpointError, match=wanted):
            self.family.read_config({**checkpoint.config, "num_key_value_heads_per_layer": value})

    def test_biases_are_not_this_family_s(self, checkpoint: Checkpoint) -> None:
        with pytest.raises(CheckpointError, match=r"attention_bias is True, .*the family's own code never has"):
            self.family.read_config({**checkpoint.config, "attention_bias": True})


class TestDeciUniform(TestDeci):
    overrides: ClassVar[dict[str, Any]] = {"num_key_value_heads_per_layer": [2, 2, 2], "tie_word_embeddings": True}
