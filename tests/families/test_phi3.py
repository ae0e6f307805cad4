from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from kept.errors import CheckpointError
from kept.ir.spec import LongRope, TokenIds
from kept.nn import generate
from support.contract import DECODER_SIZES
from support.conversions import STOCK, converted
from support.logits import logits, model_of, program_of, some_tokens, stock_logits, worst
from support.models import write_checkpoint
from support.pass_helpers import TOLERANCE
from support.rotations import StockRotaryContract
from support.specs import attention_of

if TYPE_CHECKING:
    from pathlib import Path

    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


def longrope(original: int, pairs: int = 8) -> dict[str, Any]:
    """Keys as Phi-3's own files have them: the length stands outside, and there is no factor."""
    return {
        "original_max_position_embeddings": original,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0 + i / 8 for i in range(pairs)],
            "long_factor": [1.5 + i for i in range(pairs)],
        },
    }


class TestPhi3(StockRotaryContract):
    name = "phi3"
    sizes = (*DECODER_SIZES, "head_dim", "sliding_window")
    numbers = ("rms_norm_eps",)
    flags = ("tie_word_embeddings",)
    words = ("hidden_act",)
    scalings = ("longrope", "longrope with everything")
    aliases = ("yarn",)
    unread = ("original_max_position_embeddings",)
    stated: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 1.0}

    def test_projections_are_fused(self, program: Program) -> None:
        assert program.weights["layers.1.mixer.qkv.weight"].shape == (4 * 16 + 2 * 2 * 16, 64)
        assert program.weights["layers.1.mlp.gate_up.weight"].shape == (2 * 96, 64)

    @pytest.mark.parametrize("kind", ["su", "yarn", "longrope"])
    def test_old_names_of_longrope(self, checkpoint: Checkpoint, kind: str) -> None:
        keys = {**longrope(32), "partial_rotary_factor": 1.0, "max_position_embeddings": 128}
        config = {k: v for k, v in checkpoint.config.items() if k != "rope_parameters"} | keys
        config["rope_scaling"]["type"] = kind
        rope = attention_of(self.family.read_config(config).layers[0]).rope
        assert rope is not None
        assert isinstance(rope.scaling, LongRope)
        assert (rope.scaling.factor, rope.scaling.original_max_position_embeddings) == (128 / 32, 32)

    def test_scalings_that_the_stock_class_lacks_are_named(self, checkpoint: Checkpoint) -> None:
        config = {**checkpoint.config, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
        with pytest.raises(CheckpointError, match="rope_type is 'linear', it must be one of default, longrope"):
            self.family.read_config(config)


class TestPhi3WithAWindow(TestPhi3):
    overrides: ClassVar[dict[str, Any]] = {"sliding_window": 7, "tie_word_embeddings": True}
    becomes_llama = r"layers\.\d\.mixer: a sliding window of 7 is active.*\(--context 7\)"


class TestPhi3WithAWindowAsLongAsItsContext(TestPhi3):
    """Phi-3-mini-128k has one twice as long."""

    overrides: ClassVar[dict[str, Any]] = {"sliding_window": 256}


class TestPhi3WithinItsOriginalLength(TestPhi3):
    overrides: ClassVar[dict[str, Any]] = longrope(64)


class TestPhi3AroundItsOriginalLength(TestPhi3):
    """Generation passes it, and everything before is computed anew, as the stock class does."""

    overrides: ClassVar[dict[str, Any]] = longrope(20)

    def test_keys_are_turned_anew(self, program: Program) -> None:
        """Each token is the best after all before it, read at once, on both sides of the switch."""
        endless = replace(program, spec=replace(program.spec, tokens=TokenIds()))
        tokens = some_tokens(1, 9)[0].tolist()
        for token in generate(model_of(endless), [tokens], 24)[0]:
            assert token == int(logits(endless, torch.tensor([tokens]))[0, -1].argmax())
            tokens.append(token)
        assert len(tokens) == 9 + 24


class TestPhi3BeyondItsOriginalLength(TestPhi3):
    overrides: ClassVar[dict[str, Any]] = longrope(8)


class TestPhi4(TestPhi3):
    """Three quarters of each head turn, with LongRoPE."""

    overrides: ClassVar[dict[str, Any]] = {
        **longrope(12, pairs=6),
        "partial_rotary_factor": 0.75,
        "max_position_embeddings": 48,
    }


@pytest.mark.parametrize("partial", [1.0, 0.75])
@pytest.mark.parametrize("length", [9, 12, 13, 24])
def test_llama_switches_where_phi3_does(length: int, partial: float, tmp_path: Path) -> None:
    """12 positions are short, 13 are long: to us, to Phi-3's own class, and to Llama's."""
    keys = {**longrope(12, pairs=int(8 * partial)), "partial_rotary_factor": partial}
    source = write_checkpoint(tmp_path / "source", "phi3", **keys)
    program, tokens = program_of(source), some_tokens(length=length)
    output = converted(program, tmp_path / "out")
    wanted = stock_logits(source, tokens)
    assert worst(logits(program, tokens), wanted) < STOCK
    assert worst(stock_logits(output, tokens), wanted) < STOCK
    assert worst(logits(program_of(output), tokens), logits(program, tokens)) < TOLERANCE


def test_short_and_long_are_different(tmp_path: Path) -> None:
    """Negative control of the test above."""
    tokens = some_tokens(length=12)
    short, long = (stock_logits(write_checkpoint(tmp_path / str(n), "phi3", **longrope(n)), tokens) for n in (12, 11))
    assert torch.isfinite(long).all()
    assert worst(short, long) > 0.01
