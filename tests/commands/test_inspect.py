"""`inspect` against sizes by hand, norms by their vectors, and every target with its passes or its reason."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

import kept
from kept.errors import CheckpointError
from support.logits import program_of
from support.models import write_checkpoint
from support.tiny import TINY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def orion(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "orion", "orion", dtype=torch.bfloat16)


def test_an_orion_at_a_glance(orion: Path) -> None:
    found = kept.inspect(orion)
    tensors = load_file(orion / "model.safetensors")
    assert found.path == str(orion)
    assert (found.family, found.dtype) == ("orion", "bfloat16")
    assert found.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert found.nbytes == 2 * found.parameters
    per_token = 3 * 2 * (2 * 16) * 2  # layers, keys and values, heads x size, bytes
    assert found.kv_cache == {found.spec.context: per_token * found.spec.context}
    assert found.spec == program_of(orion).spec
    assert found.description[1].startswith("layers 0-2: LayerNorm with bias, attention 4 / 2 key-value heads x 16")


def test_every_norm_with_the_length_of_its_bias(orion: Path) -> None:
    found = {norm.name: norm for norm in kept.inspect(orion).norms}
    tensors = load_file(orion / "model.safetensors")
    assert len(found) == 7
    for ours, theirs in (
        ("layers.1.mixer_norm", "model.layers.1.input_layernorm"),
        ("layers.2.mlp_norm", "model.layers.2.post_attention_layernorm"),
        ("final_norm", "model.norm"),
    ):
        ratio = tensors[f"{theirs}.bias"].float().norm() / tensors[f"{theirs}.weight"].float().norm()
        assert found[ours].kind == "layer"
        assert found[ours].bias_to_gain == pytest.approx(float(ratio), rel=1e-5)


def test_norms_without_a_bias_have_none(tmp_path: Path) -> None:
    norms = kept.inspect(write_checkpoint(tmp_path, "llama")).norms
    assert {(norm.kind, norm.bias_to_gain) for norm in norms} == {("rms", 0.0)}


def test_a_target_with_its_passes_or_its_reason(tmp_path: Path) -> None:
    reach, *_ = kept.inspect(write_checkpoint(tmp_path / "qwen2", "qwen2")).targets
    assert (reach.target, reach.promise, reach.passes, reach.refusal) == ("llama", "exact", ("fill-biases",), None)
    assert reach.domain == ()
    reach, *_ = kept.inspect(write_checkpoint(tmp_path / "gpt2", "gpt2")).targets
    assert (reach.promise, reach.passes) == (None, ())
    assert reach.refusal is not None
    assert reach.refusal.startswith("positions: positions are learned")


@pytest.mark.parametrize("family", TINY)
def test_every_family_is_plain_data(tmp_path: Path, family: str) -> None:
    found = kept.inspect(write_checkpoint(tmp_path, family))
    table = json.loads(json.dumps(asdict(found)))
    assert table["family"] == family
    assert table["spec"]["width"] == program_of(tmp_path).spec.width


def test_the_cache_counts_each_layer_s_own_heads(tmp_path: Path) -> None:
    program = program_of(write_checkpoint(tmp_path, "gpt2"))
    assert program.dtype == "F32"
    assert program.state_bytes(10) == 10 * 3 * 2 * 48 * 4


def test_only_headers_and_norms_are_read(orion: Path) -> None:
    wanted = kept.inspect(orion)
    tensors = load_file(orion / "model.safetensors")
    changed = {name: torch.zeros_like(tensor) for name, tensor in tensors.items() if "norm" not in name}
    save_file({**tensors, **changed}, orion / "model.safetensors")
    assert kept.inspect(orion) == wanted


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a directory"):
        kept.inspect(tmp_path / "nowhere")


def test_a_promise_comes_with_its_domain(tmp_path: Path) -> None:
    reach, *_ = kept.inspect(write_checkpoint(tmp_path, "qwen")).targets
    (where,) = reach.domain
    assert where.startswith("for sequences of up to 128 tokens: beyond them QWenLMHeadModel ")
