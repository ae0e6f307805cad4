"""The text of token ids as they come, one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kept.checkpoint.tokenizer_reader import TokenizerReader

CONTEXT = 8
"""Tokens that are decoded before the new ones: a decoder may drop a space at the start of a text."""

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""How the start of a character decodes whose other bytes are in later tokens."""


@dataclass
class TextStream:
    """Writes the text that ids add after a prompt. A character that is not complete waits for its other bytes."""

    reader: TokenizerReader
    prompt: Sequence[int]
    write: Callable[[str], None]
    _written: int = field(default=0, init=False)

    def extend(self, new: Sequence[int]) -> None:
        """Write what the ids add that were not written yet; `new` are all ids after the prompt."""
        text = self._added(new)
        if text and not text.endswith(INCOMPLETE):
            self._write(text, len(new))

    def end(self, new: Sequence[int]) -> None:
        """Write the rest, complete or not."""
        self._write(self._added(new), len(new))

    def _added(self, new: Sequence[int]) -> str:
        known = [*self.prompt, *new[: self._written]][-CONTEXT:]
        return self.reader.continuation(known, [*new[self._written :]])

    def _write(self, text: str, count: int) -> None:
        if text:
            self.write(text)
        self._written = count
