"""compressed-tensors checkpoints are read as the library decompresses them, to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import kept
from kept.errors import CheckpointError
from support.logits import logits, some_tokens, stock
from support.quantised import same_bits, weights_of, write_quantised
from support.stored import change_json, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

compressors = pytest.importorskip("compressed_tensors.compressors", reason="needs compressed-tensors")
quantization = pytest.importorskip("compressed_tensors.quantization")

INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
FP4 = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group"}

SCHEMES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "int4": ("pack-quantized", INT4),
    "int4 with zero points": ("pack-quantized", {**INT4, "symmetric": False}),
    "int3 across words": ("pack-quantized", {**INT4, "num_bits": 3, "symmetric": False}),
    "int8 packed": ("pack-quantized", INT8),
    "int8": ("int-quantized", INT8),
    "int8 with zero points": ("naive-quantized", {**INT8, "symmetric": False}),
    "float8 per row": ("float-quantized", FP8),
    "float8 per tensor": ("naive-quantized", {**FP8, "strategy": "tensor"}),
    "float8 per block": ("float-quantized", {**FP8, "strategy": "block", "block_structure": [48, 32]}),
    "MXFP8": ("mxfp8-quantized", {**FP8, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}),
    "MXFP4": ("mxfp4-pack-quantized", {**FP4, "group_size": 32, "scale_dtype": "torch.uint8"}),
    "NVFP4": ("nvfp4-pack-quantized", {**FP4, "strategy": "tensor_group", "group_size": 16}),
}


def compress(weight: Tensor, form: str, arguments: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a module, as the library writes them for simple scales."""
    whole, tiles = weight.float(), tiled(weight.float(), arguments)
    low, high, bits = tiles.amin((1, 3)), tiles.amax((1, 3)), arguments["num_bits"]
    largest = {"int": 2 ** (bits - 1) - 0.5, "float": 6.0 if bits == 4 else 448.0}[arguments["type"]]
    scale = torch.maximum(-low, high) / largest
    parts = {"weight": whole.to(dtype)}
    if "scale_dtype" in arguments:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    if form.startswith("nvfp4"):
        parts["weight_global_scale"] = torch.tensor([400.0]) / scale.max()
        scale = (scale * parts["weight_global_scale"]).to(torch.float8_e4m3fn).to(dtype)
    if not arguments["symmetric"]:
        scale = (high - low) / (2**bits - 1)
        lowest = -(2 ** (bits - 1))
        parts["weight_zero_point"] = (lowest - low / scale).round().clamp(lowest, -lowest - 1).to(torch.int8)
    parts["weight_scale"] = scale.reshape(1) if arguments["strategy"] == "tensor" else scale
    parts["weight_scale"] = parts["weight_scale"].to(dtype)
    scheme = scheme_of(form, arguments)
    packed = compressors.BaseCompressor.get_value_from_registry(form).compress(parts, scheme)
    return {name: tensor.contiguous() for name, tensor in packed.items()}


def tiled(weight: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """The weight as (row blocks, rows, column blocks, columns) of elements that share a scale, padded by repeats."""
    rows, columns = weight.shape
    sizes = {"tensor": (rows, columns), "channel": (1, columns), "block": arguments.get("block_structure")}
    high, wide = sizes.get(arguments["strategy"]) or (1, arguments["group_size"])
    padded = torch.nn.functional.pad(weight[None], (0, -columns % wide, 0, -rows % high), mode="replicate")[0]
    return padded.reshape(-1, high, padded.shape[1] // wide, wide)


def scheme_of(form: str, arguments: Mapping[str, Any]) -> Any:
    weights = quantization.QuantizationArgs(**arguments)
    return quantization.QuantizationScheme(targets=["Linear"], weights=weights, format=form)


def section(form: str, arguments: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": dict(arguments), "format": form}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
        **more,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", SCHEMES)
def test_weights_are_the_library_s(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    form, arguments = SCHEMES[kind]
    parts = write_quantised(
        tmp_path / "model", section(form, arguments), lambda weight: compress(weight, form, arguments, dtype), dtype
    )
    found, compressor = weights_of(tmp_path / "model"), compressors.BaseCompressor.get_value_from_registry(form)
    assert len(parts) == 7
    for module, tensors in parts.items():
        wanted = compressor.decompress(dict(tensors), scheme_of(form, arguments))["weight"]
        assert same_bits(found[f"{module}.weight"].to(wanted.dtype), wanted), module


@pytest.mark.parametrize("kind", ["int4", "int8", "float8 per row"])
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    form, arguments = SCHEMES[kind]
    model, tokens = tmp_path / "model", some_tokens()
    write_quantised(model, section(form, arguments), lambda one: compress(one, form, arguments, torch.float32))
    kept.convert(model, tmp_path / "out", to="llama", verify_tokens=16)
    assert "quantization_config" not in read_json(tmp_path / "out" / "config.json")
    with torch.inference_mode():
        theirs, ours = stock(model, torch.float32)(tokens).logits, stock(tmp_path / "out", torch.float32)(tokens).logits
    assert torch.equal(ours, theirs)


def test_a_zero_point_off_by_one_shows(tmp_path: Path) -> None:
    """Negative control: the same tensors with another offset, or without zero points, are another model."""
    form, arguments = SCHEMES["int4 with zero points"]
    parts = write_quantised(
        tmp_path / "model", section(form, arguments), lambda one: compress(one, form, arguments, torch.float32)
    )
    (module, tensors), *_ = parts.items()
    compressor = compressors.BaseCompressor.get_value_from_registry(form)
    found = weights_of(tmp_path / "model")[f"{module}.weight"]
    for changed in (
        {"weight_zero_point": tensors["weight_zero_point"] + 1},
        {"weight_packed": tensors["weight_packed"] ^ 1},
    ):
        wrong = compressor.decompress({**tensors, **changed}, scheme_of(form, arguments))["weight"]
        assert not same_bits(found, wrong)


def test_activation_order_of_old_versions(tmp_path: Path) -> None:
    """`weight_g_idx` names the group of each column; scale and zero point are those of that group."""
    form, arguments = SCHEMES["int4"]
    order = torch.arange(64).remainder(2).int()

    def quantise(weight: Tensor) -> dict[str, Tensor]:
        parts = compress(weight, form, arguments, torch.float32)
        return {**parts, "weight_g_idx": order.clone()} if weight.shape[1] == 64 else parts

    parts = write_quantised(tmp_path / "model", section(form, arguments), quantise)
    found = weights_of(tmp_path / "model")
    module = "model.layers.0.self_attn.q_proj"
    one = {name: tensor for name, tensor in parts[module].items() if name != "weight_g_idx"}
    plain = compressors.BaseCompressor.get_value_from_registry(form).decompress(one, scheme_of(form, arguments))[
        "weight"
    ]
    codes = plain / one["weight_scale"].repeat_interleave(32, 1)
    assert same_bits(found[f"{module}.weight"], codes.round() * one["weight_scale"][:, order.long()])
    assert not same_bits(found[f"{module}.weight"], plain)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "marlin-24"}, "format 'marlin-24' is not read"),
        (
            {"sparsity_config": {"format": "sparse-24-bitmask"}},
            "sparsity_config format 'sparse-24-bitmask' is not read",
        ),
        ({"transform_config": {"config_groups": {"u": {}}}}, "transform_config rotates activations"),
        ({"quantization_status": "frozen"}, "quantization_status is 'frozen', it must be compressed"),
        ({"config_groups": {}}, "down_proj.weight_packed: has shape"),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, changes: Mapping[str, Any], reason: str) -> None:
    form, arguments = SCHEMES["int4"]
    model = tmp_path / "model"
    write_quantised(model, section(form, arguments), lambda one: compress(one, form, arguments, torch.float32))
    change_json(model / "config.json", quantization_config={**section(form, arguments), **changes})
    with pytest.raises(CheckpointError) as refusal:
        kept.open_model(model)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "damage", "reason"),
    [
        ("int8 with zero points", lambda _: {}, "weight_zero_point: is missing, the config says"),
        ("int4 with zero points", lambda _: {}, "weight_zero_point: is missing, the config says"),
        (
            "int4 with zero points",
            lambda zero: {"weight_zero_point": zero.to(torch.int8)},
            "weight_zero_point: has shape",
        ),
    ],
)
def test_zero_points_that_do_not_fit(tmp_path: Path, kind: str, damage: Callable[[Tensor], Any], reason: str) -> None:
    form, arguments = SCHEMES[kind]

    def damaged(weight: Tensor) -> dict[str, Tensor]:
        parts = dict(compress(weight, form, arguments, torch.float32))
        zero = parts.pop("weight_zero_point")
        return {**parts, **damage(zero)}

    write_quantised(tmp_path / "model", section(form, arguments), damaged)
    with pytest.raises(CheckpointError) as refusal:
        kept.open_model(tmp_path / "model")
    assert reason in str(refusal.value)


def test_quantised_activations_are_said(tmp_path: Path) -> None:
    form, arguments = SCHEMES["int8"]
    said = section(form, arguments, kv_cache_scheme={"num_bits": 8})
    said["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "type": "int", "dynamic": True}
    write_quantised(tmp_path / "model", said, lambda one: compress(one, form, arguments, torch.float32))
    notes = kept.open_model(tmp_path / "model").config_notes
    assert notes[:2] == (
        "the quantised model rounds activations to int8; the output does not",
        "the quantised model rounds its KV cache; the output does not",
    )
    assert logits(kept.open_model(tmp_path / "model").program, some_tokens()).isfinite().all()
