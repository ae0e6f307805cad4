from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kept.errors import CheckpointError
from kept.families.llama import LLAMA
from kept.families.orion import ORION
from kept.ir.slots import slots
from support.contract import until
from support.logits import logits, program_of, some_tokens, worst
from support.models import write_checkpoint
from support.orion_formulas import reference_orion
from support.rotations import PUBLISHED, RotaryContract
from support.specs import attention_of
from support.tiny import without

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program

ORION_14B = {
    "model_type": "orion",
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "intermediate_size": 15360,
    "vocab_size": 84608,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}


class TestOrion(RotaryContract):
    """There is no stock class any more: the reference is `reference_orion`, written from METHODS 1.1."""

    name = "orion"
    scalings = PUBLISHED
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
    flags = ("attention_bias", "tie_word_embeddings")
    words = ("hidden_act",)

    float64 = 1e-12
    """Both sides in float64 throughout: 9e-15 measured."""

    def reference(
        self, directory: Path, tokens: Tensor, dtype: torch.dtype, pads: Sequence[int] | None = None
    ) -> Tensor:
        """Padded rows one at a time, without their padding."""
        if pads is None:
            return reference_orion(directory, tokens, dtype)
        out = []
        for row, skipped in zip(tokens, pads, strict=True):
            alone = reference_orion(directory, row[None, skipped:], dtype)[0]
            out.append(torch.cat((alone.new_zeros(skipped, alone.shape[1]), alone)))
        return torch.stack(out)

    def stock_generation(self, directory: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
        """The reference's most likely token each time, up to the end token."""
        out = []
        for prompt in prompts:
            tokens = list(prompt)
            while len(tokens) < len(prompt) + count and tokens[-1] != 2:
                found = reference_orion(directory, torch.tensor([tokens]), torch.float32)
                tokens.append(int(found[0, -1].argmax()))
            out.append(until(tokens[len(prompt) :], 2))
        return out

    def test_norms_are_layer_norms_whatever_their_epsilon_is_called(self, program: Program) -> None:
        for norm in (program.spec.final_norm, program.spec.layers[0].mixer_norm, program.spec.layers[2].mlp_norm):
            assert norm is not None
            assert (norm.kind, norm.bias, norm.eps) == ("layer", True, 1e-3)

    def test_it_is_not_a_llama(self, checkpoint: Checkpoint, program: Program) -> None:
        called = {**checkpoint.config, "model_type": "llama"}
        with pytest.raises(CheckpointError, match=r"architectures names 'OrionForCausalLM'"):
            LLAMA.read(called, checkpoint.tensors)
        with pytest.raises(CheckpointError, match=r"norm\.bias: llama has no place for this tensor"):
            LLAMA.read(without(called, "architectures"), checkpoint.tensors)
        assert {"layers.*.mixer_norm.kind", "final_norm.bias"} <= {v.path for v in LLAMA.violations(program.spec)}

    @pytest.mark.parametrize("how", ["absent", "null"])
    def test_what_a_config_leaves_out(self, checkpoint: Checkpoint, how: str) -> None:
        """There is no stock class to ask: it means what the public configuration says."""
        defaults = {
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 4,
            "rope_theta": 10000.0,
            "max_position_embeddings": 4096,
            "pad_token_id": None,
        }
        for key, value in defaults.items():
            rest = {k: v for k, v in checkpoint.config.items() if k != key}
            left_out = {**rest, key: None} if how == "null" else rest
            assert self.family.read_config(left_out) == self.family.read_config({**rest, key: value})


class TestOrionTiedInBfloat16(TestOrion):
    overrides: ClassVar[dict[str, Any]] = {"tie_word_embeddings": True, "num_key_value_heads": 1}
    dtype = torch.bfloat16


@pytest.mark.parametrize("norm", ["model.layers.1.post_attention_layernorm", "model.norm"])
def test_the_reference_reads_the_norms_biases(tmp_path: Path, norm: str) -> None:
    """Negative control of the reference itself."""
    directory, tokens = write_checkpoint(tmp_path, "orion"), some_tokens()
    before = reference_orion(directory, tokens)
    tensors = load_file(directory / "model.safetensors")
    tensors[f"{norm}.bias"].zero_()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    assert worst(reference_orion(directory, tokens), before) > 1e-2
    assert worst(logits(program_of(directory), tokens), reference_orion(directory, tokens)) < 1e-12


def test_orion_14b_has_the_tensors_and_parameters_that_methods_states() -> None:
    """444 tensors and 14.50 B parameters; a Llama of that shape has 363."""
    spec = ORION.read_config(ORION_14B)
    found = slots(spec)
    assert len(found) == 444
    assert round(sum(prod(slot.shape) for slot in found.values()) / 1e9, 2) == 14.50
    assert len(slots(LLAMA.read_config({**ORION_14B, "model_type": "llama"}))) == 363
    assert sum(name.endswith("norm.bias") for name in found) == 81


def test_longchat_reads_its_own_theta_and_context() -> None:
    spec = ORION.read_config({**ORION_14B, "max_position_embeddings": 200_000, "rope_theta": 5e7})
    rope = attention_of(spec.layers[0]).rope
    assert rope is not None
    assert (spec.context, rope.theta, rope.dims) == (200_000, 5e7, 128)
