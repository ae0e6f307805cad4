"""MXFP4 as gpt-oss stores it: blocks of 32 codes of 4 bits and a byte of exponent each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from kept.checkpoint.safetensors_header import read_header
from kept.errors import CheckpointError
from kept.families.config import Config
from kept.quantised import mxfp4
from kept.quantised.modules import MethodSettings
from support.quantised import same_bits, weights_of, write_quantised

if TYPE_CHECKING:
    from pathlib import Path

    from kept.quantised.modules import Dequantised

EXPERTS, ROWS, BLOCKS = 3, 10, 2


def stored(random: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=random)
    return blocks, torch.randint(110, 140, shape, dtype=torch.uint8, generator=random)


def read(file: Path, tensors: dict[str, Tensor]) -> Dequantised:
    save_file(tensors, file)
    return mxfp4.read(MethodSettings(Config({}), "BF16"), dict(read_header(file)))


def test_experts_are_those_of_transformers(tmp_path: Path) -> None:
    blocks, scales = stored(torch.Generator().manual_seed(0), EXPERTS, ROWS, BLOCKS)
    found = read(
        tmp_path / "m.safetensors",
        {"mlp.experts.gate_up_proj_blocks": blocks, "mlp.experts.gate_up_proj_scales": scales},
    )
    weight = found.weights["mlp.experts.gate_up_proj"]
    wanted = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert weight.shape == tuple(wanted.shape) == (EXPERTS, 64, ROWS)
    assert same_bits(weight.value("float32"), wanted)
    assert same_bits(weight.rows(1, 3, "float32"), wanted[1:3].contiguous())
    assert found.replaced == {"mlp.experts.gate_up_proj_blocks", "mlp.experts.gate_up_proj_scales"}
    swapped = convert_moe_packed_tensors(blocks >> 4 | blocks << 4, scales, dtype=torch.float32)
    assert not torch.equal(weight.value("float32"), swapped)


def test_matrices_of_a_dense_model(tmp_path: Path) -> None:
    """Without an axis of experts a matrix is (out, in)."""
    random, wanted = torch.Generator().manual_seed(1), list[Tensor]()

    def quantised(weight: Tensor) -> dict[str, Tensor]:
        blocks, scales = stored(random, weight.shape[0], weight.shape[1] // 32)
        wanted.append(convert_moe_packed_tensors(blocks[None], scales[None], dtype=torch.float32)[0].T)
        return {"weight_blocks": blocks, "weight_scales": scales}

    parts = write_quantised(tmp_path / "model", {"quant_method": "mxfp4"}, quantised)
    found = weights_of(tmp_path / "model")
    for number, module in enumerate(parts):
        assert same_bits(found[f"{module}.weight"], wanted[number].contiguous()), module


def test_blocks_without_scales(tmp_path: Path) -> None:
    blocks, scales = stored(torch.Generator().manual_seed(2), ROWS, BLOCKS)
    with pytest.raises(CheckpointError, match="up_scales: is missing"):
        read(tmp_path / "m.safetensors", {"up_blocks": blocks})
    with pytest.raises(CheckpointError, match="up_blocks: blocks and scales of shapes"):
        read(tmp_path / "m.safetensors", {"up_blocks": blocks, "up_scales": scales[:4].clone()})
