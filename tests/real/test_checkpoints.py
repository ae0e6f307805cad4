"""A real Llama through the whole pipeline, and guards that real files asked for."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

import kept
from kept.errors import CheckpointError, OutputError
from support.models import write_checkpoint
from support.shared_data import DATA, needs_data

if TYPE_CHECKING:
    from pathlib import Path

STORIES = DATA / "checkpoints" / "stories260k"


@needs_data
def test_stories_round_trip_verify_generate(tmp_path: Path) -> None:
    done = kept.convert(STORIES, tmp_path / "out", verify_tokens=64)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (STORIES / "model.safetensors").read_bytes()
    assert done.verification is not None
    assert kept.verify(STORIES, tmp_path / "out", tokens=64).failure is None
    both = [kept.generate(path, "Once upon a time", max_new_tokens=16)[0].text for path in (STORIES, tmp_path / "out")]
    assert both[0] == both[1] != ""


@needs_data
def test_stored_padding_and_truncation_do_not_touch_a_prompt(tmp_path: Path) -> None:
    plain = kept.generate(STORIES, "Once upon a time there was a girl named", max_new_tokens=8)
    shutil.copytree(STORIES, tmp_path / "padded")
    file = tmp_path / "padded" / "tokenizer.json"
    file.chmod(0o644)
    table = json.loads(file.read_text())
    table["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(table))
    assert kept.generate(tmp_path / "padded", "Once upon a time there was a girl named", max_new_tokens=8) == plain


@needs_data
def test_inspect_measures_norms_on_a_text(tmp_path: Path) -> None:
    text = tmp_path / "my.txt"
    text.write_text("The old lighthouse keeper counted the ships. " * 20)
    norms = kept.inspect(DATA / "checkpoints" / "orion-9m", text).norms
    assert len(norms) == 17
    assert all(norm.mean_to_std is not None and norm.mean_to_std < 1 for norm in norms)
    assert all((norm.error_calibrated or 0) <= (norm.error_copied or 0) for norm in norms)


def test_a_source_that_is_not_finite_is_bad_input(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "orion", "orion")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"mlp\.up_proj\.weight holds 1 NaN"):
        kept.convert(source, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["orion"]


def test_a_foreign_directory_in_the_way_is_unchanged(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "orion", "orion")
    foreign = tmp_path / ".out.kept-partial"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="in the way"):
        kept.convert(source, tmp_path / "out")
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_a_half_precision_head_does_not_break_the_tail(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "orion", "orion")
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.float16)
    save_file(tensors, source / "model.safetensors")
    done = kept.convert(source, tmp_path / "out", verify_tokens=64)
    assert done.verification is not None
    assert done.verification.failure is None
