from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from kept.families.layout import StackedTensor
from kept.families.stablelm import STABLELM
from kept.ir.spec import Rope
from support.logits import worst
from support.rotations import StockRotaryContract
from support.specs import attention_of, with_mixer
from support.tiny import TINY

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestStableLm(StockRotaryContract):
    """A quarter of each head turns, as the stock class assumes where nothing is said."""

    name = "stablelm"
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    )
    numbers = ("layer_norm_eps",)
    flags = ("use_qkv_bias", "qk_layernorm", "use_parallel_residual", "tie_word_embeddings")
    words = ("hidden_act",)
    lenient = ("num_key_value_heads",)  # absent, the stock class says 32, we say as many as queries
    turning = 4

    stated: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 1.0}

    def test_how_much_of_a_head_turns(self, program: Program) -> None:
        assert attention_of(program.spec.layers[0]).rope == Rope(1000.0, self.turning)

    def test_the_fraction_in_either_place(self, checkpoint: Checkpoint) -> None:
        plain = {k: v for k, v in checkpoint.config.items() if k not in {"rope_parameters", "partial_rotary_factor"}}

        def dims(**keys: object) -> int:
            rope = attention_of(self.family.read_config({**plain, **keys}).layers[0]).rope
            assert rope is not None
            return rope.dims

        assert dims() == 4
        assert dims(partial_rotary_factor=0.5) == 8
        assert dims(rope_parameters={"partial_rotary_factor": 0.75}) == 12
        assert dims(rope_parameters={"partial_rotary_factor": 0.75}, partial_rotary_factor=0.75) == 12
        with pytest.raises(CheckpointError, match=r"partial_rotary_factor is 0\.75, it must be 0\.5, as"):
            dims(rope_parameters={"partial_rotary_factor": 0.75}, partial_rotary_factor=0.5)

    @pytest.mark.parametrize("fraction", [0, -0.5, 1.5, 0.01, 0.2, "0.5", True])
    def test_wrong_fractions_are_named(self, checkpoint: Checkpoint, fraction: object) -> None:
        """0.2 of 16 dimensions are 3, and pairs turn."""
        plain = {k: v for k, v in checkpoint.config.items() if k != "rope_parameters"}
        with pytest.raises(CheckpointError, match="partial_rotary_factor"):
            self.family.read_config({**plain, "partial_rotary_factor": fraction})


class TestStableLmParallel(TestStableLm):
    overrides: ClassVar[dict[str, Any]] = {"use_parallel_residual": True, "use_qkv_bias": True}
    becomes_llama = r"attention and MLP read the same stream, the target has no parallel residual"

    def test_blocks_have_one_norm(self, program: Program) -> None:
        assert all(layer.parallel and layer.mlp_norm is None for layer in program.spec.layers)
        assert not any("mlp_norm" in name for name in program.weights)


class TestStableLmWithHeadNorms(TestStableLm):
    overrides: ClassVar[dict[str, Any]] = {"qk_layernorm": True, "rope_theta": 1000.0}
    becomes_llama = r"mixer\.attention\.qk_norm: queries and keys are normalised, which no weights of the target can do"

    def test_each_head_has_its_own_gain(self, program: Program, checkpoint: Checkpoint) -> None:
        stored = [checkpoint.tensors[f"model.layers.1.self_attn.q_layernorm.norms.{h}.weight"] for h in range(4)]
        gain = program.weights["layers.1.mixer.q_norm.gain"]
        assert isinstance(gain, StackedTensor)
        assert gain.parts == tuple(stored)
        assert gain.shape == (4, 16)
        assert program.weights["layers.1.mixer.k_norm.gain"].shape == (2, 16)
        assert worst(gain.read()[0], gain.read()[1]) > 0.1


class TestStableLmWithEverything(TestStableLm):
    """Full rotation; head norms, biases, and one norm for attention and MLP."""

    overrides: ClassVar[dict[str, Any]] = {
        "use_parallel_residual": True,
        "qk_layernorm": True,
        "use_qkv_bias": True,
        "partial_rotary_factor": 1.0,
        "tie_word_embeddings": True,
    }
    becomes_llama = r"mixer\.attention\.qk_norm: .*attention and MLP read the same stream"
    turning = 16


@pytest.mark.parametrize("head", [16, 80, 88, 96, 104, 128, 200])
def test_any_number_of_dimensions_survives_the_fraction(head: int) -> None:
    """`int(88 * (30 / 88))` is 29: what is written must come back, here and where transformers computes it."""
    config = {**TINY["stablelm"], "hidden_size": 4 * head, "num_hidden_layers": 1, "partial_rotary_factor": 1.0}
    spec = STABLELM.read_config(config)
    for dims in range(2, head + 1, 2):
        partial = with_mixer(spec, rope=Rope(1000.0, dims))
        written = STABLELM.write_config(partial, "F32")
        assert STABLELM.read_config(written) == partial
        assert int(head * written["rope_parameters"]["partial_rotary_factor"]) == dims
        assert written["partial_rotary_factor"] == pytest.approx(dims / head, rel=1e-15)
