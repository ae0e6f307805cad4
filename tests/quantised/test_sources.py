"""Quantised checkpoints as sources: records, notes, refusals by name, blocks, checks, text models and adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import kept
from kept.cli.root import main
from kept.commands.check import check
from kept.errors import CheckpointError
from kept.quantised.source import METHODS
from support.logits import stock
from support.models import write_checkpoint
from support.packed import awq_order, grouped, pack
from support.quantised import SIZES, weights_of, write_quantised
from support.stored import change_json, read_json, tensors_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SECTION = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}

UP = "model.layers.0.mlp.up_proj"


def awq(weight: Tensor) -> dict[str, Tensor]:
    codes, zero, scale = grouped(weight, 4, torch.arange(weight.shape[1]) // 32)
    return {"qweight": pack(awq_order(codes), 4), "qzeros": pack(awq_order(zero), 4), "scales": scale}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("quantised") / "llama-awq"
    write_quantised(directory, SECTION, awq)
    return directory


def test_a_conversion_says_what_was_quantised(model: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", "AWQ, 4 bits, groups of 32 (7 tensors), F32 (5 tensors)"
    result = CliRunner().invoke(main, ["convert", str(model), str(out), "--to", "qwen2", "--verify-tokens", "16"])
    assert result.exit_code == 0, result.output
    assert "promise exact: kept" in result.output
    assert read_json(out / "kept.json")["source"]["quantised"] == words
    assert words in (out / "README.md").read_text(encoding="utf-8")
    assert "quantization_config" not in read_json(out / "config.json")
    assert f"the file stores {words}" in CliRunner().invoke(main, ["inspect", str(model)]).output
    assert CliRunner().invoke(main, ["verify", str(model), str(out), "--verify-tokens", "16"]).exit_code in (0, 2)
    found = weights_of(model)
    assert all(torch.equal(tensors_of(out)[name], found[name]) for name in (f"{UP}.weight", "lm_head.weight"))


def test_weights_are_read_in_blocks(model: Path) -> None:
    tensor = kept.open_model(model).checkpoint.tensors[f"{UP}.weight"]
    assert tensor.by_rows
    blocks = [*tensor.blocks("float32", 7 * tensor.row_elements)]
    assert len(blocks) == 23
    assert torch.equal(torch.cat(blocks), tensor.value("float32"))


@pytest.mark.parametrize(
    "method", ["hqq", "quanto", "aqlm", "bitnet", "torchao", "modelopt", "auto-round", "sinq", "vptq"]
)
def test_other_methods_are_refused_by_name(model: Path, tmp_path: Path, method: str) -> None:
    other = write_checkpoint(tmp_path / "other", "llama")
    change_json(other / "config.json", quantization_config={"quant_method": method})
    with pytest.raises(CheckpointError) as refusal:
        kept.open_model(other)
    said = str(refusal.value)
    assert f"quantization_config: quantised weights ({method}) are not read; use the unquantised checkpoint" in said
    assert all(name in said for name in METHODS)
    assert "\n" not in said


def test_a_method_without_its_tensors(tmp_path: Path) -> None:
    plain = write_checkpoint(tmp_path / "plain", "llama")
    change_json(plain / "config.json", quantization_config=SECTION)
    with pytest.raises(CheckpointError, match="says awq, but no tensor is quantised like that; remove the key"):
        kept.open_model(plain)


def test_check_finds_a_scale_that_is_no_number(model: Path, tmp_path: Path) -> None:
    assert check(model).damage == ()
    write_quantised(tmp_path / "model", SECTION, awq)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{UP}.scales"][0, 0] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    (damage,) = check(tmp_path / "model").damage
    assert f"{UP}" in damage
    assert "NaN" in damage


def test_an_adapter_is_merged_into_dequantised_weights(model: Path, tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", "llama", **SIZES)
    tuned = get_peft_model(
        stock(base, torch.float32), LoraConfig(task_type="CAUSAL_LM", target_modules=["up_proj"], r=2)
    )
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.fill_(0.1)
    tuned.save_pretrained(str(tmp_path / "adapter"))
    before = weights_of(model)[f"{UP}.weight"]
    merged = kept.open_model(model, adapter=tmp_path / "adapter")
    after = merged.checkpoint.tensors[f"{UP}.weight"].value("float32")
    assert torch.allclose(after - before, torch.full_like(after, 8 / 2 * 2 * 0.1 * 0.1), atol=1e-6)
    assert merged.quantised.startswith("AWQ")
