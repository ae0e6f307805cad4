"""Check config keys that no item of a family reads but that transformers reads for every model.

The base class, caches and masks of transformers read keys of any config: `sliding_window` shortens the KV cache of
Llama, although Llama's layers never read it. Such a key must have a value that changes nothing.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.families.config import Config
    from kept.ir.facts import Facts
    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy

NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "is_causal": ((True,), "true: a decoder's attention is causal"),
    "use_bidirectional_attention": ((False,), "false: a decoder's attention is causal"),
    "is_encoder_decoder": ((False,), "false: only decoders are read"),
    "add_cross_attention": ((False,), "false: only decoders are read"),
    "cross_attention_hidden_size": ((), "null: only decoders are read"),
    "attention_chunk_size": ((), "null: chunked attention is not supported, and transformers' KV cache would apply it"),
    "num_kv_shared_layers": ((0,), "0: layers that share keys and values are not supported"),
    "alibi": ((False,), "false: ALiBi is not supported"),
    "use_alibi": ((False,), "false: ALiBi is not supported"),
    "per_layer_config": (({}, []), "null: per-layer settings are not supported"),
    "pruned_heads": (({}, []), "null: transformers would prune these heads on loading; save the pruned model"),
    "configuration_files": (([],), "null: transformers would read another config file; rename that one to config.json"),
    "attribute_map": (({},), "null: it renames keys of the config"),
}
"""For each key, the values besides null that change nothing, and the required value in words for error messages."""

QUANTISED = ("quantization_config", "compression_config", "quantization")
"""Keys that describe quantised weights: of transformers, older compressed-tensors and MLX."""

FULL = "full_attention"
"""The entry of `layer_types` for a layer without a sliding window."""


def check_unread(config: Config, facts: Facts) -> None:
    """Raise CheckpointError for a key that no item has read and that changes the output of transformers."""
    for key in QUANTISED:
        if config.get(key):
            raise CheckpointError(_quantised(config, key))
    for key, (values, wanted) in NEUTRAL.items():
        if key not in config.read and not _is_one_of(config.get(key), values):
            raise config.wrong(key, wanted)
    if "sliding_window" not in config.read:
        _check_window(config, facts)


def _check_window(config: Config, facts: Facts) -> None:
    """Raise CheckpointError for a sliding window: transformers' KV cache applies it, whatever the layers do."""
    of_family = "layer_types" in config.read
    size, types = config.get("sliding_window"), config.get("layer_types")
    if size is not None and (type(size) is not int or size < facts["context"]):
        wanted = f"null or at least the context, {facts['context']}: this family attends to all tokens"
        raise config.wrong("sliding_window", f"{wanted}, but transformers' KV cache would apply the window")
    if not of_family and types not in (None, [], [FULL] * facts["depth"]):
        raise config.wrong("layer_types", f"{FULL} for every layer: the layers of this family attend to all tokens")


FREQUENCIES = "*.inv_freq"
"""Name pattern of stored RoPE frequencies."""

ROUNDED = 1 / 64
"""Relative tolerance for a stored RoPE frequency: four times the rounding error of bfloat16."""


def check_buffers(tensors: Mapping[str, Lazy], spec: Spec) -> None:
    """Raise CheckpointError for stored RoPE frequencies that differ from the config's.

    Old checkpoints store them and old code used the stored values; current classes, and kept, compute them.
    """
    ropes = [*spec.ropes()]
    if not ropes or any(rope.scaling is not None for rope in ropes):
        return  # with RoPE scaling, the stored values depend on the code that wrote them
    rope = ropes[0]
    wanted = [rope.theta ** (-2 * pair / rope.dims) for pair in range(rope.dims // 2)]
    for name in (name for name in tensors if fnmatch(name, FREQUENCIES)):
        found = tensors[name].numbers().ravel().tolist()
        if len(found) != len(wanted) or any(abs(a - b) > ROUNDED * b for a, b in zip(found, wanted, strict=True)):
            raise CheckpointError(
                f"{name}: differs from the RoPE frequencies of the config (theta {rope.theta:g}, {rope.dims} "
                "dimensions), and older code used the stored ones; correct the config, or remove the tensor"
            )


def _is_one_of(value: object, values: tuple[Any, ...]) -> bool:
    """Whether a value is null or one of these, of the same type: 0 and 1 are not false and true."""
    return value is None or any(type(value) is type(one) and value == one for one in values)


def _quantised(config: Config, key: str) -> str:
    way_out = "use the unquantised checkpoint, or dequantise it with the library that wrote it"
    return f"{config.where}: {key}: quantised weights ({method(config.get(key), key)}) are not read; {way_out}"


def method(value: object, key: str) -> str:
    """Return the name of the quantisation method, at most 60 characters."""
    section = value if isinstance(value, dict) else {}
    for name in ("quant_method", "quantization_method", "quant_algo"):
        if isinstance(section.get(name), str):
            return str(section[name][:60])
    if any(name in section for name in ("load_in_4bit", "load_in_8bit")):
        return "bitsandbytes"
    by_key = {"compression_config": "compressed-tensors", "quantization": "mlx"}
    return by_key.get(key, "unnamed method")
