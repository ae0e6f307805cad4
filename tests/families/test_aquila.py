from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file

from kept.families import FAMILIES
from support.logits import logits, program_of, some_tokens, worst
from support.models import write_checkpoint
from support.orphans import OrphanContract
from support.pass_helpers import TOLERANCE
from support.published import CLIPPED, Published
from support.rotations import PUBLISHED, RotaryContract
from support.stored import tensors_of

if TYPE_CHECKING:
    from pathlib import Path


class TestAquila(OrphanContract, RotaryContract):
    name = "aquila"
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
    flags = ("tie_word_embeddings",)
    words = ("hidden_act",)
    defaults: ClassVar[dict[str, Any]] = {
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    }


class TestAquilaTiedInBfloat16(TestAquila):
    overrides: ClassVar[dict[str, Any]] = {"tie_word_embeddings": True, "num_key_value_heads": 4}
    dtype = torch.bfloat16


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_scores_that_its_class_clips(scale: float, tmp_path: Path) -> None:
    """Equal to the published rule up to the limit that promises name, and not past it."""
    directory = write_checkpoint(tmp_path, "aquila")
    tensors = {name: t * scale if "q_proj" in name else t for name, t in tensors_of(directory).items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    tokens = some_tokens(2, 20)
    difference = worst(logits(program_of(directory), tokens), Published(directory)(tokens))
    assert difference < TOLERANCE if scale == 1 else difference > 100 * TOLERANCE
    assert FAMILIES["aquila"].score_limit == CLIPPED
