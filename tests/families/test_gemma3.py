"""Gemma 3: two rotations, windows in most layers, norms of queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from transformers import Gemma3TextConfig

from kept.errors import CheckpointError
from kept.ir.spec import Linear, Rope
from support.contract import DECODER_SIZES, StockContract
from support.specs import attention_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program

SCALED = {"rope_type": "linear", "factor": 4.0}


class TestGemma3(StockContract):
    """Of three layers the second has no window."""

    name = "gemma3_text"
    overrides: ClassVar[dict[str, Any]] = {"tie_word_embeddings": False}
    becomes_llama = r"qk_norm: queries and keys are normalised"
    sizes = (*DECODER_SIZES, "head_dim", "sliding_window")
    numbers = ("rms_norm_eps", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
    flags = ("attention_bias", "tie_word_embeddings")
    words = ("hidden_activation",)
    lenient = ("num_key_value_heads",)

    def test_written_config_has_both_forms(self, program: Program) -> None:
        written = self.family.write_config(program.spec, "BF16")
        assert written["torch_dtype"] == written["dtype"] == "bfloat16"
        full, sliding = (written["rope_parameters"][kind] for kind in ("full_attention", "sliding_attention"))
        assert written["rope_theta"] == full["rope_theta"] == 1000.0
        assert written["rope_local_base_freq"] == sliding["rope_theta"] == 100.0
        assert written["rope_scaling"]["factor"] == full["factor"] == 4.0

    def ropes(self, checkpoint: Checkpoint, **keys: object) -> list[Rope | None]:
        plain = {k: v for k, v in checkpoint.config.items() if k != "rope_parameters"}
        spec = self.family.read_config({**plain, **keys})
        assert self.family.violations(spec) == []
        return [attention_of(layer).rope for layer in spec.layers]

    def test_each_kind_of_layer_has_its_rotation(self, checkpoint: Checkpoint) -> None:
        full, sliding = Rope(1000.0, 16, scaling=Linear(4.0)), Rope(100.0, 16)
        nested = checkpoint.config["rope_parameters"]
        old = {"rope_theta": 1000.0, "rope_scaling": SCALED, "rope_local_base_freq": 100.0}
        assert self.ropes(checkpoint, rope_parameters=nested) == [sliding, full, sliding]
        assert self.ropes(checkpoint, **old) == [sliding, full, sliding]
        assert self.ropes(checkpoint, **old, rope_parameters=nested) == [sliding, full, sliding]
        assert self.ropes(checkpoint) == [Rope(10_000.0, 16), Rope(1e6, 16), Rope(10_000.0, 16)]

    def test_the_old_form_means_the_same_to_transformers(self, checkpoint: Checkpoint) -> None:
        plain = {k: v for k, v in checkpoint.config.items() if k not in {"rope_parameters", "layer_types"}}
        old: dict[str, Any] = {"rope_theta": 1000.0, "rope_scaling": dict(SCALED), "rope_local_base_freq": 100.0}
        spec = self.family.read_config({**plain, **old, "sliding_window_pattern": 2})
        theirs = Gemma3TextConfig.from_dict({**plain, **old, "sliding_window_pattern": 2}).to_dict()
        assert self.family.read_config(theirs) == spec
        assert self.family.read_config(checkpoint.config) == spec

    def test_a_section_without_a_layer_type_is_named(self, checkpoint: Checkpoint) -> None:
        with pytest.raises(
            CheckpointError, match=r"rope_parameters is .*, it must be an object with the sections full_"
        ):
            self.ropes(checkpoint, rope_parameters=SCALED)
