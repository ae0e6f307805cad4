"""FP8 checkpoints of transformers: blocks of DeepSeek, one scale a tensor, microscaling, and fbgemm's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

import kept
from kept.errors import CheckpointError
from support.logits import some_tokens, stock
from support.quantised import same_bits, weights_of, write_quantised
from support.stored import change_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

BLOCK = [32, 16]

LARGEST = 448.0

KINDS: Mapping[str, tuple[int, int] | None] = {"blocks": (32, 16), "tensor": None, "microscaling": (1, 32)}


def quantise(weight: Tensor, block: tuple[int, int] | None, *, exponents: bool = False) -> dict[str, Tensor]:
    """Float8 codes and the scales that undo them: one for each block, or one for all."""
    high, wide = block or tuple(weight.shape)
    tiles = weight.float().reshape(-1, high, weight.shape[1] // wide, wide)
    scale = tiles.abs().amax((1, 3)) / LARGEST
    bits = torch.ceil(torch.log2(scale)) + 127
    scale = torch.exp2(bits - 127) if exponents else scale
    codes = (tiles / scale[:, None, :, None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    stored = bits.to(torch.uint8) if exponents else scale
    return {"weight": codes.reshape(weight.shape), "weight_scale_inv": stored if block else stored.reshape(())}


def write(directory: Path, kind: str, **more: Any) -> Mapping[str, Mapping[str, Tensor]]:
    block, exponents = KINDS[kind], kind == "microscaling"
    name = "mxfp8" if exponents else "fp8"
    said = {"quant_method": name, "weight_block_size": list(block) if block and not exponents else None, **more}
    return write_quantised(directory, said, lambda weight: quantise(weight, block, exponents=exponents))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    parts, found = write(tmp_path / "model", kind), weights_of(tmp_path / "model")
    theirs: Any = Fp8Dequantize(None)
    for module, tensors in parts.items():
        wanted = theirs._dequantize_one(tensors["weight"], tensors["weight_scale_inv"], torch.float32)
        assert same_bits(found[f"{module}.weight"], wanted), module


@pytest.mark.parametrize("kind", ["blocks", "tensor"])
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "model", kind)
    kept.convert(tmp_path / "model", tmp_path / "out", to="same", dtype="float32", verify_tokens=16)
    tokens = some_tokens()
    with torch.inference_mode():
        theirs = stock(tmp_path / "model", torch.float32)(tokens).logits
        assert torch.equal(stock(tmp_path / "out", torch.float32)(tokens).logits, theirs)


def test_blocks_need_not_divide_the_matrix(tmp_path: Path) -> None:
    """DeepSeek's last blocks are smaller; the scale of an element is that of row // 48 and column // 48."""
    grid = torch.Generator().manual_seed(3)

    def quantised(weight: Tensor) -> dict[str, Tensor]:
        shape = [-(-size // 48) for size in weight.shape]
        return {
            "weight": weight.to(torch.float8_e4m3fn),
            "weight_scale_inv": torch.rand(shape, generator=grid) + 0.5,
        }

    parts = write_quantised(tmp_path / "model", {"quant_method": "fp8", "weight_block_size": [48, 48]}, quantised)
    found = weights_of(tmp_path / "model")
    for module, tensors in parts.items():
        codes, scale = tensors["weight"].float(), tensors["weight_scale_inv"]
        spread = scale.repeat_interleave(48, 0).repeat_interleave(48, 1)[: codes.shape[0], : codes.shape[1]]
        assert same_bits(found[f"{module}.weight"], codes * spread), module


def test_fbgemm_has_a_scale_for_each_row(tmp_path: Path) -> None:
    def quantised(weight: Tensor) -> dict[str, Tensor]:
        found = quantise(weight, (1, weight.shape[1]))
        return {"weight": found["weight"], "weight_scale": found["weight_scale_inv"]}

    parts = write_quantised(tmp_path / "model", {"quant_method": "fbgemm_fp8"}, quantised)
    found = weights_of(tmp_path / "model")
    for module, tensors in parts.items():
        assert same_bits(found[f"{module}.weight"], tensors["weight"].float() * tensors["weight_scale"]), module


def test_static_activation_scales_are_left_out_and_said(tmp_path: Path) -> None:
    section = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
    scale = {"activation_scale": torch.tensor(0.02)}
    write_quantised(
        tmp_path / "model", section, lambda one: {**quantise(one, None), **{k: v.clone() for k, v in scale.items()}}
    )
    model = kept.open_model(tmp_path / "model")
    assert not any("activation_scale" in name for name in model.checkpoint.tensors)
    assert model.config_notes[0] == (
        "the quantised model rounds activations to float8 (static scales); the output does not"
    )
    assert model.quantised == "F8_E4M3, scales for a tensor (7 tensors), F32 (5 tensors)"


def test_another_grid_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "model", "blocks")
    change_json(
        tmp_path / "model" / "config.json", quantization_config={"quant_method": "fp8", "weight_block_size": "128"}
    )
    with pytest.raises(CheckpointError, match="weight_block_size is '128', it must be two positive integers"):
        kept.open_model(tmp_path / "model")
    write_quantised(
        tmp_path / "odd",
        {"quant_method": "fp8"},
        lambda one: {**quantise(one, None), "weight_scale_inv": torch.ones(7, 3)},
    )
    with pytest.raises(CheckpointError, match=r"weight_scale_inv: has shape \[7, 3\], which does not divide a weight"):
        kept.open_model(tmp_path / "odd")
