"""The `adapter_config.json` of peft: which modules an adapter changes, and how much."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.checkpoint.file_access import check_companions
from kept.checkpoint.json_file import read_json
from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

CONFIG = "adapter_config.json"

READ = {
    *("peft_type", "task_type", "r", "lora_alpha", "use_rslora", "use_dora", "bias", "init_lora_weights"),
    *("target_modules", "exclude_modules", "layers_to_transform", "modules_to_save", "rank_pattern", "alpha_pattern"),
}
"""Keys of the adapter's config that this module reads."""

HARMLESS = {
    *("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout", "peft_version"),
    *("layers_pattern", "megatron_core", "qalora_group_size", "runtime_config", "loftq_config", "ensure_weight_tying"),
    "fan_in_fan_out",
}
"""Keys that do not change the merged weights: training settings, and `fan_in_fan_out`, which peft itself corrects."""

ALLOWED = {
    "peft_type": ("LORA",),
    "bias": ("none", "all", "lora_only", None),
    "task_type": ("CAUSAL_LM", None),
}
"""Supported values of keys that have few."""

PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal")
"""Values of `init_lora_weights` that leave the base weights unchanged; PiSSA, OLoRA and others change them."""

LITERAL = re.compile(r"\^?[\w.]+")
"""A pattern that names modules without operators: it is compared as text, because a regular expression of a file may
need any amount of time."""


@dataclass(frozen=True)
class AdapterConfig:
    """An adapter's config. Errors name `where`, its file."""

    where: Path
    keys: Mapping[str, Any]

    @property
    def trains_biases(self) -> bool:
        """Whether the adapter stores biases of the base."""
        return self.keys.get("bias") in ("all", "lora_only")

    @property
    def is_dora(self) -> bool:
        """Whether weights have trained lengths."""
        return bool(self.keys.get("use_dora"))

    def rank(self, module: str) -> int:
        """Return the rank of a module."""
        found = self._by_pattern("rank_pattern", module, self.keys.get("r"))
        if type(found) is not int or found < 1:
            raise CheckpointError(f"{self.where}: the rank of {module} is {found!r}, it must be a positive integer")
        return found

    def scale(self, module: str) -> float:
        """Return s, the factor on B A: alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732)."""
        rank, alpha = self.rank(module), self._by_pattern("alpha_pattern", module, self.keys.get("lora_alpha"))
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise CheckpointError(f"{self.where}: lora_alpha of {module} is {alpha!r}, it must be a number")
        return alpha / (math.sqrt(rank) if self.keys.get("use_rslora") else rank)

    def saves(self, module: str) -> bool:
        """Whether the adapter stores this module whole."""
        return is_among(module, self.keys.get("modules_to_save") or [])

    def check_named(self, what: str, module: str) -> None:
        """Raise CheckpointError for a module that the config excludes, because peft ignores its matrices.

        A regular expression in place of a list is not evaluated: its run time has no bound.
        """
        targets, excluded, layers = (
            self.keys.get(key) for key in ("target_modules", "exclude_modules", "layers_to_transform")
        )
        layer = re.search(r"\.(\d{1,9})\.", module)
        if isinstance(targets, list) and not is_among(module, targets):
            raise CheckpointError(f"{what} is not among target_modules of {CONFIG}, so peft ignores it")
        if isinstance(excluded, list) and is_among(module, excluded):
            raise CheckpointError(f"{what} is among exclude_modules of {CONFIG}, so peft ignores it")
        if layers not in (None, []) and (
            layer is None or int(layer[1]) not in (layers if isinstance(layers, list) else [layers])
        ):
            raise CheckpointError(f"{what} is not among layers_to_transform of {CONFIG}, so peft ignores it")

    def check_targets(self, file: Path, modules: Iterable[str]) -> None:
        """Raise CheckpointError for a name in `target_modules` or `modules_to_save` of which no module is stored."""
        stored = [*modules]
        for key in ("target_modules", "modules_to_save"):
            names = self.keys.get(key)
            for name in names if isinstance(names, list) else []:
                if not any(is_among(module, [name]) for module in stored):
                    raise CheckpointError(f"{self.where}: {key} names {name!r}, but {file.name} stores no such module")

    def _by_pattern(self, key: str, module: str, default: object) -> Any:  # noqa: ANN401 - JSON
        patterns = self.keys.get(key) or {}
        if not isinstance(patterns, dict):
            raise CheckpointError(f"{self.where}: {key} must be an object")
        for pattern, value in patterns.items():
            if LITERAL.fullmatch(pattern) is None:
                raise CheckpointError(
                    f"{self.where}: {key} has the pattern {pattern[:60]!r}; merge the adapter with peft"
                )
            if module == pattern.lstrip("^") or (not pattern.startswith("^") and module.endswith(f".{pattern}")):
                return value
        return default


def is_among(module: str, names: list[Any]) -> bool:
    """Whether a module has one of these names, or a path that ends with one."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def stated_config(directory: Path) -> AdapterConfig:
    """Return the config of an adapter, unchecked. Raises CheckpointError if it is not a JSON object."""
    check_companions(directory, (CONFIG,))
    return AdapterConfig(directory / CONFIG, read_json(directory / CONFIG))


def checked_config(directory: Path) -> AdapterConfig:
    """Return the config of an adapter. Raises CheckpointError if it is neither LoRA nor DoRA of a language model."""
    found = stated_config(directory)
    where, keys = found.where, found.keys
    for key, wanted in ALLOWED.items():
        if keys.get(key) not in wanted:
            raise CheckpointError(f"{where}: {key} is {keys.get(key)!r}; only LoRA of a language model is merged")
    if keys.get("init_lora_weights") not in PLAIN_STARTS:
        raise CheckpointError(f"{where}: init_lora_weights is {keys['init_lora_weights']!r}, which changes the base")
    odd = next((key for key in keys if key not in READ | HARMLESS and keys[key]), None)
    if odd is not None:
        raise CheckpointError(f"{where}: {odd} is set, which is not plain LoRA; merge the adapter with peft")
    return found
