"""Merge a LoRA adapter in peft's layout into its base checkpoint: W + s B A, as lazy tensors.

LoRA is arXiv 2106.09685. s is alpha / r, or alpha / sqrt(r) if `use_rslora` is set (rsLoRA, arXiv 2312.03732).
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kept.checkpoint.file_access import check_companions, check_readable
from kept.checkpoint.file_names import COPIED, SETTINGS
from kept.checkpoint.json_file import read_json
from kept.checkpoint.reader import stored_once
from kept.checkpoint.weights import PREFERRED
from kept.errors import CheckpointError
from kept.ir.tensors import Computed, Lazy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from kept.checkpoint.reader import Checkpoint

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")

DOWN, UP, BASE_LAYER = ".lora_A.weight", ".lora_B.weight", ".base_layer.weight"
"""Endings of peft's tensor names: A (rank, in), B (out, rank), and a base weight that the adapter stores itself."""

PREFIX = "base_model.model."
"""Prefix of peft's tensor names; the rest is the name in the base model."""

READ = {
    *("peft_type", "task_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights"),
    *("target_modules", "exclude_modules", "layers_to_transform"),
}
"""Keys of the adapter's config that this module reads."""

HARMLESS = {
    *("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout", "peft_version"),
    *("layers_pattern", "megatron_core", "qalora_group_size", "runtime_config", "loftq_config", "ensure_weight_tying"),
    "fan_in_fan_out",
}
"""Keys that do not change the merged weights: training settings, and `fan_in_fan_out`, which peft itself corrects."""

CONV1D = {"gpt2": ("c_attn", "c_proj", "c_fc")}
"""Modules of class Conv1D, by model type; Conv1D stores its weight as (in, out)."""

PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal")
"""Values of `init_lora_weights` that leave the base weights unchanged; PiSSA, OLoRA and others change them."""


@dataclass(frozen=True)
class LowRank:
    """The operation W + s B A. `transposed` means that W is stored as (in, out)."""

    scale: float
    transposed: bool = False

    def __call__(self, weight: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """Return rows of the merged weight from the same rows of `weight` (and of `up`, unless transposed)."""
        update = up @ down
        return weight + self.scale * (update.T if self.transposed else update)


def is_adapter(directory: Path) -> bool:
    """Return whether a directory holds a LoRA adapter.

    Raises CheckpointError if it also holds the weights of a whole model.
    """
    if not os.path.lexists(directory / CONFIG):
        return False
    whole = next((name for name in PREFERRED if os.path.lexists(directory / name)), None)
    if whole is not None:
        raise CheckpointError(
            f"{directory / CONFIG}: transformers loads {whole} with this adapter where peft is installed, else "
            "without; move the adapter into a directory of its own"
        )
    return True


def stated_base(directory: Path) -> str:
    """Return the base model that the adapter's config names. Raises CheckpointError if it names none."""
    named = _config(directory).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"{directory}: is an adapter (peft) and names no base; say which with --base")
    return named


def merged(directory: Path, base: Checkpoint) -> Checkpoint:
    """Return the base checkpoint with the adapter merged into its weights.

    The merged tensors are lazy and are rounded once, to the base's dtypes. Raises CheckpointError for an adapter that
    is not plain LoRA or does not fit the base.
    """
    config = _config(directory)
    scale = _scale(directory, config)
    file = _weights(directory)
    stored = dict(stored_once((file,)))
    tensors = {**base.tensors, **_replaced(file, stored, base)}
    conv1d = CONV1D.get(str(base.config.get("model_type")), ())
    for module, (down, up) in _pairs(file, stored).items():
        name, what = f"{module}.weight", f"{file}: {module}.weight"
        _check_named(what, module, config)
        if down.shape[:1] != (config["r"],):
            raise CheckpointError(f"{what} has factors of rank {[*down.shape[:1]]}, {CONFIG} says {config['r']}")
        op = LowRank(scale, module.rpartition(".")[2] in conv1d)
        tensors[name] = _merged(what, tensors.get(name), (up, down), op)
    not_copied = [one for one in (*COPIED, *SETTINGS) if (directory / one).is_file()]
    left_out = (*base.left_out, *(f"the adapter's {one}" for one in not_copied))
    files = (*base.files, directory / CONFIG, file)
    return replace(base, tensors=tensors, files=files, left_out=left_out, adapter=directory)


def _config(directory: Path) -> dict[str, Any]:
    check_companions(directory, (CONFIG,))
    return read_json(directory / CONFIG)


def _scale(directory: Path, config: Mapping[str, Any]) -> float:
    """Return s, the factor on B A. Raises CheckpointError for a config that is not plain LoRA."""
    where = directory / CONFIG
    for key, wanted in (("peft_type", ("LORA",)), ("bias", ("none", None)), ("task_type", ("CAUSAL_LM", None))):
        if config.get(key) not in wanted:
            raise CheckpointError(f"{where}: {key} is {config.get(key)!r}; only LoRA of a language model is merged")
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        raise CheckpointError(f"{where}: init_lora_weights is {config['init_lora_weights']!r}, which changes the base")
    odd = next((key for key in config if key not in READ | HARMLESS and config[key]), None)
    if odd is not None:
        raise CheckpointError(f"{where}: {odd} is set, which is not plain LoRA; merge the adapter with peft")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CheckpointError(f"{where}: r is {rank!r} and lora_alpha {alpha!r}; both must be numbers, r above 0")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_named(what: str, module: str, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a module that the config excludes, because peft ignores its matrices.

    A regular expression in place of a list is not evaluated: its run time has no bound.
    """
    targets, excluded, layers = (
        config.get(key) for key in ("target_modules", "exclude_modules", "layers_to_transform")
    )
    layer = re.search(r"\.(\d{1,9})\.", module)
    if isinstance(targets, list) and not _is_among(module, targets):
        raise CheckpointError(f"{what} is not among target_modules of {CONFIG}, so peft ignores it")
    if isinstance(excluded, list) and _is_among(module, excluded):
        raise CheckpointError(f"{what} is among exclude_modules of {CONFIG}, so peft ignores it")
    if layers not in (None, []) and (
        layer is None or int(layer[1]) not in (layers if isinstance(layers, list) else [layers])
    ):
        raise CheckpointError(f"{what} is not among layers_to_transform of {CONFIG}, so peft ignores it")


def _is_among(module: str, names: list[Any]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _weights(directory: Path) -> Path:
    found = next((name for name in WEIGHTS if os.path.lexists(directory / name)), None)
    if found is None:
        raise CheckpointError(f"{directory}: is an adapter without {' or '.join(WEIGHTS)}; fetch it again")
    check_readable(directory, found)
    return directory / found


def _replaced(file: Path, tensors: Mapping[str, Lazy], base: Checkpoint) -> dict[str, Lazy]:
    """Return the base weights that the adapter stores itself (peft's `base_layer`), by their names in the base."""
    found = {
        n.removeprefix(PREFIX).removesuffix(BASE_LAYER) + ".weight": t
        for n, t in tensors.items()
        if n.endswith(BASE_LAYER)
    }
    for name, tensor in found.items():
        if name not in base.tensors or base.tensors[name].shape != tensor.shape:
            raise CheckpointError(f"{file}: {name} does not match a tensor of the base; merge the adapter with peft")
    return found


def _pairs(file: Path, stored: Mapping[str, Lazy]) -> dict[str, tuple[Lazy, Lazy]]:
    """Return B and A of each adapted weight, by the module's name in the base."""
    tensors = {name: tensor for name, tensor in stored.items() if not name.endswith(BASE_LAYER)}
    odd = next((n for n in tensors if not n.startswith(PREFIX) or not n.endswith((DOWN, UP))), None)
    if odd is not None:
        raise CheckpointError(f"{file}: {odd} is not a plain LoRA matrix; merge the adapter with peft")
    modules = {name.removeprefix(PREFIX).removesuffix(DOWN).removesuffix(UP): name for name in tensors}
    for module in modules:
        if not all(f"{PREFIX}{module}{end}" in tensors for end in (DOWN, UP)):
            raise CheckpointError(f"{file}: {module} has only one of its two matrices; fetch it again")
    return {m: (tensors[f"{PREFIX}{m}{DOWN}"], tensors[f"{PREFIX}{m}{UP}"]) for m in modules}


def _merged(what: str, weight: Lazy | None, factors: tuple[Lazy, Lazy], op: LowRank) -> Lazy:
    up, down = factors
    if weight is None:
        raise CheckpointError(f"{what} is not a tensor of the base; was the adapter trained on this base?")
    shapes = (*up.shape[:1], *down.shape[1:])
    if len(up.shape) != 2 or len(down.shape) != 2 or up.shape[1] != down.shape[0] or down.shape[0] == 0:
        raise CheckpointError(f"{what} has factors of shapes {list(up.shape)} and {list(down.shape)}, which do not fit")
    if weight.shape != (shapes[::-1] if op.transposed else shapes):
        raise CheckpointError(f"{what} is {list(weight.shape)} in the base, the adapter's is {list(shapes)}")
    if op.transposed:
        return Computed(weight.shape, weight.dtype, op, (weight, up, down))
    return Computed(weight.shape, weight.dtype, op, (weight, up), (down,), local=True)
