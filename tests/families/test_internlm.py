from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from kept.errors import CheckpointError
from kept.ir.spec import Dynamic, Rope
from support.logits import logits, some_tokens, worst
from support.orphans import OrphanContract
from support.specs import attention_of, with_mixer

if TYPE_CHECKING:
    from pathlib import Path

    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestInternLm(OrphanContract):
    """InternLM-7B: biases on all four projections, whether the config says so or not."""

    name = "internlm"
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    )
    numbers = ("rms_norm_eps",)
    flags = ("bias", "tie_word_embeddings")
    words = ("hidden_act",)
    defaults: ClassVar[dict[str, Any]] = {
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "bias": True,
        "rotary": {"base": 10000, "type": "dynamic"},
        "tie_word_embeddings": False,
    }

    rope: ClassVar[Rope] = Rope(1000.0, 16, scaling=Dynamic(1.0, 128))

    def test_written_config_has_both_forms(self, program: Program) -> None:
        """There is one form, and it is not that of the stock classes."""
        written = self.family.write_config(program.spec, "BF16")
        assert written["torch_dtype"] == written["dtype"] == "bfloat16"
        assert written["rotary"]["base"] == self.rope.theta
        assert not {"rope_theta", "rope_scaling", "rope_parameters"} & set(written)

    def test_the_rotation(self, program: Program) -> None:
        assert attention_of(program.spec.layers[0]).rope == self.rope

    def test_all_four_projections_have_biases_or_none(self, program: Program) -> None:
        biased = self.overrides.get("bias", True)
        assert sum(".mixer." in name and name.endswith("bias") for name in program.weights) == (12 if biased else 0)

    def test_wrong_rotations_are_named(self, checkpoint: Checkpoint) -> None:
        for value in (3, "dynamic", ["dynamic"], True):
            with pytest.raises(CheckpointError, match=r"^config\.json: rotary is .*, it must be an object$"):
                self.family.read_config({**checkpoint.config, "rotary": value})
        wrong = (("type", "linear"), ("type", ["origin"]), ("base", 0), ("base", "1e4"), ("scaling_factor", -1.0))
        for key, value in wrong:  # type: ignore[assignment]
            with pytest.raises(CheckpointError, match=rf"^config\.json: rotary: {key} is .*, it must be "):
                self.family.read_config({**checkpoint.config, "rotary": {"type": "dynamic", key: value}})

    def test_the_stock_classes_keys_are_not_this_family_s(self, checkpoint: Checkpoint) -> None:
        for key in ("rope_scaling", "rope_parameters"):
            with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is .*stands under rotary$"):
                self.family.read_config({**checkpoint.config, key: {"type": "linear", "factor": 2.0}})
            assert self.family.read_config({**checkpoint.config, key: None})


class TestInternLm20B(TestInternLm):
    """No biases, and a theta that grows beyond the context."""

    overrides: ClassVar[dict[str, Any]] = {
        "bias": False,
        "rotary": {"base": 1000, "type": "dynamic", "scaling_factor": 2.0},
        "max_position_embeddings": 40,
    }
    rope = Rope(1000.0, 16, scaling=Dynamic(2.0, 40))

    def test_theta_grows(self, directory: Path, program: Program) -> None:
        tokens = some_tokens(1, 48)
        found, wanted = logits(program, tokens), self.reference(directory, tokens, torch.float64)
        assert worst(found, wanted) < self.float64
        plain = replace(program, spec=with_mixer(program.spec, rope=Rope(1000.0, 16)))
        assert worst(logits(plain, tokens), wanted) > 1e3 * self.float64


class TestInternLmAsItFirstWas(TestInternLm):
    """The plain rotation."""

    overrides: ClassVar[dict[str, Any]] = {"rotary": {"base": 1000, "type": "origin"}}
    rope = Rope(1000.0, 16)
