from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from kept.errors import CheckpointError
from support.contract import DECODER_SIZES
from support.logits import stock
from support.rotations import StockRotaryContract
from support.specs import attention_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program

POSITIVE = ("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar")


class TestGemma2(StockRotaryContract):
    name = "gemma2"
    becomes_llama = (
        r"^head\.softcap: logits are capped.*mixer\.attention\.softcap: scores are capped.*"
        r"post_norm: a norm stands behind"
    )
    sizes = (*DECODER_SIZES, "head_dim", "sliding_window")
    numbers = ("rms_norm_eps", *POSITIVE)
    flags = ("attention_bias", "tie_word_embeddings")
    words = ("hidden_activation",)
    lenient = ("num_key_value_heads",)  # absent, the stock class says 4, we say as many as queries

    @torch.inference_mode()
    def reference(
        self, directory: Path, tokens: torch.Tensor, dtype: torch.dtype, pads: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Only the plain attention caps scores. It cannot mask padding in float64, so each row runs without it."""
        model = stock(directory, dtype, "eager")
        if pads is None:
            return model(tokens).logits
        rows = [model(row[None, skipped:]).logits[0] for row, skipped in zip(tokens, pads, strict=True)]
        return torch.stack([torch.cat((row.new_zeros(tokens.shape[1] - len(row), row.shape[1]), row)) for row in rows])

    def test_spec(self, program: Program) -> None:
        first, second, third = program.spec.layers
        assert (attention_of(first).window, attention_of(second).window, attention_of(third).window) == (7, None, 7)
        assert (attention_of(first).softcap, program.spec.head.softcap) == (3.0, 4.0)
        assert attention_of(first).scale == 20**-0.5
        assert first.mlp_post_norm is not None
        assert first.mlp_post_norm.offset == 1.0

    def test_caps_may_be_null(self, checkpoint: Checkpoint) -> None:
        keys = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
        spec = self.family.read_config({**checkpoint.config, **keys})
        assert (attention_of(spec.layers[0]).softcap, spec.head.softcap) == (None, None)
        assert self.family.read_config(self.family.write_config(spec, "F32")) == spec

    @pytest.mark.parametrize("key", POSITIVE)
    def test_zeros_are_named(self, checkpoint: Checkpoint, key: str) -> None:
        with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is 0, it must be a number above 0"):
            self.family.read_config({**checkpoint.config, key: 0})

    @pytest.mark.parametrize("scalar", [16, 144, 168, 224, 256, 4608 // 32, 3])
    def test_a_scalar_round_trips(self, checkpoint: Checkpoint, scalar: int) -> None:
        spec = self.family.read_config({**checkpoint.config, "query_pre_attn_scalar": scalar})
        assert (attention_of(spec.layers[0]).scale is None) == (scalar == 16)
        assert self.family.write_config(spec, "F32")["query_pre_attn_scalar"] == scalar


class TestGemma2WithoutCapsOrWindows(TestGemma2):
    overrides: ClassVar[dict[str, Any]] = {
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "layer_types": ["full_attention"] * 3,
        "attention_bias": True,
        "tie_word_embeddings": False,
    }
    becomes_llama = r"post_norm: a norm stands behind"

    def test_spec(self, program: Program) -> None:
        assert all(attention_of(layer).window is None for layer in program.spec.layers)
        assert not program.spec.head.tied
