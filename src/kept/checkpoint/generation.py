"""The generation config of an output: the source's, as transformers 4.45, 4.57 and 5 load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import json_if_there
from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kept.ir.spec import Spec

FILE = "generation_config.json"

OF_THE_FILE = {"transformers_version", "_from_model_config", "_commit_hash", "auto_map", "custom_generate"}
"""Keys that describe the source's own file, or name code that does not come along."""

OF_A_CALL = {
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
"""Arguments of `generate()`: a file with one of them does not load."""

OF_A_RUNTIME = {"compile_config", "cache_implementation", "cache_config", "return_legacy_cache", "max_cache_len"}
"""How a runtime holds its cache and compiles: names that each version of transformers has others of, and that fit the
source's class. What is generated does not depend on them."""

MAY_BE_NULL = {"temperature", "top_k", "top_p", "typical_p", "min_p", "epsilon_cutoff", "eta_cutoff"}
"""Keys whose null turns a filter off before transformers 5. Elsewhere null is the default, which is to be left out:
4.45 does not load `early_stopping: null`, and samples where `do_sample` is null."""


def generation_config(source: Path, spec: Spec, silent: Sequence[int] = ()) -> dict[str, Any]:
    """The generation config of an output of `spec`; `silent` are ids that must never be generated.

    Sampling parameters stay as they are, beside `do_sample: false` too: a caller who samples, or a server that reads
    them, shall get the source's. Raises CheckpointError where the source's file is damaged.
    """
    file = source / FILE
    given = json_if_there(file)
    dropped = OF_THE_FILE | OF_A_CALL | OF_A_RUNTIME
    own = {k: v for k, v in given.items() if k not in dropped and (v is not None or k in MAY_BE_NULL)}
    if not _gives_several(own):
        own.pop("num_return_sequences", None)
    if silent:
        own["suppress_tokens"] = sorted({*_ids(file, own), *silent})
    return {**_special_ids(spec), **own}


def _special_ids(spec: Spec) -> dict[str, Any]:
    eos = spec.tokens.eos
    ids = {
        "bos_token_id": spec.tokens.bos,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": spec.tokens.pad,
    }
    return {key: value for key, value in ids.items() if value is not None}


def _gives_several(own: Mapping[str, Any]) -> bool:
    """Whether more than one answer may be asked for: greedy decoding has one, and its file else does not load."""
    beams, wanted = own.get("num_beams", 1), own.get("num_return_sequences", 1)
    if not isinstance(beams, int) or not isinstance(wanted, int):
        return False
    return wanted <= beams or (beams == 1 and own.get("do_sample") is True)


def _ids(file: Path, own: Mapping[str, Any]) -> list[int]:
    found = own.get("suppress_tokens") or []
    if not isinstance(found, list) or not all(type(at) is int for at in found):
        raise CheckpointError(f"{file}: suppress_tokens is no list of ids; mend it, or leave it out")
    return found
