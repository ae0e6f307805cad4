"""Special tokens that no file names: each of transformers' tokenizer classes has some by itself.

GPT-2's own tokenizer config is `{"model_max_length": 1024}`. An output's class is another, so its config names them.
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
"""What a class has where its config says nothing, in transformers 4.57; `Fast` is left out of its name."""

CLASSES = {
    **dict.fromkeys(("llama", "mistral", "phi3"), "LlamaTokenizer"),
    **dict.fromkeys(("gpt2", "starcoder2", "granite"), "GPT2Tokenizer"),
    **dict.fromkeys(("gpt_neox", "olmo", "olmo2", "stablelm"), "GPTNeoXTokenizer"),
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    **dict.fromkeys(("gemma", "gemma2"), "GemmaTokenizer"),
    "phi": "CodeGenTokenizer",
    "cohere": "CohereTokenizer",
}
"""The class of a model type whose tokenizer config names none, in transformers 4.57."""


def default_tokens(source: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens of a source that its tokenizer config does not name, as far as its `tokenizer.json` has them."""
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
