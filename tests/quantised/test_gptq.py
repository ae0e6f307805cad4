"""GPTQ checkpoints: words of codes, zero points less one, groups in order of activation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import kept
from kept.errors import CheckpointError
from support.packed import grouped, pack
from support.quantised import same_bits, weights_of, write_quantised
from support.stored import change_json, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

GROUP = 32


def order(inputs: int, *, activation_order: bool) -> Tensor:
    """The group of each input: in sequence, or in the order of a permutation."""
    groups = torch.arange(inputs) // GROUP
    return groups[torch.randperm(inputs, generator=torch.Generator().manual_seed(7))] if activation_order else groups


def quantise(
    weight: Tensor, bits: int, *, activation_order: bool = False, stored_order: bool = True
) -> dict[str, Tensor]:
    """The tensors of a module in format gptq: stored zero points are less by one."""
    group = order(weight.shape[1], activation_order=activation_order)
    codes, zero, scale = grouped(weight, bits, group)
    zero = zero.clamp(1)
    found = {"qweight": pack(codes.T, bits).T.contiguous(), "qzeros": pack(zero - 1, bits), "scales": scale}
    return {**found, "g_idx": group.int()} if stored_order else found


def by_rule(parts: Mapping[str, Tensor], weight_shape: tuple[int, int], bits: int, less: int = 1) -> Tensor:
    """Dequantise element by element: scale x (code - (stored zero + 1)), with the scale and zero of g_idx's group."""
    outputs, inputs = weight_shape
    group = parts.get("g_idx", torch.arange(inputs) // GROUP)
    codes = field(parts["qweight"].T, bits, inputs)
    zeros = field(parts["qzeros"], bits, outputs) + less
    at = group.long()
    return (codes.T - zeros[at]).T * parts["scales"].float()[at].T


def field(words: Tensor, bits: int, count: int) -> Tensor:
    """Read fields from the whole row as one number."""
    rows = []
    for row in words.tolist():
        whole = sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(row))
        rows.append([whole >> (bits * place) & (2**bits - 1) for place in range(count)])
    return torch.tensor(rows)


def section(bits: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": False, **more}


@pytest.mark.parametrize("activation_order", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_follow_the_rule(tmp_path: Path, bits: int, *, activation_order: bool) -> None:
    parts = write_quantised(
        tmp_path / "model",
        section(bits, desc_act=activation_order),
        lambda weight: quantise(weight, bits, activation_order=activation_order),
    )
    found = weights_of(tmp_path / "model")
    for module, tensors in parts.items():
        weight = found[f"{module}.weight"]
        assert same_bits(weight, by_rule(tensors, (weight.shape[0], weight.shape[1]), bits)), module
        for wrong in (
            by_rule(tensors, (weight.shape[0], weight.shape[1]), bits, less=0),
            by_rule({**tensors, "g_idx": tensors["g_idx"].flip(0)}, (weight.shape[0], weight.shape[1]), bits),
        ):
            assert not same_bits(weight, wrong)


@pytest.mark.parametrize("activation_order", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_are_those_of_gptqmodel(tmp_path: Path, bits: int, *, activation_order: bool) -> None:
    linear = pytest.importorskip("gptqmodel.nn_modules.qlinear.torch", reason="needs gptqmodel").TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    parts = write_quantised(
        tmp_path / "model", section(bits), lambda weight: quantise(weight, bits, activation_order=activation_order)
    )
    found = weights_of(tmp_path / "model")
    for module, tensors in parts.items():
        outputs, inputs = found[f"{module}.weight"].shape
        layer = linear(
            bits=bits,
            group_size=GROUP,
            sym=False,
            desc_act=activation_order,
            in_features=inputs,
            out_features=outputs,
            bias=False,
            register_buffers=True,
        )
        for name, tensor in tensors.items():
            getattr(layer, name).data = tensor.clone()
        layer.scales = layer.scales.float()
        convert_gptq_v1_to_v2_format_module(layer, bits, torch.int32)
        layer.post_init()
        wanted = layer.dequantize_weight().T.float()
        assert same_bits(found[f"{module}.weight"], wanted.contiguous()), module


def test_the_second_format_stores_zero_points_as_they_are(tmp_path: Path) -> None:
    parts = write_quantised(
        tmp_path / "model", section(4, checkpoint_format="gptq_v2"), lambda weight: quantise(weight, 4)
    )
    found = weights_of(tmp_path / "model")
    for module, tensors in parts.items():
        weight = found[f"{module}.weight"]
        assert same_bits(weight, by_rule(tensors, (weight.shape[0], weight.shape[1]), 4, less=0)), module


def test_groups_without_g_idx_and_bits_of_a_module(tmp_path: Path) -> None:
    """Old checkpoints have no g_idx, and `dynamic` gives modules other bits than the config's."""

    def quantised(weight: Tensor) -> dict[str, Tensor]:
        return quantise(weight, 8 if weight.shape[1] == 160 else 4, stored_order=False)

    parts = write_quantised(tmp_path / "model", section(4, dynamic={"+:.*down.*": {"bits": 8}}), quantised)
    found = weights_of(tmp_path / "model")
    for module, tensors in parts.items():
        weight = found[f"{module}.weight"]
        bits = 8 if "down" in module else 4
        assert same_bits(weight, by_rule(tensors, (weight.shape[0], weight.shape[1]), bits)), module
    assert kept.open_model(tmp_path / "model").quantised == (
        "GPTQ, 4 bits, groups of 32 (6 tensors), F32 (5 tensors), GPTQ, 8 bits, groups of 32 (1 tensor)"
    )


def test_a_zero_of_0_borrows_from_the_next(tmp_path: Path) -> None:
    """GPTQModel subtracts one from each field of a word at once, and adds it again when it loads."""
    kept_zeros: list[Tensor] = []

    def quantised(weight: Tensor) -> dict[str, Tensor]:
        codes, zero, scale = grouped(weight, 4, order(weight.shape[1], activation_order=False))
        zero[:, ::3] = 0
        kept_zeros.append(zero)
        words = (pack(zero, 4).long() - 0x11111111).to(torch.int32)
        return {"qweight": pack(codes.T, 4).T.contiguous(), "qzeros": words, "scales": scale}

    parts = write_quantised(tmp_path / "model", section(4), quantised)
    found = weights_of(tmp_path / "model")
    for zero, (module, tensors) in zip(kept_zeros, parts.items(), strict=True):
        weight = found[f"{module}.weight"]
        codes = field(tensors["qweight"].T, 4, weight.shape[1])
        at = torch.arange(weight.shape[1]) // GROUP
        assert same_bits(weight, (codes.T - zero[at]).T * tensors["scales"].float()[at].T), module


def test_float16_is_rounded_once(tmp_path: Path) -> None:
    write_quantised(tmp_path / "model", section(4), lambda weight: quantise(weight, 4))
    change_json(tmp_path / "model" / "config.json", dtype="float16", torch_dtype="float16")
    model = kept.open_model(tmp_path / "model")
    name = "model.layers.0.mlp.up_proj.weight"
    assert model.checkpoint.tensors[name].dtype == "F16"
    assert torch.equal(model.checkpoint.tensors[name].read(), model.checkpoint.tensors[name].value("float64").half())


def test_damaged_modules_are_named(tmp_path: Path) -> None:
    def wrong(weight: Tensor) -> dict[str, Tensor]:
        return {**quantise(weight, 4), "g_idx": torch.full(weight.shape[1:], 99, dtype=torch.int32)}

    write_quantised(tmp_path / "model", section(4), wrong)
    tensor = kept.open_model(tmp_path / "model").checkpoint.tensors["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match="a g_idx names a group outside of 0 to 1"):
        tensor.value("float32")
    write_quantised(tmp_path / "short", section(4), lambda one: {**quantise(one, 4), "scales": torch.ones(2, 8).half()})
    with pytest.raises(CheckpointError, match=r"down_proj\.qzeros: has shape"):
        kept.open_model(tmp_path / "short")
    change_json(tmp_path / "short" / "config.json", quantization_config=section(4, checkpoint_format="marlin"))
    with pytest.raises(CheckpointError, match="checkpoint_format 'marlin' is not read; use the unquantised"):
        kept.open_model(tmp_path / "short")
    assert read_json(tmp_path / "short" / "config.json")["quantization_config"]["bits"] == 4
