"""Names of the files of a checkpoint that hold its tokenizer and its settings."""

from __future__ import annotations

from kept.checkpoint import templates

TIKTOKEN = "qwen.tiktoken"
"""The ranks of Qwen's first tokenizer."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", TIKTOKEN)
"""Files that a text can be read with, the best first."""

COPIED_SETTINGS = ("special_tokens_map.json", "added_tokens.json")
"""Files that say how tokens are used, whatever they are read with."""

TEMPLATES = (templates.FILE, templates.OF_PROCESSOR)
"""Files with one chat template each, besides those in `additional_chat_templates/`."""

COPIED = (*TOKENIZERS, "vocab.json", "merges.txt", *COPIED_SETTINGS, *TEMPLATES)

SETTINGS = ("tokenizer_config.json", "generation_config.json")
"""Files that are written anew from the source's."""
