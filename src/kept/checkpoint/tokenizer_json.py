"""A fast tokenizer as the JSON of a `tokenizer.json`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def serialized(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer as JSON, with merges as `left right`, all that tokenizers 0.19 reads, where that is unambiguous."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    merges = content["model"].get("merges", [])
    if not any(" " in left + right or left.startswith("#version") for left, right in merges):
        content["model"] |= {"merges": [f"{left} {right}" for left, right in merges]} if merges else {}
    return content
