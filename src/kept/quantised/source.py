"""Dequantise the weights of a checkpoint while it is read, by the method that its config names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kept.checkpoint.adapter import CONV1D
from kept.errors import CheckpointError
from kept.families.config import Config
from kept.families.unread import QUANTISED, method
from kept.ir.tensors import TORCH_NAMES, Computed
from kept.quantised import awq, bitsandbytes, compressed_tensors, fp8, gptq, mxfp4
from kept.quantised.modules import WAY_OUT, MethodSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from kept.checkpoint.reader import Checkpoint
    from kept.ir.tensors import Lazy
    from kept.quantised.modules import Dequantised

METHODS: dict[str, Callable[[MethodSettings, Mapping[str, Lazy]], Dequantised]] = {
    "fp8": fp8.read,
    "mxfp8": fp8.read,
    "fbgemm_fp8": fp8.read,
    "compressed-tensors": compressed_tensors.read,
    "gptq": gptq.read,
    "awq": awq.read,
    "bitsandbytes": bitsandbytes.read,
    "mxfp4": mxfp4.read,
}
"""The methods that are read, by the `quant_method` of their configs."""

DECLARED = "BF16"
"""The default output dtype of dequantised weights, if the config names none."""


@dataclass(frozen=True)
class QuantisedSection:
    """The quantisation section of a config: its key, and the config without it."""

    key: str
    content: Any
    rest: Mapping[str, Any]


def unquantised(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint with dequantised weights and a config that says so; one without quantisation unchanged.

    Raises CheckpointError naming a method that is not read, or the tensor that does not fit its method.
    """
    section = _section(checkpoint.config)
    if section is None:
        return checkpoint
    name, where = method(section.content, section.key), f"config.json: {section.key}"
    if name not in METHODS or not isinstance(section.content, dict):
        known = ", ".join(METHODS)
        raise CheckpointError(f"{where}: quantised weights ({name}) are not read; {WAY_OUT}. Methods read are {known}")
    settings = MethodSettings(Config(section.content, where), _declared(checkpoint.config))
    found = METHODS[name](settings, checkpoint.tensors)
    if not found.weights:
        raise CheckpointError(f"{where}: says {name}, but no tensor is quantised like that; remove the key")
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in found.replaced}
    weights = {name: _oriented(name, weight, checkpoint.config) for name, weight in found.weights.items()}
    kinds = Counter([*(one.kind for one in found.weights.values()), *(one.dtype for one in kept.values())])
    words = ", ".join(f"{kind} ({count} tensor{'s' * (count > 1)})" for kind, count in kinds.most_common())
    return replace(checkpoint, config=section.rest, tensors={**kept, **weights}, quantised=words, notes=found.notes)


def _section(config: Mapping[str, Any]) -> QuantisedSection | None:
    """Return the quantisation section of a config, or of its text model; None if it has none."""
    for key in QUANTISED:
        if config.get(key):
            return QuantisedSection(key, config[key], {name: value for name, value in config.items() if name != key})
    text = config.get("text_config")
    inner = _section(text) if isinstance(text, dict) else None
    return None if inner is None else replace(inner, rest={**config, "text_config": inner.rest})


def _declared(config: Mapping[str, Any]) -> str:
    """Return the dtype of the model before it was quantised, which its config states."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        stated = part.get("dtype") or part.get("torch_dtype")
        found = next((name for name, word in TORCH_NAMES.items() if word == stated), None)
        if found is not None:
            return found
    return DECLARED


def _oriented(name: str, weight: Lazy, config: Mapping[str, Any]) -> Lazy:
    """Return a weight as its class stores it: quantised modules hold (out, in), Conv1D (in, out)."""
    module = name.removesuffix(".weight").rpartition(".")[2]
    if module not in CONV1D.get(str(config.get("model_type")), ()):
        return weight
    return Computed(weight.shape[::-1], weight.dtype, _transposed, (weight,))


def _transposed(weight: torch.Tensor) -> torch.Tensor:
    return weight.T.contiguous()
