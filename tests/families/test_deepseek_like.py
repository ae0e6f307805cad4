"""Families with latent attention: the same contract, query ranks, biases, scales, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from kept.errors import CheckpointError
from kept.families import FAMILIES
from kept.families.latent import LATENT_EPS
from kept.ir.spec import LatentAttention
from support.contract import DECODER_SIZES
from support.logits import logits, program_of, some_tokens, stock_logits, worst
from support.models import write_checkpoint
from support.rotations import StockRotaryContract

if TYPE_CHECKING:
    from pathlib import Path

    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program
    from kept.ir.spec import Layer

SIZES = (*DECODER_SIZES, "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


def latent_of(layer: Layer) -> LatentAttention:
    """The latent attention of a layer that has it."""
    assert isinstance(layer.mixer, LatentAttention)
    return layer.mixer


class LatentContract(StockRotaryContract):
    sizes = SIZES
    numbers = ("rms_norm_eps",)
    words = ("hidden_act",)
    flags: ClassVar[tuple[str, ...]] = ("attention_bias", "tie_word_embeddings")
    lenient: ClassVar[tuple[str, ...]] = ("num_key_value_heads",)
    becomes_llama = "keys and values are projections of a latent"

    def test_norms_of_latents_do_not_follow_the_config(self, program: Program) -> None:
        mixer = latent_of(program.spec.layers[0])
        assert [norm.eps for _, norm, _ in mixer.norms()] == [LATENT_EPS] * 2
        assert program.spec.final_norm.eps != LATENT_EPS

    def test_keys_and_values_have_as_many_heads_as_queries(self, checkpoint: Checkpoint) -> None:
        with pytest.raises(CheckpointError, match=r"num_key_value_heads is 2, it must be 4, as num_attention_heads"):
            self.family.read_config({**checkpoint.config, "num_key_value_heads": 2})

    @pytest.mark.parametrize(("key", "value"), [("head_dim", 16), ("qk_head_dim", 28)])
    def test_computed_sizes_may_only_be_repeated(self, checkpoint: Checkpoint, key: str, value: int) -> None:
        plain = self.family.read_config(checkpoint.config)
        assert self.family.read_config({**checkpoint.config, key: value}) == plain
        with pytest.raises(CheckpointError, match=rf"{key} is 20, it must be {value}, which the class computes"):
            self.family.read_config({**checkpoint.config, key: 20})


class TestDeepseekV3(LatentContract):
    name = "deepseek_v3"
    flags = ("attention_bias", "rope_interleave", "tie_word_embeddings")


class TestDeepseekV2(LatentContract):
    name = "deepseek_v2"
    flags = ("attention_bias", "mlp_bias", "tie_word_embeddings")


class TestYoutu(LatentContract):
    name = "youtu"
    flags = ("attention_bias", "rope_interleave", "tie_word_embeddings")


class TestMiniCpm3(LatentContract):
    name = "minicpm3"
    flags = ("attention_bias", "mlp_bias", "tie_word_embeddings")


YARN = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 16, "mscale": 0.7, "mscale_all_dim": 0.9}

VARIANTS: dict[str, dict[str, Any]] = {
    "biased": {"attention_bias": True},
    "queries without a rank": {"q_lora_rank": None, "attention_bias": True},
    "yarn": {"rope_scaling": YARN},
    "yarn, tied": {"rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, "tie_word_embeddings": True},
}


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3", "minicpm3", "youtu"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_computes_what_the_stock_class_does(tmp_path: Path, name: str, variant: str) -> None:
    directory = write_checkpoint(tmp_path, name, **VARIANTS[variant])
    tokens, program = some_tokens(), program_of(directory)
    assert worst(logits(program, tokens), stock_logits(directory, tokens, torch.float64)) < 1e-5


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("name", ["deepseek_v3", "youtu"])
def test_pairs_that_rotate_are_those_of_the_flag(tmp_path: Path, name: str, *, interleave: bool) -> None:
    directory = write_checkpoint(tmp_path, name, rope_interleave=interleave)
    tokens, program = some_tokens(), program_of(directory)
    assert latent_of(program.spec.layers[0]).rope.interleaved == interleave  # type: ignore[union-attr]
    assert worst(logits(program, tokens), stock_logits(directory, tokens, torch.float64)) < 1e-5


@pytest.mark.parametrize(("name", "dense"), [("deepseek_v3", 2), ("deepseek_v2", 0), ("deepseek_v3", None)])
def test_mixtures_of_experts_are_refused(tmp_path: Path, name: str, dense: int | None) -> None:
    directory = write_checkpoint(tmp_path, name)
    config = {**program_config(directory), "first_k_dense_replace": dense, "num_hidden_layers": 5}
    with pytest.raises(CheckpointError, match=r"first_k_dense_replace is \d, it must be 5, .* experts are not supp"):
        FAMILIES[name].read_config(config)


def program_config(directory: Path) -> dict[str, Any]:
    """The config of a checkpoint."""
    from kept.checkpoint.reader import open_checkpoint

    return dict(open_checkpoint(directory).config)
