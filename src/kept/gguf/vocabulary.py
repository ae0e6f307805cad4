"""The vocabulary in the metadata of a GGUF file: tokens, types, scores, merges and special ids, each checked."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Token types, as numbered in `tokenizer.ggml.token_type`."""

ENDS = ("eos", "eot", "eom")
"""Tokens that end generation: end of text, of turn, of message."""

SPM_IDS = {"bos": 1, "eos": 2, "unknown": 0}
"""Default ids of SentencePiece models, for files without these keys."""

LONGEST_TOKEN = 4096
"""Characters of a token."""


@dataclass(frozen=True)
class GgufVocabulary:
    """The tokenizer keys of the metadata. Properties raise CheckpointError for a damaged key."""

    metadata: Mapping[str, Any]

    @property
    def model(self) -> str:
        """llama.cpp's name of the tokenizer's algorithm, such as `gpt2` or `llama`."""
        return str(self.get("model", ""))[:60]

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - any metadata
        """Return the value of `tokenizer.ggml.KEY`."""
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    @cached_property
    def tokens(self) -> list[str]:
        """The texts of all tokens in order of id; an empty token becomes `[EMPTY_id]`, as in llama.cpp."""
        found = [text or f"[EMPTY_{at}]" for at, text in enumerate(self._list("tokens", str))]
        twice = next((text for text, count in Counter(found).most_common(1) if count > 1), None)
        if twice is not None:
            raise CheckpointError(f"tokenizer.ggml.tokens: has {twice[:60]!r} twice")
        if any(len(text) > LONGEST_TOKEN for text in found):
            raise CheckpointError(f"tokenizer.ggml.tokens: has a token of more than {LONGEST_TOKEN} characters")
        return found

    @cached_property
    def kinds(self) -> list[int]:
        """The type of each token; all `NORMAL` if the file has none."""
        return self._per_token("token_type", int) or [NORMAL] * len(self.tokens)

    @cached_property
    def scores(self) -> list[float]:
        """SentencePiece's score of each token; empty if the file has none."""
        found = [float(score) for score in self._per_token("scores", int | float)]
        if not all(map(math.isfinite, found)):
            raise CheckpointError("tokenizer.ggml.scores: holds NaN or infinity")
        return found

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Merges in order of priority, without those whose parts or result are not in the vocabulary."""
        known = {*self.tokens}
        pairs = []
        for merge in self._list("merges", str):
            cut = merge.find(" ", 1)
            left, right = merge[:cut], merge[cut + 1 :]
            if cut > 0 and {left, right, left + right} <= known:
                pairs.append((left, right))
        return pairs

    def of(self, *kinds: int) -> list[str]:
        """Return the texts of the tokens of these types."""
        return [text for text, kind in zip(self.tokens, self.kinds, strict=True) if kind in kinds]

    def id_of(self, name: str) -> int | None:
        """Return the id of a special token; None if it is absent or out of range."""
        default = SPM_IDS.get(name) if self.model == "llama" else None
        found = self.get(f"{name}_token_id", default)
        return found if type(found) is int and 0 <= found < len(self.tokens) else None

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a boolean key; `default` if it is absent or not a boolean."""
        found = self.get(key)
        return found if type(found) is bool else default

    def _list(self, key: str, kind: Any) -> list[Any]:  # noqa: ANN401 - a type, or several
        found = self.get(key, [])
        if not isinstance(found, list) or not all(isinstance(one, kind) for one in found):
            raise CheckpointError(f"tokenizer.ggml.{key}: is not a list of the expected type")
        return found

    def _per_token(self, key: str, kind: Any) -> list[Any]:  # noqa: ANN401 - as above
        found = self._list(key, kind)
        if found and len(found) < len(self.tokens):
            raise CheckpointError(f"tokenizer.ggml.{key}: has {len(found)} entries for {len(self.tokens)} tokens")
        return found[: len(self.tokens)]


def special_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the special token ids of a config.json; None for a token that does not exist."""
    vocabulary = GgufVocabulary(metadata)
    ends = [*dict.fromkeys(at for name in ENDS if (at := vocabulary.id_of(name)) is not None)]
    return {
        "bos_token_id": vocabulary.id_of("bos"),
        "eos_token_id": ends if len(ends) > 1 else ends[0] if ends else None,
        "pad_token_id": vocabulary.id_of("padding"),
    }
