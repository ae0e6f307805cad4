from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from kept.errors import CheckpointError
from support.logits import logits, some_tokens, worst
from support.rotations import StockRotaryContract
from support.specs import attention_of, with_mixer

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program

WINDOWED = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}


class TestQwen2(StockRotaryContract):
    name = "qwen2"
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
    flags = ("use_sliding_window", "tie_word_embeddings")
    words = ("hidden_act",)
    lenient = ("num_key_value_heads",)  # absent, the stock class says 32, we say as many as queries

    def test_query_key_and_value_have_biases(self, program: Program) -> None:
        mixer = attention_of(program.spec.layers[0])
        assert (mixer.q_bias, mixer.k_bias, mixer.v_bias, mixer.o_bias) == (True, True, True, False)

    def windows(self, checkpoint: Checkpoint, **keys: object) -> list[int | None]:
        rest = {k: v for k, v in checkpoint.config.items() if k not in {*WINDOWED, "layer_types"}}
        return [attention_of(layer).window for layer in self.family.read_config({**rest, **keys}).layers]

    def test_windows_of_old_and_new_files(self, checkpoint: Checkpoint) -> None:
        assert self.windows(checkpoint) == [None, None, None]
        assert self.windows(checkpoint, sliding_window=6, max_window_layers=0) == [None, None, None]
        assert self.windows(checkpoint, **WINDOWED) == [None, 6, 6]
        assert self.windows(checkpoint, use_sliding_window=True, sliding_window=6) == [None, None, None]
        assert self.windows(checkpoint, use_sliding_window=True, max_window_layers=0) == [4096, 4096, 4096]
        assert self.windows(checkpoint, **{**WINDOWED, "sliding_window": None}) == [None, None, None]
        types = ["sliding_attention", "full_attention", "sliding_attention"]
        assert self.windows(checkpoint, **WINDOWED, layer_types=types) == [6, None, 6]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("sliding_window", -4),
            ("sliding_window", "6"),
            ("max_window_layers", "1"),
            ("max_window_layers", [1]),
            ("layer_types", ["full_attention"]),
            ("layer_types", "full_attention"),
            ("layer_types", ["full_attention", "full_attention", "chunked_attention"]),
        ],
    )
    def test_wrong_windows_are_named(self, checkpoint: Checkpoint, key: str, value: object) -> None:
        with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is "):
            self.windows(checkpoint, **{**WINDOWED, key: value})


class TestQwen2WithWindows(TestQwen2):
    """The first layer sees everything, the other two see six keys."""

    overrides: ClassVar[dict[str, Any]] = {**WINDOWED, "tie_word_embeddings": True}
    becomes_llama = r"layers\.\d\.mixer: a sliding window of 6 is active.*\(--context 6\)"

    def test_windows_slide_from_the_second_layer_on(self, program: Program) -> None:
        assert [attention_of(layer).window for layer in program.spec.layers] == [None, 6, 6]
        tokens = some_tokens()
        found = logits(program, tokens)
        for window in (None, 6):  # negative control: all or none
            other = logits(replace(program, spec=with_mixer(program.spec, window=window)), tokens)
            assert torch.allclose(found[:, :6], other[:, :6], rtol=0, atol=1e-12)
            assert worst(found, other) > 1e-2
