from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from kept.errors import CheckpointError
from support.logits import logits, model_of, some_tokens, worst
from support.rotations import StockRotaryContract
from support.specs import attention_of, with_mixer

if TYPE_CHECKING:
    from pathlib import Path

    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestMistral(StockRotaryContract):
    name = "mistral"
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "sliding_window",
    )
    numbers = ("rms_norm_eps",)
    flags = ("tie_word_embeddings",)
    words = ("hidden_act",)

    def test_a_window_is_read_as_the_stock_class_reads_it(self, checkpoint: Checkpoint) -> None:
        """null is not a window, and a config that does not mention it means 4,096."""

        def window(**keys: object) -> int | None:
            rest = {k: v for k, v in checkpoint.config.items() if k != "sliding_window"}
            return attention_of(self.family.read_config({**rest, **keys}).layers[0]).window

        assert window() == 4096
        assert window(sliding_window=None) is None
        assert window(sliding_window=7) == 7

    def test_biases_have_no_place(self, checkpoint: Checkpoint) -> None:
        bias = {"model.layers.0.self_attn.q_proj.bias": checkpoint.tensors["model.norm.weight"]}
        with pytest.raises(CheckpointError, match=r"^model\.layers\.0\.self_attn\.q_proj\.bias"):
            self.family.read(checkpoint.config, {**checkpoint.tensors, **bias})


class TestMistralWithAWindow(TestMistral):
    """A window of 7 under sequences of 24 and generations of 38 tokens."""

    overrides: ClassVar[dict[str, Any]] = {"sliding_window": 7}
    becomes_llama = r"layers\.\d\.mixer: a sliding window of 7 is active.*\(--context 7\)"

    def test_the_window_slides(self, program: Program) -> None:
        """Negative control: without it, or with one key more, the logits past the window are others."""
        tokens = some_tokens()
        found = logits(program, tokens)
        for window in (None, 8):
            other = logits(replace(program, spec=with_mixer(program.spec, window=window)), tokens)
            assert torch.allclose(found[:, :7], other[:, :7], rtol=0, atol=1e-12)
            assert worst(found[:, 7:], other[:, 7:]) > 1e-2

    def test_the_window_slides_over_the_cache(self, directory: Path, program: Program) -> None:
        tokens, model = some_tokens(), model_of(program)
        state = model.empty_state()
        with torch.inference_mode():
            found = torch.cat([model(tokens[:, t : t + 1], state) for t in range(tokens.shape[1])], dim=1)
        assert worst(found, self.reference(directory, tokens, torch.float64)) < self.float64

    def test_differing_windows_are_a_violation(self, program: Program) -> None:
        spec = program.spec
        wide = replace(spec.layers[1], mixer=replace(attention_of(spec.layers[1]), window=None))
        (violation,) = self.family.violations(replace(spec, layers=(spec.layers[0], wide, spec.layers[2])))
        assert str(violation) == "layers.1.mixer.attention.window is none, the target has 7"
