"""The item of special token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts


@dataclass(frozen=True)
class SpecialTokens:
    """bos, eos (one or several) and pad; the defaults are the model class's. Comes after the vocabulary.

    `zeroes_pad`: the class sets the padding token's row of the embedding to zero when it loads a model, whatever the
    file holds. So none is written, and a config that names one is refused.
    """

    bos: int | None = None
    eos: int | tuple[int, ...] | None = None
    pad: int | None = None
    zeroes_pad: bool = False

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the ids as facts. A null key means no such token; an absent key means the default."""
        vocabulary = facts["vocabulary"]
        pad = self._token(config, "pad_token_id", config.get("pad_token_id", self.pad), vocabulary)
        if self.zeroes_pad and pad is not None:
            raise config.wrong("pad_token_id", "null: the model class sets this token's row of the embedding to zero")
        return {
            "tokens.bos": self._token(config, "bos_token_id", config.get("bos_token_id", self.bos), vocabulary),
            "tokens.eos": self._end(config, vocabulary),
            "tokens.pad": pad,
        }

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the keys."""
        eos = facts.get("tokens.eos")
        return {
            "bos_token_id": facts.get("tokens.bos"),
            "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
            "pad_token_id": None if self.zeroes_pad else facts.get("tokens.pad"),
        }

    def _token(self, config: Config, key: str, value: object, vocabulary: int) -> int | None:
        """Return a token id; None if it is outside the vocabulary, as the common -1 is."""
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise config.wrong(key, "a token id")
        return value if value is not None and 0 <= value < vocabulary else None

    def _end(self, config: Config, vocabulary: int) -> int | tuple[int, ...] | None:
        key = "eos_token_id"
        value = config.get(key, self.eos)
        if not isinstance(value, list | tuple):
            return self._token(config, key, value, vocabulary)
        if None in value:
            raise config.wrong(key, "a list of token ids")
        found = (self._token(config, key, token, vocabulary) for token in value)
        return tuple(token for token in found if token is not None) or None
