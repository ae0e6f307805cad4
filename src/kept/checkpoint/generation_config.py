"""The generation config of an output: the source's, in a form that transformers 4.45, 4.57 and 5 load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import json_if_there
from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kept.ir.spec import Spec

FILE = "generation_config.json"

FILE_KEYS = {"transformers_version", "_from_model_config", "_commit_hash", "auto_map", "custom_generate"}
"""Keys that describe the source's file or name remote code; they are dropped."""

CALL_ARGUMENTS = {
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "synced_gpus",
    "assistant_model",
    "streamer",
    "negative_prompt_ids",
    "negative_prompt_attention_mask",
    "use_model_defaults",
}
"""Arguments of `generate()`. transformers does not load a file that contains one of them; they are dropped."""

RUNTIME_KEYS = {"compile_config", "cache_implementation", "cache_config", "return_legacy_cache", "max_cache_len"}
"""Settings of the KV cache and of compilation, which do not change the generated text. Their values differ between
versions of transformers and depend on the source's model class, so they are dropped."""

MAY_BE_NULL = {"temperature", "top_k", "top_p", "typical_p", "min_p", "epsilon_cutoff", "eta_cutoff"}
"""Keys for which null means "filter off" before transformers 5. Null in any other key means the default and is dropped:
4.45 fails to load `early_stopping: null`, and samples if `do_sample` is null."""


def generation_config(source: Path, spec: Spec, suppressed_tokens: Sequence[int] = ()) -> dict[str, Any]:
    """Return the generation config of an output. `suppressed_tokens` are ids that must never be generated.

    Sampling parameters are kept even with `do_sample: false`, for callers and servers that turn sampling on. Raises
    CheckpointError if the source's file is damaged.
    """
    file = source / FILE
    given = json_if_there(file)
    dropped = FILE_KEYS | CALL_ARGUMENTS | RUNTIME_KEYS
    own = {k: v for k, v in given.items() if k not in dropped and (v is not None or k in MAY_BE_NULL)}
    if not _may_return_several(own):
        own.pop("num_return_sequences", None)
    if suppressed_tokens:
        own["suppress_tokens"] = sorted({*_ids(file, own), *suppressed_tokens})
    return {**_special_ids(spec), **own}


def end_ids(directory: Path) -> tuple[int, ...]:
    """Return the ids at which generation ends, as a checkpoint's generation config names them; () if it names none.

    Raises CheckpointError if the file is damaged.
    """
    found = json_if_there(directory / FILE).get("eos_token_id")
    ids = found if isinstance(found, list) else [found]
    return tuple(one for one in ids if type(one) is int)


def _special_ids(spec: Spec) -> dict[str, Any]:
    eos = spec.tokens.eos
    ids = {
        "bos_token_id": spec.tokens.bos,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": spec.tokens.pad,
    }
    return {key: value for key, value in ids.items() if value is not None}


def _may_return_several(own: Mapping[str, Any]) -> bool:
    """Return whether `num_return_sequences` may exceed 1; transformers does not load it with greedy decoding."""
    beams, wanted = own.get("num_beams", 1), own.get("num_return_sequences", 1)
    if not isinstance(beams, int) or not isinstance(wanted, int):
        return False
    return wanted <= beams or (beams == 1 and own.get("do_sample") is True)


def _ids(file: Path, own: Mapping[str, Any]) -> list[int]:
    found = own.get("suppress_tokens") or []
    if not isinstance(found, list) or not all(type(at) is int for at in found):
        raise CheckpointError(f"{file}: suppress_tokens is not a list of ids; correct or remove it")
    return found
