from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from kept.ir.spec import Rope
from support.contract import DECODER_SIZES
from support.rotations import StockRotaryContract
from support.specs import attention_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint


class TestSmolLm3(StockRotaryContract):
    """The second of three layers does not rotate."""

    name = "smollm3"
    becomes_llama = (
        r"^layers\.\d\.mixer\.attention\.rope: queries and keys are not rotated, and the target always rotates"
    )
    sizes = (*DECODER_SIZES, "head_dim")
    numbers = ("rms_norm_eps",)
    flags = ("attention_bias", "mlp_bias", "use_sliding_window", "tie_word_embeddings")
    words = ("hidden_act",)
    lenient = ("num_key_value_heads",)  # absent, the stock class says 4, we say as many as queries
    theta = 2_000_000.0

    def rotating(self, checkpoint: Checkpoint, **keys: object) -> list[bool]:
        rest = {k: v for k, v in checkpoint.config.items() if k not in {"no_rope_layers", "no_rope_layer_interval"}}
        spec = self.family.read_config({**rest, "num_hidden_layers": 5, "layer_types": None, **keys})
        assert self.family.read_config(self.family.write_config(spec, "F32")) == spec
        assert {attention_of(layer).rope for layer in spec.layers} <= {None, Rope(1000.0, 16)}
        return [attention_of(layer).rope is not None for layer in spec.layers]

    def test_which_layers_rotate(self, checkpoint: Checkpoint) -> None:
        assert self.rotating(checkpoint) == [True, True, True, False, True]
        assert self.rotating(checkpoint, no_rope_layer_interval=2) == [True, False, True, False, True]
        assert self.rotating(checkpoint, no_rope_layers=[0, 1, 1, 0, 0]) == [False, True, True, False, False]
        assert self.rotating(checkpoint, no_rope_layers=[1, 1, 1, 1, 1, 0]) == [True] * 5
        assert self.rotating(checkpoint, no_rope_layer_interval=1) == [False] * 5

    @pytest.mark.parametrize("value", [3, "1", [1, 1], [1, 1, 2, 1, 1], [True] * 5, [1.0] * 5, {}])
    def test_wrong_lists_are_named(self, checkpoint: Checkpoint, value: object) -> None:
        with pytest.raises(CheckpointError, match=r"^config\.json: no_rope_layers is .*a list of 5 of 0, 1"):
            self.rotating(checkpoint, no_rope_layers=value)

    def test_a_window_that_is_switched_off_and_listed_is_named(self, checkpoint: Checkpoint) -> None:
        types = ["sliding_attention", "full_attention", "full_attention"]
        keys = {"use_sliding_window": False, "sliding_window": 6, "layer_types": types}
        with pytest.raises(CheckpointError, match=r"^config\.json: use_sliding_window is False, it must be true where"):
            self.family.read_config({**checkpoint.config, **keys})


class TestSmolLm3WithWindows(TestSmolLm3):
    """Layers that do not rotate slide."""

    overrides: ClassVar[dict[str, Any]] = {
        "use_sliding_window": True,
        "sliding_window": 6,
        "tie_word_embeddings": False,
    }

    def test_which_layers_slide(self, checkpoint: Checkpoint) -> None:
        def windows(**keys: object) -> list[int | None]:
            return [
                attention_of(layer).window for layer in self.family.read_config({**checkpoint.config, **keys}).layers
            ]

        assert windows() == windows(layer_types=None) == [None, 6, None]
        assert windows(layer_types=["sliding_attention", "full_attention", "full_attention"]) == [6, None, None]
        assert windows(sliding_window=None) == [None] * 3


class TestSmolLm3ThatAlwaysRotates(TestSmolLm3):
    overrides: ClassVar[dict[str, Any]] = {
        "no_rope_layers": [1, 1, 1],
        "attention_bias": True,  # a bias on keys that do not rotate changes nothing
        "mlp_bias": True,
    }
    becomes_llama = "exact"
