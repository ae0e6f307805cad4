"""Tiny Llama checkpoints whose projections are stored quantised, and what their library makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

import kept
from support.models import write_checkpoint
from support.stored import change_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    Parts = Mapping[str, Tensor]
    """The tensors of a module by the last part of their names."""

    Quantise = Callable[[Tensor], Parts]

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 1, "head_dim": 16}


def write_quantised(
    directory: Path, section: Mapping[str, Any], quantise: Quantise, dtype: torch.dtype = torch.float32, **config: Any
) -> dict[str, Parts]:
    """Write a checkpoint with every projection of its layer quantised; return the parts of each module by its name."""
    write_checkpoint(directory, "llama", dtype=dtype, **{**SIZES, **config})
    tensors = load_file(directory / "model.safetensors")
    chosen = [name for name, tensor in tensors.items() if "layers" in name and tensor.ndim == 2]
    parts = {name.removesuffix(".weight"): quantise(tensors.pop(name)) for name in chosen}
    flat = {f"{module}.{part}": value for module, found in parts.items() for part, value in found.items()}
    save_file({**tensors, **flat}, directory / "model.safetensors", {"format": "pt"})
    change_json(directory / "config.json", quantization_config=dict(section))
    return parts


def weights_of(directory: Path) -> dict[str, Tensor]:
    """The weights that kept reads, in float32, by name."""
    return {name: tensor.value("float32") for name, tensor in kept.open_model(directory).checkpoint.tensors.items()}


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same dtype and bits; 0 and -0 differ."""
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    whole = {4: torch.int32, 2: torch.int16}[one.element_size()]
    return torch.equal(one.contiguous().view(whole), other.contiguous().view(whole))
