"""Default special tokens of transformers' tokenizer classes, for checkpoints whose files do not name them.

GPT-2's tokenizer config, for example, is `{"model_max_length": 1024}`. An output has another tokenizer class without
these defaults, so its config must name the tokens.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import json_if_there

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_GPT2 = dict.fromkeys(_LLAMA, "<|endoftext|>")

TOKENS: Mapping[str, Mapping[str, str]] = {
    "LlamaTokenizer": _LLAMA,
    "CodeLlamaTokenizer": _LLAMA,
    "GPT2Tokenizer": _GPT2,
    "GPTNeoXTokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
    "GemmaTokenizer": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "CohereTokenizer": {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "unk_token": "<UNK>"},
}
"""Default special tokens of each tokenizer class in transformers 4.57, by class name without `Fast`."""

CLASSES = {
    **dict.fromkeys(("llama", "mistral", "phi3"), "LlamaTokenizer"),
    **dict.fromkeys(("gpt2", "starcoder2", "granite"), "GPT2Tokenizer"),
    **dict.fromkeys(("gpt_neox", "olmo", "olmo2", "stablelm"), "GPTNeoXTokenizer"),
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    **dict.fromkeys(("gemma", "gemma2"), "GemmaTokenizer"),
    "phi": "CodeGenTokenizer",
    "cohere": "CohereTokenizer",
}
"""Tokenizer class of each model type in transformers 4.57, for a tokenizer config without `tokenizer_class`."""


def default_tokens(source: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the default special tokens that the tokenizer config does not name and the `tokenizer.json` contains."""
    file = source / "tokenizer.json"
    called = config.get("tokenizer_class") or CLASSES.get(_model_type(source), "")
    tokens = TOKENS.get(str(called).removesuffix("Fast"), {})
    missing = {name: token for name, token in tokens.items() if name not in config}
    if not missing or not file.is_file():
        return {}
    raw = file.read_bytes()
    return {name: token for name, token in missing.items() if json.dumps(token).encode() in raw}


def _model_type(source: Path) -> str:
    return str(json_if_there(source / "config.json").get("model_type", ""))
