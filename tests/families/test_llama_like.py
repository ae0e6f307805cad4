"""Families that are Llama under other names: the same contract, and the biases and defaults of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from kept.ir.spec import Llama3
from support.contract import DECODER_SIZES, StockContract
from support.rotations import StockRotaryContract
from support.specs import attention_of, mlp_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program

SIZES = (*DECODER_SIZES, "head_dim")


def biased(program: Program) -> str:
    """The projections of the first layer that have a bias."""
    return "".join(name[0] for name in "qkvo" if getattr(attention_of(program.spec.layers[0]), f"{name}_bias"))


class LlamaLikeContract(StockRotaryContract):
    sizes = SIZES
    numbers = ("rms_norm_eps",)
    words = ("hidden_act",)


class TestArcee(LlamaLikeContract):
    name = "arcee"
    flags = ("attention_bias", "mlp_bias", "tie_word_embeddings")
    overrides: ClassVar[dict[str, Any]] = {"attention_bias": True, "mlp_bias": True}

    def test_a_plain_mlp(self, program: Program) -> None:
        assert (mlp_of(program.spec.layers[0]).gated, mlp_of(program.spec.layers[0]).activation) == (False, "relu2")


class TestJais2(LlamaLikeContract):
    name = "jais2"
    numbers = ("layer_norm_eps",)
    flags = ("attention_bias", "mlp_bias", "tie_word_embeddings")

    def test_it_is_nemotron_without_the_offset(self, program: Program) -> None:
        norm = program.spec.final_norm
        assert (norm.kind, norm.bias, norm.offset) == ("layer", True, 0.0)
        assert biased(program) == "qkvo"


class TestSeedOss(LlamaLikeContract):
    name = "seed_oss"
    flags = ("attention_bias", "attention_out_bias", "mlp_bias", "tie_word_embeddings")
    lenient = ("num_key_value_heads",)

    def test_biases_of_query_key_and_value(self, program: Program) -> None:
        assert biased(program) == "qkv"


class TestInternLm3(LlamaLikeContract):
    name = "internlm3"
    flags = ("tie_word_embeddings",)
    overrides: ClassVar[dict[str, Any]] = {"qkv_bias": True, "bias": True}

    @pytest.mark.parametrize("key", ["qkv_bias", "bias"])
    def test_flags(self, checkpoint: Checkpoint, key: str) -> None:
        plain = {k: v for k, v in checkpoint.config.items() if not k.endswith("bias")}
        with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is 'true', it must be true or false"):
            self.family.read_config({**plain, key: "true"})

    def test_both_names_of_a_flag(self, checkpoint: Checkpoint) -> None:
        plain = {k: v for k, v in checkpoint.config.items() if not k.endswith("bias")}
        stated = self.family.read_config({**plain, "attention_bias": True, "mlp_bias": True})
        assert stated == self.family.read_config({**plain, "qkv_bias": True, "bias": True})
        assert attention_of(stated.layers[0]).o_bias


class TestIQuestCoder(LlamaLikeContract):
    name = "iquestcoder"
    flags = ("attention_bias", "mlp_bias", "tie_word_embeddings")
    lenient = ("num_key_value_heads",)

    @pytest.mark.parametrize(("key", "value"), [("clip_qkv", 8), ("use_sliding_window", True)])
    def test_what_the_class_refuses_is_named(self, checkpoint: Checkpoint, key: str, value: object) -> None:
        with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is {value}, it must be .* not supported"):
            self.family.read_config({**checkpoint.config, key: value})


class TestErnie(LlamaLikeContract):
    name = "ernie4_5"
    flags = ("use_bias", "tie_word_embeddings")
    overrides: ClassVar[dict[str, Any]] = {"use_bias": True}
    theta = 500_000.0

    def test_pairs_are_neighbours(self, program: Program) -> None:
        rope = attention_of(program.spec.layers[0]).rope
        assert rope is not None
        assert rope.interleaved
        assert program.spec.head.tied


class TestHelium(LlamaLikeContract):
    name = "helium"
    flags = ("attention_bias", "mlp_bias", "tie_word_embeddings")
    lenient = ("num_key_value_heads",)
    overrides: ClassVar[dict[str, Any]] = {"attention_bias": True, "mlp_bias": True}
    theta = 100_000.0

    def test_biases_of_query_key_and_value(self, program: Program) -> None:
        assert biased(program) == "qkv"


class TestGlm(LlamaLikeContract):
    name = "glm"
    flags = ("attention_bias", "tie_word_embeddings")
    stated: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 0.5}

    def test_half_of_a_head_rotates_and_its_query_has_a_bias(self, program: Program) -> None:
        attention = attention_of(program.spec.layers[0])
        assert attention.rope is not None
        assert (attention.rope.dims, attention.rope.interleaved, biased(program)) == (16, True, "qkv")


class TestCwm(StockContract):
    """The first of three layers has no window."""

    name = "cwm"
    becomes_llama = r"drop-window: layers\.1\.mixer: a sliding window of 7 is active"
    overrides: ClassVar[dict[str, Any]] = {"mlp_bias": True}
    sizes = (*SIZES, "sliding_window")
    numbers = ("rms_norm_eps",)
    flags = ("mlp_bias", "tie_word_embeddings")
    words = ("hidden_act",)
    lenient = ("num_key_value_heads",)

    def test_the_class_has_a_rotation_and_windows_of_its_own(self, checkpoint: Checkpoint) -> None:
        own = {"rope_scaling", "rope_parameters", "rope_theta", "layer_types"}
        spec = self.family.read_config({k: v for k, v in checkpoint.config.items() if k not in own})
        rope = attention_of(spec.layers[0]).rope
        assert rope is not None
        assert (rope.theta, rope.scaling) == (1e6, Llama3(16.0, 1.0, 4.0, 8192))
        assert [attention_of(layer).window for layer in spec.layers] == [None, 7, 7]
