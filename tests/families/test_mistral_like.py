"""Ministral and Ministral 3: windows by layer type, and a factor on queries that grows with their position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from kept.errors import CheckpointError, Refusal
from kept.families.llama import LLAMA
from kept.ir.spec import PositionScale
from kept.passes.legalize import legalise
from kept.passes.rules import Options
from support.contract import DECODER_SIZES, StockContract
from support.logits import logits, some_tokens, stock_logits, worst
from support.pass_helpers import save
from support.rotations import StockRotaryContract
from support.specs import attention_of, with_mixer

if TYPE_CHECKING:
    from pathlib import Path

    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program

SIZES = (*DECODER_SIZES, "head_dim", "sliding_window")


class TestMinistral(StockRotaryContract):
    """The first of three layers has no window."""

    name = "ministral"
    overrides: ClassVar[dict[str, Any]] = {
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "num_key_value_heads": 1,
    }
    becomes_llama = r"drop-window: layers\.1\.mixer: a sliding window of 7 is active"
    sizes = SIZES
    numbers = ("rms_norm_eps",)
    flags = ("tie_word_embeddings",)
    words = ("hidden_act",)
    lenient = ("num_key_value_heads",)

    def test_every_layer_has_the_window_or_none_has(self, checkpoint: Checkpoint) -> None:
        config = {k: v for k, v in checkpoint.config.items() if k != "layer_types"}
        for window in (7, None):
            spec = self.family.read_config({**config, "sliding_window": window})
            assert [attention_of(layer).window for layer in spec.layers] == [window] * 3


class TestMinistral3(StockContract):
    """Queries are scaled from position 10 on, which the 24 tokens of the contract show."""

    name = "ministral3"
    becomes_llama = (
        r"drop-position-scale: layers\.0\.mixer: queries are scaled from position 10 on: the context has 128 "
        r"positions; shorten the context \(--context 10\)"
    )
    sizes = (*DECODER_SIZES, "head_dim")
    numbers = ("rms_norm_eps",)
    flags = ("tie_word_embeddings",)
    words = ("hidden_act",)
    lenient = ("num_key_value_heads", "rope_parameters")
    theta_key = "rope_theta"

    def test_the_factor_shows(self, program: Program) -> None:
        """Negative control."""
        assert attention_of(program.spec.layers[0]).position_scale == PositionScale(0.3, 10)
        plain = program.updated(with_mixer(program.spec, position_scale=None), {})
        found, wanted = (logits(one, some_tokens()) for one in (plain, program))
        assert torch.equal(found[:, :10], wanted[:, :10])
        assert worst(found[:, 10:], wanted[:, 10:]) > 1e-3

    def test_becomes_a_llama_within_its_original_context(
        self, program: Program, directory: Path, tmp_path: Path
    ) -> None:
        plan = legalise(program, LLAMA.violations, Options(dtype="F64", context=10))
        assert "for sequences of up to 10 tokens" in plan.domain[0]
        assert [step.rewrite.name for step in plan.steps] == ["limit-context", "cast", "drop-position-scale"]
        output, tokens = save(plan.program, LLAMA, tmp_path / "out"), some_tokens(2, 10)
        assert worst(stock_logits(output, tokens), stock_logits(directory, tokens)) < self.float64

    def test_the_class_has_a_rotation_of_its_own(self, checkpoint: Checkpoint) -> None:
        config = {k: v for k, v in checkpoint.config.items() if k != "rope_parameters"}
        attention = attention_of(self.family.read_config(config).layers[0])
        assert attention.position_scale == PositionScale(0.1, 16384)
        assert attention.rope is not None
        assert attention.rope.theta == 1e6

    def test_beta_is_needed_and_0_means_none(self, checkpoint: Checkpoint) -> None:
        section = checkpoint.config["rope_parameters"]
        zero = {**checkpoint.config, "rope_parameters": {**section, "llama_4_scaling_beta": 0}}
        spec = self.family.read_config(zero)
        assert attention_of(spec.layers[0]).position_scale is None
        assert self.family.violations(spec) == []
        missing = {k: v for k, v in section.items() if k != "llama_4_scaling_beta"}
        with pytest.raises(CheckpointError, match="rope_parameters: has no llama_4_scaling_beta"):
            self.family.read_config({**checkpoint.config, "rope_parameters": missing})

    def test_no_other_family_states_the_factor(self, program: Program) -> None:
        with pytest.raises(Refusal, match="shorten the context"):
            legalise(program, LLAMA.violations, Options(context=11))
