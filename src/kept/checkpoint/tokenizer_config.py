"""The tokenizer config of an output: no code, no paths, and a form that every version of transformers reads alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.checkpoint.default_tokens import default_tokens
from kept.checkpoint.json_file import json_if_there

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FAST = "PreTrainedTokenizerFast"
"""The class that loads any `tokenizer.json` unchanged, in every transformers since 4.0. The defaults of a family's own
class differ between versions, and in transformers 5 such a class builds its own tokenizer from the vocabulary."""

SOURCE_KEYS = {
    *("auto_map", "backend", "processor_class", "fast_tokenizer_files", "is_local", "local_files_only"),
    *("name_or_path", "tokenizer_file", "vocab_file", "merges_file", "spm_file", "files_loaded"),
    *("special_tokens_map_file", "added_tokens_file", "init_inputs"),
}
"""Keys of a tokenizer config that are dropped: they name code, processors, paths or versions of the source."""

REBUILT = {"qwen2": {"qwen", "qwen2"}}
"""Model types for which transformers 5 builds a tokenizer of its own around the words of `tokenizer.json`, whatever
class the config names; and the families whose tokenizer that is."""

CARRIED = ("chat_template", "extra_special_tokens", "model_max_length", "padding_side", "truncation_side")
"""Settings that mean the same to a fast tokenizer. The rest belongs to the source's own class."""


def tokenizer_config(source: Path) -> dict[str, Any]:
    """Return the source's tokenizer config without code and paths, in a form that every transformers reads alike."""
    file = source / "tokenizer_config.json"
    given = json_if_there(file)
    config = portable({key: value for key, value in given.items() if key not in SOURCE_KEYS})
    if (source / "tokenizer.json").is_file() or "auto_map" in given or "tokenizer_class" not in given:
        # The default is true in transformers 4.45 (spaces before punctuation are removed) and false in later versions.
        config = {"clean_up_tokenization_spaces": False, **config, "tokenizer_class": FAST}
        if "auto_map" not in given:
            config |= default_tokens(source, given)
    return config


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with its special tokens in the form that transformers 4.45, 4.57 and 5 all read.

    transformers 5 writes unnamed tokens as the list `extra_special_tokens` and named ones (`image_token`) as the map
    `model_specific_special_tokens`. In 4.57 the map is called `extra_special_tokens` and the list
    `additional_special_tokens`; 4.45 reads only that list. The result has the keys of 4.57 and all tokens in the list.
    """
    out = dict(config)
    extra, named = out.pop("extra_special_tokens", None), out.pop("model_specific_special_tokens", None)
    tokens = {**(named if isinstance(named, dict) else {}), **(extra if isinstance(extra, dict) else {})}
    listed = [*(extra if isinstance(extra, list) else ()), *tokens.values()]
    if listed or isinstance(extra, list):
        further = [*(out.get("additional_special_tokens") or []), *map(_added_token, listed)]
        out["additional_special_tokens"] = [token for at, token in enumerate(further) if token not in further[:at]]
    return {**out, **({"extra_special_tokens": tokens} if tokens else {})}


def _added_token(token: object) -> object:
    """Return a token; one with flags gets the `__type` without which transformers reads it as a plain map."""
    return {**token, "__type": "AddedToken"} if isinstance(token, dict) else token


def loader(family: str, target: str) -> str:
    """The class of transformers that loads an output's tokenizer as it was in the source."""
    return FAST if target in REBUILT and family not in REBUILT[target] else "AutoTokenizer"
