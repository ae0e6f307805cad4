"""AWQ checkpoints in the gemm layout: interleaved outputs, groups of inputs, zero points as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import kept
from kept.errors import CheckpointError
from support.packed import awq_order, grouped, pack
from support.quantised import same_bits, weights_of, write_quantised
from support.stored import change_json

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

GROUP = 32

SECTION: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}


def quantise(weight: Tensor) -> dict[str, Tensor]:
    codes, zero, scale = grouped(weight, 4, torch.arange(weight.shape[1]) // GROUP)
    return {"qweight": pack(awq_order(codes), 4), "qzeros": pack(awq_order(zero), 4), "scales": scale}


def test_weights_follow_the_rule(tmp_path: Path) -> None:
    wanted = []

    def quantised(weight: Tensor) -> dict[str, Tensor]:
        group = torch.arange(weight.shape[1]) // GROUP
        codes, zero, scale = grouped(weight, 4, group)
        wanted.append(((codes - zero[group]) * scale.float()[group]).T.contiguous())
        return quantise(weight)

    parts = write_quantised(tmp_path / "model", SECTION, quantised)
    found = weights_of(tmp_path / "model")
    for module, weight in zip(parts, wanted, strict=True):
        assert same_bits(found[f"{module}.weight"], weight), module


def test_weights_are_those_that_compressed_tensors_converts(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="needs compressed-tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    parts = write_quantised(tmp_path / "model", SECTION, quantise)
    found = weights_of(tmp_path / "model")
    arguments = QuantizationArgs(num_bits=4, symmetric=False, strategy="group", group_size=GROUP)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments, format="pack-quantized")
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    for module, tensors in parts.items():
        named = {f"{module}.{part}": tensor.clone() for part, tensor in tensors.items()}
        converted = AutoAWQConverter(group_size=GROUP).process(named)
        local = {name.removeprefix(f"{module}."): tensor for name, tensor in converted.items()}
        local["weight_scale"] = local["weight_scale"].float()
        assert same_bits(found[f"{module}.weight"], compressor.decompress(local, scheme)["weight"]), module


def test_another_order_is_another_model(tmp_path: Path) -> None:
    """Negative control: outputs packed in their natural order are read as other weights."""

    def plain(weight: Tensor) -> dict[str, Tensor]:
        codes, zero, scale = grouped(weight, 4, torch.arange(weight.shape[1]) // GROUP)
        return {"qweight": pack(codes, 4), "qzeros": pack(zero, 4), "scales": scale}

    parts = write_quantised(tmp_path / "model", SECTION, quantise)
    write_quantised(tmp_path / "plain", SECTION, plain)
    right, wrong = weights_of(tmp_path / "model"), weights_of(tmp_path / "plain")
    assert all(not torch.equal(right[f"{module}.weight"], wrong[f"{module}.weight"]) for module in parts)


def test_rows_are_read_in_any_blocks(tmp_path: Path) -> None:
    """A word holds 8 outputs, and a block of rows may begin or end within it."""
    write_quantised(tmp_path / "model", SECTION, quantise)
    tensor = kept.open_model(tmp_path / "model").checkpoint.tensors["model.layers.0.mlp.up_proj.weight"]
    whole, read = tensor.value("float32"), tensor.reader("float32")
    for start, stop in ((0, 1), (3, 21), (7, 8), (8, 16), (155, 160)):
        assert torch.equal(read(start, stop), whole[start:stop])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "gemv"}, "AWQ's version 'gemv' is not read, only gemm; use the unquantised checkpoint"),
        ({"bits": 8}, "bits is 8, it must be 4"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    write_quantised(tmp_path / "model", SECTION, quantise)
    change_json(tmp_path / "model" / "config.json", quantization_config={**SECTION, **changes})
    with pytest.raises(CheckpointError, match=reason):
        kept.open_model(tmp_path / "model")
