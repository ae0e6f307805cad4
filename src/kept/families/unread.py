"""Keys of a config that change what any model computes, held to the value at which they do not.

A family's table reads what its own class reads. Beyond that the base class, the caches and the masks of transformers
read keys of every model: a window that Llama's layers know nothing of still shortens Llama's cache. What no item of a
table has read is held to its one value here.
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
    "is_causal": ((True,), "true: a decoder sees no token after its own"),
    "use_bidirectional_attention": ((False,), "false: a decoder sees no token after its own"),
    "is_encoder_decoder": ((False,), "false: only decoders are read"),
    "add_cross_attention": ((False,), "false: only decoders are read"),
    "cross_attention_hidden_size": ((), "null: only decoders are read"),
    "attention_chunk_size": ((), "null: attention in chunks is not supported, and transformers' cache would obey it"),
    "num_kv_shared_layers": ((0,), "0: layers that share keys and values are not supported"),
    "alibi": ((False,), "false: a bias on the scores that no rotation can express"),
    "use_alibi": ((False,), "false: a bias on the scores that no rotation can express"),
    "per_layer_config": (({}, []), "null: layers with settings of their own are not supported"),
    "pruned_heads": (({}, []), "null: transformers would remove these heads as it loads; save the model without them"),
    "configuration_files": (([],), "null: transformers would read another config; take that one for config.json"),
    "attribute_map": (({},), "null: it gives other keys of the config another meaning"),
}
"""By key: the values besides null at which it changes nothing, and what a message says that it must be."""

QUANTISED = ("quantization_config", "compression_config", "quantization")
"""Where a config says how its weights are quantised: transformers, older compressed-tensors, MLX."""

FULL = "full_attention"


def check_unread(config: Config, known: Facts) -> None:
    """Raise CheckpointError for a key that no item has read and that changes what transformers computes."""
    for key in QUANTISED:
        if config.get(key):
            raise CheckpointError(_quantised(config, key))
    for key, (values, wanted) in NEUTRAL.items():
        if key not in config.read and not _is_one_of(config.get(key), values):
            raise config.wrong(key, wanted)
    if "sliding_window" not in config.read:
        _check_window(config, known)


def _check_window(config: Config, known: Facts) -> None:
    """The cache of transformers slides for any model whose config has a window, whatever the model's layers do."""
    size, types = config.get("sliding_window"), config.get("layer_types")
    if size is not None and (type(size) is not int or size < known["context"]):
        wanted = f"null or at least the context, {known['context']}: this family attends to all tokens"
        raise config.wrong("sliding_window", f"{wanted}, but transformers' cache would obey it")
    if types not in (None, [], [FULL] * known["depth"]):
        raise config.wrong("layer_types", f"{FULL} for every layer: the layers of this family attend to all tokens")


FREQUENCIES = "*.inv_freq"

ROUNDED = 1 / 64
"""A stored frequency may be this much off, relatively: bfloat16 and a little."""


def check_buffers(tensors: Mapping[str, Lazy], spec: Spec) -> None:
    """Raise CheckpointError for stored frequencies that are not those of the config.

    Old checkpoints store them, and old code turned by them; classes of today compute them, and so does kept.
    """
    ropes = [layer.mixer.rope for layer in spec.layers if layer.mixer.rope is not None]
    if not ropes or any(rope.scaling is not None for rope in ropes):
        return  # which frequencies a scaled rotation stored depended on the code
    rope = ropes[0]
    wanted = [rope.theta ** (-2 * pair / rope.dims) for pair in range(rope.dims // 2)]
    for name in (name for name in tensors if fnmatch(name, FREQUENCIES)):
        found = tensors[name].numbers().ravel().tolist()
        if len(found) != len(wanted) or any(abs(a - b) > ROUNDED * b for a, b in zip(found, wanted, strict=True)):
            raise CheckpointError(
                f"{name}: is not what the config's rotation (theta {rope.theta:g}, {rope.dims} dimensions) makes; "
                "older code turned by the stored numbers: state the rotation that they are, or store none"
            )


def _is_one_of(value: object, values: tuple[Any, ...]) -> bool:
    """Whether a value is null or one of these; 0 and 1 are not false and true."""
    return value is None or any(type(value) is type(one) and value == one for one in values)


def _quantised(config: Config, key: str) -> str:
    way_out = "save it with transformers after model.dequantize(), without this key, or take the plain checkpoint"
    return f"{config.where}: {key}: quantised ({_method(config.get(key), key)}), which is not read; {way_out}"


def _method(stated: object, key: str) -> str:
    """The method's name, as far as a config says it."""
    told = stated if isinstance(stated, dict) else {}
    for name in ("quant_method", "quantization_method", "quant_algo"):
        if isinstance(told.get(name), str):
            return str(told[name][:60])
    if any(name in told for name in ("load_in_4bit", "load_in_8bit")):
        return "bitsandbytes"
    by_key = {"compression_config": "compressed-tensors", "quantization": "mlx"}
    return by_key.get(key, "a method that it does not name")
