from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from support.contract import DECODER_SIZES
from support.rotations import StockRotaryContract

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestOlmo(StockRotaryContract):
    name = "olmo"
    sizes = (*DECODER_SIZES, "head_dim")
    numbers = ()
    flags = ("attention_bias", "tie_word_embeddings")
    words = ("hidden_act",)

    def test_norms_have_no_weights(self, program: Program) -> None:
        assert not any("norm" in name for name in program.weights)
        assert program.spec.final_norm.eps == 1e-5

    def test_clipping_is_refused(self, checkpoint: Checkpoint) -> None:
        with pytest.raises(CheckpointError, match=r"^config\.json: clip_qkv is 8\.0, it must be None: clipped"):
            self.family.read_config({**checkpoint.config, "clip_qkv": 8.0})


class TestOlmoTiedWithBiases(TestOlmo):
    overrides: ClassVar[dict[str, Any]] = {"attention_bias": True, "tie_word_embeddings": True}
