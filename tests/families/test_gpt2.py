from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from kept.errors import CheckpointError
from kept.ir.tensors import zeros
from support.contract import StockContract
from support.logits import logits, some_tokens
from support.specs import attention_of, mlp_of

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestGpt2(StockContract):
    name = "gpt2"
    becomes_llama = r"^positions: positions are learned.*mixer\.attention\.rope: queries and keys are not rotated"
    sizes = ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "n_inner")
    numbers = ("layer_norm_epsilon",)
    flags = ("tie_word_embeddings",)
    words = ("activation_function",)
    required = ("n_embd", "n_layer", "n_head")

    float64 = 1e-12
    """The stock class computes everything in the weights' own dtype: 5e-15 measured."""

    def test_spec(self, program: Program) -> None:
        spec = program.spec
        mixer = attention_of(spec.layers[0])
        assert (spec.positions, spec.context, mixer.rope, mixer.fused, mixer.kv_heads) == (128, 128, None, True, 4)
        assert mlp_of(spec.layers[0]).size == 4 * 48
        assert spec.head.tied

    def test_names_of_the_bare_model(self, program: Program, checkpoint: Checkpoint) -> None:
        """The hub's own gpt2 has them without the prefix, and with the masks of old versions."""
        bare = {name.removeprefix("transformer."): lazy for name, lazy in checkpoint.tensors.items()}
        bare["h.0.attn.bias"] = zeros((1, 1, 128, 128), "F32")
        bare["h.2.attn.masked_bias"] = zeros((1,), "F32")
        read = self.family.read(checkpoint.config, bare)
        assert torch.equal(logits(read, some_tokens()), logits(program, some_tokens()))
        assert sorted(self.family.write(read)) == sorted(checkpoint.tensors)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("scale_attn_weights", False), ("scale_attn_by_inverse_layer_idx", True), ("add_cross_attention", True)],
    )
    def test_what_it_does_not_compute_is_refused(self, checkpoint: Checkpoint, key: str, value: object) -> None:
        with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is {value}"):
            self.family.read_config({**checkpoint.config, key: value})


class TestGpt2WithAHeadAndANarrowMlp(TestGpt2):
    overrides: ClassVar[dict[str, Any]] = {"tie_word_embeddings": False, "n_inner": 40, "activation_function": "gelu"}

    def test_spec(self, program: Program) -> None:
        assert (mlp_of(program.spec.layers[0]).size, mlp_of(program.spec.layers[0]).activation) == (40, "gelu")
        assert not program.spec.head.tied

    def test_names_of_the_bare_model(self, program: Program, checkpoint: Checkpoint) -> None:
        bare = {name.removeprefix("transformer."): lazy for name, lazy in checkpoint.tensors.items()}
        assert "lm_head.weight" in bare
        assert self.family.read(checkpoint.config, bare).weights == program.weights
