from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from kept.families.minicpm import MINICPM
from kept.ir.spec import LongRope
from support.orphans import OrphanContract
from support.rotations import PUBLISHED, RotaryContract
from support.specs import attention_of
from support.tiny import TINY

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestMiniCpm(OrphanContract, RotaryContract):
    """The reference is stock Granite, which has the same multipliers."""

    name = "minicpm"
    scalings = (*PUBLISHED, "longrope")
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    )
    numbers = ("rms_norm_eps", "scale_emb", "scale_depth", "dim_model_base")
    flags = ("attention_bias", "tie_word_embeddings")
    words = ("hidden_act",)
    defaults: ClassVar[dict[str, Any]] = {
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "attention_bias": False,
        "scale_emb": 1,
        "scale_depth": 1,
        "dim_model_base": 1,
        "tie_word_embeddings": True,
    }

    def test_multipliers(self, program: Program) -> None:
        assert program.spec.embedding_multiplier == 3.0
        assert {layer.residual_multiplier for layer in program.spec.layers} == {1.4 / math.sqrt(3)}
        assert program.spec.head.multiplier == 48 / 64
        written = self.family.write_config(program.spec, "F32")
        assert (written["scale_emb"], written["scale_depth"], written["dim_model_base"]) == (3.0, 1.4, 48.0)

    def test_what_is_not_read_is_named(self, checkpoint: Checkpoint) -> None:
        for key, value in (
            ("num_experts", 8),
            ("pretraining_tp", 2),
            ("sparse_config", {"topk": 64}),
            ("scale_depth", 0),
            ("dim_model_base", 0),
        ):
            with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is .*, it must be "):
                self.family.read_config({**checkpoint.config, key: value})


LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 32,
    "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}


def longrope(context: int, **changes: object) -> LongRope:
    """Return the LongRoPE scaling of a config with the given context."""
    config = {**TINY["minicpm"], "max_position_embeddings": context, "rope_scaling": {**LONGROPE, **changes}}
    rope = attention_of(MINICPM.read_config(config).layers[0]).rope
    assert rope is not None
    assert isinstance(rope.scaling, LongRope)
    return rope.scaling


def test_a_long_context_has_the_long_divisors_at_every_length() -> None:
    """MiniCPM's code computes the table for the whole context at once, so it always uses the long divisors."""
    found = longrope(128)
    assert found.short_factor == found.long_factor == tuple(LONGROPE["long_factor"])  # type: ignore[arg-type]
    assert found.temperature == pytest.approx(math.sqrt(1 + math.log(4) / math.log(32)))
    assert longrope(32).short_factor == tuple(LONGROPE["short_factor"])  # type: ignore[arg-type]
    assert longrope(32).temperature == 1
    assert longrope(16).temperature == pytest.approx(math.sqrt(1 - math.log(2) / math.log(32)))  # may be below 1


def test_what_the_code_computes_itself_cannot_be_stated_otherwise() -> None:
    for key, value in (("factor", 2.0), ("attention_factor", 1.0)):
        with pytest.raises(CheckpointError, match=rf"{key} is {value}, it must be .*own code computes"):
            longrope(128, **{key: value})
    assert longrope(128, factor=4.0) == longrope(128)
    outside = {**TINY["minicpm"], "rope_scaling": LONGROPE, "original_max_position_embeddings": 64}
    with pytest.raises(CheckpointError, match="original_max_position_embeddings is 64, it must be 32"):
        MINICPM.read_config(outside)


class TestMiniCpmTied(TestMiniCpm):
    """MiniCPM 2B."""

    overrides: ClassVar[dict[str, Any]] = {"tie_word_embeddings": True, "attention_bias": True}


@pytest.mark.parametrize("depth", [1, 7, 24, 32, 40, 52, 62])
@pytest.mark.parametrize("scale", [0.1, 1, 1.4, math.pi, 1 / 3])
def test_multipliers_round_trip_to_the_bit(depth: int, scale: float) -> None:
    """A product with a root and a division by it are not each other's inverse in floating point."""
    for width in (64, 1536, 2304, 4096):
        sizes = {"num_hidden_layers": depth, "hidden_size": width, "scale_depth": scale, "dim_model_base": 256 * scale}
        spec = MINICPM.read_config({**TINY["minicpm"], **sizes})
        assert MINICPM.read_config(MINICPM.write_config(spec, "F32")) == spec
