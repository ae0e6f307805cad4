"""Merge a LoRA or DoRA adapter in peft's layout into its base checkpoint, as lazy tensors that are rounded once."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kept.checkpoint.adapter_config import CONFIG, AdapterConfig, checked_config, stated_config
from kept.checkpoint.file_access import check_readable
from kept.checkpoint.file_names import COPIED, SETTINGS
from kept.checkpoint.low_rank import LowRank, low_rank, transposed, with_column_lengths, with_row_lengths
from kept.checkpoint.reader import stored_once
from kept.checkpoint.weights import PREFERRED
from kept.errors import CheckpointError
from kept.ir.tensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kept.checkpoint.reader import Checkpoint
    from kept.ir.tensors import Lazy

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

PREFIX = "base_model.model."
"""Prefix of peft's tensor names; the rest is the name in the base model."""

BASE_LAYER = ".base_layer"
"""Part of the name of a weight or bias that peft stores of a wrapped module."""

LINEAR, EMBEDDING = (".lora_B.weight", ".lora_A.weight"), (".lora_embedding_B", ".lora_embedding_A")
"""Endings of B (out, rank) and A (rank, in). Of an embedding, `out` is its width and `in` its tokens."""

MAGNITUDE = ".lora_magnitude_vector"
"""Ending of the trained lengths of DoRA."""

CONV1D = {"gpt2": ("c_attn", "c_proj", "c_fc")}
"""Modules of class Conv1D, by model type; Conv1D stores its weight as (in, out)."""

HEAD = "lm_head.weight"
"""A tensor that an adapter may add: a trained head of a model that ties its own."""


@dataclass(frozen=True)
class Update:
    """The factors of one module, and its trained lengths with DoRA. `embeds`: the module is an embedding."""

    up: Lazy
    down: Lazy
    magnitude: Lazy | None
    embeds: bool


def is_adapter(directory: Path) -> bool:
    """Return whether a directory holds an adapter.

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
    named = stated_config(directory).keys.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"{directory}: is an adapter (peft) and names no base; say which with --base")
    return named


def merged(directory: Path, base: Checkpoint) -> Checkpoint:
    """Return the base checkpoint with the adapter merged into its weights.

    The merged tensors are lazy and are rounded once, to the base's dtypes. Raises CheckpointError for an adapter of
    another kind, or one that does not fit the base.
    """
    config, file = checked_config(directory), _weights(directory)
    stored = dict(stored_once((file,)))
    odd = next((name for name, tensor in stored.items() if tensor.dtype not in DTYPE_BYTES), None)
    if odd is not None:
        raise CheckpointError(
            f"{file}: {odd} has dtype {stored[odd].dtype}, it must be one of {', '.join(DTYPE_BYTES)}"
        )
    updates = _updates(file, stored, config)
    whole = _replaced(file, stored, base, config)
    tensors = {**base.tensors, **whole}
    conv1d = CONV1D.get(str(base.config.get("model_type")), ())
    for module, update in updates.items():
        name, what = f"{module}.weight", f"{file}: {module}.weight"
        config.check_named(what, module)
        if update.down.shape[:1] != (config.rank(module),):
            raise CheckpointError(
                f"{what} has factors of rank {[*update.down.shape[:1]]}, {CONFIG} says {config.rank(module)}"
            )
        op = LowRank(config.scale(module), module.rpartition(".")[2] in conv1d)
        tensors[name] = _merged(what, tensors.get(name), update, op)
    config.check_targets(file, [*updates, *(name.rpartition(".")[0] for name in whole)])
    not_copied = [one for one in (*COPIED, *SETTINGS) if (directory / one).is_file()]
    left_out = (*base.left_out, *(f"the adapter's {one}" for one in not_copied))
    files = (*base.files, directory / CONFIG, file)
    return replace(base, tensors=tensors, files=files, left_out=left_out, adapter=directory)


def _weights(directory: Path) -> Path:
    found = next((name for name in WEIGHTS if os.path.lexists(directory / name)), None)
    if found is None:
        raise CheckpointError(f"{directory}: is an adapter without {' or '.join(WEIGHTS)}; fetch it again")
    check_readable(directory, found)
    return directory / found


def _updates(file: Path, stored: Mapping[str, Lazy], config: AdapterConfig) -> dict[str, Update]:
    """Return the factors of each adapted module, by its name in the base."""
    found: dict[str, Update] = {}
    for ends in (LINEAR, EMBEDDING):
        names = {name.removesuffix(end) for name in stored for end in ends if name.endswith(end)}
        for name in sorted(names):
            module = name.removeprefix(PREFIX)
            if not all(f"{name}{end}" in stored for end in ends):
                raise CheckpointError(f"{file}: {module} has only one of its two matrices; fetch it again")
            magnitude = stored.get(f"{name}{MAGNITUDE}")
            if (magnitude is not None) != config.is_dora:
                state = "no" if magnitude is None else "a"
                raise CheckpointError(f"{file}: {module} has {state} magnitude, use_dora in {CONFIG} says otherwise")
            up, down = (stored[f"{name}{end}"] for end in ends)
            found[module] = Update(up, down, magnitude, ends == EMBEDDING)
    return found


def _replaced(file: Path, stored: Mapping[str, Lazy], base: Checkpoint, config: AdapterConfig) -> dict[str, Lazy]:
    """Return the tensors that the adapter stores whole, by name in the base: saved modules, base layers and biases."""
    parts = (*LINEAR, *EMBEDDING, MAGNITUDE)
    found = {}
    for stated, tensor in stored.items():
        if stated.startswith(PREFIX) and stated.endswith(parts):
            continue
        name = stated.removeprefix(PREFIX).replace(f"{BASE_LAYER}.", ".")
        module, _, kind = name.rpartition(".")
        known = f"{BASE_LAYER}.weight" in stated or config.saves(module) or (kind == "bias" and config.trains_biases)
        if not stated.startswith(PREFIX) or not known:
            raise CheckpointError(f"{file}: {stated} is not a plain LoRA matrix; merge the adapter with peft")
        own = base.tensors.get(name)
        if own is None and name != HEAD:
            raise CheckpointError(f"{file}: {name} is not a tensor of the base; was the adapter trained on this base?")
        if own is not None and own.shape != tensor.shape:
            shapes = f"{list(tensor.shape)}, the base's is {list(own.shape)}"
            raise CheckpointError(f"{file}: {name} is {shapes}; merge the adapter with peft")
        found[name] = tensor
    return found


def _merged(what: str, weight: Lazy | None, update: Update, op: LowRank) -> Lazy:
    up, down = update.up, update.down
    if weight is None:
        raise CheckpointError(f"{what} is not a tensor of the base; was the adapter trained on this base?")
    shapes = (*up.shape[:1], *down.shape[1:])
    if len(up.shape) != 2 or len(down.shape) != 2 or up.shape[1] != down.shape[0] or down.shape[0] == 0:
        raise CheckpointError(f"{what} has factors of shapes {list(up.shape)} and {list(down.shape)}, which do not fit")
    by_columns = op.transposed or update.embeds
    if weight.shape != (shapes[::-1] if by_columns else shapes):
        raise CheckpointError(f"{what} is {list(weight.shape)} in the base, the adapter's is {list(shapes)}")
    factors = (transposed(down), transposed(up)) if update.embeds else (up, down)
    found = low_rank(weight, *factors, op)
    if update.magnitude is None:
        return found
    if update.magnitude.shape != up.shape[:1]:
        raise CheckpointError(
            f"{what} has a magnitude of shape {list(update.magnitude.shape)}, not {list(up.shape[:1])}"
        )
    return (with_column_lengths if by_columns else with_row_lengths)(found, update.magnitude)
