"""bitsandbytes checkpoints, written by transformers on the CPU, are read as bitsandbytes dequantises them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import kept
from kept.errors import CheckpointError
from support.logits import some_tokens, stock
from support.models import write_checkpoint
from support.quantised import SIZES, same_bits, weights_of
from support.stored import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

functional = pytest.importorskip("bitsandbytes.functional", reason="needs bitsandbytes")

KINDS: Mapping[str, Mapping[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4, double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "nf4 in bfloat16 words": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_quant_storage": torch.bfloat16,
    },
    "int8": {"load_in_8bit": True},
}

UP = "model.layers.0.mlp.up_proj"


def write(
    directory: Path, kind: str, dtype: torch.dtype = torch.float32, family: str = "llama", width: int = 128
) -> Path:
    sizes = {"n_layer": 1, "n_embd": 64, "n_inner": 128} if family == "gpt2" else {**SIZES, "intermediate_size": width}
    base = write_checkpoint(directory / "base", family, dtype=dtype, **sizes)
    config = BitsAndBytesConfig(**KINDS[kind])
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=dtype, device_map="cpu")
    model.save_pretrained(directory / "model")
    return directory / "model"


def by_library(tensors: Mapping[str, Tensor], module: str, dtype: torch.dtype) -> Tensor:
    """The weight of a module as bitsandbytes dequantises the stored tensors."""
    weight = tensors[f"{module}.weight"]
    if f"{module}.SCB" in tensors:
        found: Tensor = functional.int8_vectorwise_dequant(weight, tensors[f"{module}.SCB"])
        return found
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{module}.weight.")}
    state = functional.QuantState.from_dict(own, torch.device("cpu"))
    state.dtype = dtype
    whole: Tensor = functional.dequantize_4bit(weight, state)
    return whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_library_s(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    model = write(tmp_path, kind, dtype)
    tensors, found = load_file(model / "model.safetensors"), weights_of(model)
    modules = [name.removesuffix(".weight") for name in tensors if name.endswith("_proj.weight")]
    assert len(modules) == 7
    for module in modules:
        assert same_bits(found[f"{module}.weight"], by_library(tensors, module, torch.float32)), module


def test_blocks_cross_the_rows(tmp_path: Path) -> None:
    """Blocks run over the flattened matrix, as bitsandbytes quantises. Its AVX kernel begins them anew in each row when
    it dequantises, so the rule is written out for a width that blocks do not divide."""
    model, module = write(tmp_path, "nf4", width=160), "model.layers.0.mlp.down_proj"
    tensors = load_file(model / "model.safetensors")
    packed, table = tensors[f"{module}.weight"].flatten(), tensors[f"{module}.weight.quant_map"]
    codes = torch.stack((packed >> 4, packed & 15), 1).flatten().long()
    wanted = table[codes] * tensors[f"{module}.weight.absmax"].repeat_interleave(64)
    assert same_bits(weights_of(model)[f"{module}.weight"], wanted.view(64, 160))


@pytest.mark.parametrize("kind", ["nf4, double", "fp4"])
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    """The 8-bit model rounds its activations as well, so only 4 bits are compared."""
    model, tokens = write(tmp_path, kind), some_tokens()
    kept.convert(model, tmp_path / "out", to="same", verify_tokens=16)
    assert "quantization_config" not in read_json(tmp_path / "out" / "config.json")
    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, device_map="cpu").dequantize()
        assert torch.equal(stock(tmp_path / "out", torch.float32)(tokens).logits, theirs(tokens).logits)


def test_conv1d_is_stored_transposed(tmp_path: Path) -> None:
    """GPT-2's class holds (in, out), bitsandbytes (out, in)."""
    model, tokens = write(tmp_path, "nf4", family="gpt2"), some_tokens()
    kept.convert(model, tmp_path / "out", to="same", verify_tokens=16)
    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, device_map="cpu")
        ours = stock(tmp_path / "out", torch.float32)(tokens).logits
        assert (ours - theirs(tokens).logits).abs().max() < 1e-4 * ours.std()


def test_swapped_nibbles_are_another_model(tmp_path: Path) -> None:
    """Negative control: the low nibble first, or the offset of the maxima left out."""
    model = write(tmp_path, "nf4, double")
    tensors, right = load_file(model / "model.safetensors"), weights_of(model)[f"{UP}.weight"]
    packed = tensors[f"{UP}.weight"]
    wrong = by_library({**tensors, f"{UP}.weight": packed >> 4 | packed << 4}, UP, torch.float32)
    assert not torch.equal(right, wrong)
    state = functional.QuantState.from_dict(
        {name: tensor for name, tensor in tensors.items() if name.startswith(f"{UP}.weight.")}, torch.device("cpu")
    )
    state.offset = state.offset * 0
    assert not torch.equal(right, functional.dequantize_4bit(packed, state))


def test_rows_are_read_in_any_blocks(tmp_path: Path) -> None:
    tensor = kept.open_model(write(tmp_path, "nf4, double")).checkpoint.tensors[f"{UP}.weight"]
    whole, read = tensor.value("float32"), tensor.reader("float32")
    for start, stop in ((0, 1), (1, 3), (77, 128)):
        assert torch.equal(read(start, stop), whole[start:stop])


def test_what_is_said_of_the_source(tmp_path: Path) -> None:
    four, eight = (kept.open_model(write(tmp_path / kind, kind)) for kind in ("nf4, double", "int8"))
    assert four.quantised.startswith("bitsandbytes nf4, blocks of 64, double quantisation (7 tensors)")
    assert four.notes == ()
    assert eight.config_notes[0] == "the quantised model rounds activations to int8 (LLM.int8); the output does not"


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("weight.quant_state.bitsandbytes__nf4", torch.zeros(9, dtype=torch.uint8), "is not JSON"),
        ("weight.absmax", torch.ones(3), r"has shape \[3\]"),
        ("weight.quant_map", torch.ones(16, dtype=torch.float16), "is F16 of shape"),
        ("weight", torch.zeros(7, 1, dtype=torch.uint8), "does not hold 8192 codes of 4 bits"),
    ],
)
def test_damaged_modules_are_named(tmp_path: Path, part: str, value: Tensor, reason: str) -> None:
    model = write(tmp_path, "nf4")
    tensors = load_file(model / "model.safetensors")
    save_file({**tensors, f"{UP}.{part}": value}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{UP}\.{part}: {reason}"):
        kept.open_model(model)
