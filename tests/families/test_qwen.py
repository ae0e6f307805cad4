from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from kept.ir.spec import Rope
from support.orphans import OrphanContract
from support.specs import attention_of, mlp_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestQwen(OrphanContract):
    name = "qwen"
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "seq_length",
        "kv_channels",
    )
    numbers = ("layer_norm_epsilon", "rotary_emb_base")
    flags = ("no_bias", "tie_word_embeddings")
    words = ()
    required = ("hidden_size", "num_hidden_layers", "seq_length")
    defaults: ClassVar[dict[str, Any]] = {
        "intermediate_size": 22016,
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10_000,
        "rotary_pct": 1.0,
        "no_bias": True,
        "scale_attn_weights": True,
        "tie_word_embeddings": False,
    }

    def test_written_config_has_both_forms(self, program: Program) -> None:
        """There is one form, and it is not that of the stock classes."""
        written = self.family.write_config(program.spec, "BF16")
        assert written["torch_dtype"] == written["dtype"] == "bfloat16"
        assert written["rotary_emb_base"] == 1000.0
        assert not {"rope_theta", "rope_scaling", "rope_parameters"} & set(written)

    def test_spec(self, program: Program) -> None:
        """The context is where dynamic theta and logarithmic scaling begin, not what the class could hold."""
        layer = program.spec.layers[0]
        assert (program.spec.context, mlp_of(layer).size, attention_of(layer).kv_heads) == (128, 96, 4)
        assert attention_of(layer).rope == Rope(1000.0, 16)
        assert (attention_of(layer).q_bias, attention_of(layer).o_bias) == (
            True,
            self.overrides.get("no_bias") is False,
        )

    def test_the_size_of_the_heads_may_be_left_out_where_it_is_128(self, checkpoint: Checkpoint) -> None:
        left_out = {key: value for key, value in checkpoint.config.items() if key != "kv_channels"}
        wide = self.family.read_config({**left_out, "hidden_size": 512})
        assert attention_of(wide.layers[0]).head_dim == 128
        with pytest.raises(CheckpointError, match=r"^config\.json: kv_channels is None, it must be 16"):
            self.family.read_config(left_out)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("intermediate_size", 191),
            ("kv_channels", 32),
            ("rotary_pct", 0.5),
            ("rope_scaling", {"type": "linear", "factor": 2.0}),
            ("scale_attn_weights", False),
            ("pos_emb", "learned"),
            ("rope_theta", 1e6),
            ("visual", {"layers": 48}),
            ("rotary_emb_base", 0),
        ],
    )
    def test_what_is_not_read_is_named(self, checkpoint: Checkpoint, key: str, value: object) -> None:
        with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is .*, it must be "):
            self.family.read_config({**checkpoint.config, key: value})

    def test_a_second_name_of_the_base_is_passed_over(self, checkpoint: Checkpoint) -> None:
        """Qwen-72B as first released."""
        spec = self.family.read_config(checkpoint.config)
        assert self.family.read_config({**checkpoint.config, "rope_theta": 1000, "padded_vocab_size": 97}) == spec

    def test_names_of_august_2023(self, checkpoint: Checkpoint) -> None:
        older = {
            "hidden_size": "n_embd",
            "intermediate_size": "ffn_hidden_size",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
        }
        config = {older.get(key, key): value for key, value in checkpoint.config.items()}
        others = {"activation": "swiglu", "n_positions": 6144, "n_inner": None, "pos_emb": "rotary"}
        spec = self.family.read_config({**config, **others, "params_dtype": "torch.bfloat16"})
        assert spec == self.family.read_config(checkpoint.config)


class TestQwenWithAllBiases(TestQwen):
    overrides: ClassVar[dict[str, Any]] = {"no_bias": False}
