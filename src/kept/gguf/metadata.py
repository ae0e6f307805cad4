"""An architecture's metadata with typed access; every key that is there must be read, or be known to change nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

HARMLESS = {
    "attention.value_length",
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "vocab_size",
}
"""Keys that say what is known otherwise, or only how the file came about."""


LARGEST = 3e38
"""What a float32 holds, nearly."""


@dataclass(frozen=True)
class Metadata:
    """The keys of a GGUF file; those of the architecture go without its name before them."""

    keys: Mapping[str, Any]
    architecture: str
    read: set[str] = field(default_factory=set)

    def get(self, key: str) -> Any:  # noqa: ANN401 - any metadata
        """The value of one of the architecture's keys, None where absent; of a float32 its shortest decimal."""
        self.read.add(key)
        return _decimal(self.keys.get(f"{self.architecture}.{key}"))

    def size(self, key: str) -> int:
        """A positive integer. Raises CheckpointError where it is none or absent."""
        value = self.get(key)
        if type(value) is not int or value < 1:
            raise self.wrong(key, "a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number. Raises CheckpointError where it is none, or absent without a default."""
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false. Raises CheckpointError where it is neither."""
        value = self.get(key)
        if value is not None and type(value) is not bool:
            raise self.wrong(key, "true or false")
        return default if value is None else value

    def one_for_all(self, key: str) -> int:
        """A size that may be listed for each layer. Raises CheckpointError where layers differ."""
        value = self.get(key)
        if isinstance(value, list) and len({*map(str, value)}) == 1:
            value = value[0]
        if isinstance(value, list):
            raise self.wrong(key, "the same for every layer")
        return value if type(value) is int and value > 0 else self.size(key)

    def must_be(self, key: str, wanted: Collection[Any], why: str) -> None:
        """Raise CheckpointError where a key is there and says another thing."""
        value = self.get(key)
        if value is not None and value not in wanted:
            raise CheckpointError(f"{self.architecture}.{key} is {str(value)[:60]}: {why}")

    def wrong(self, key: str, wanted: str) -> CheckpointError:
        """The error for a key that is absent or of the wrong kind."""
        name = f"{self.architecture}.{key}"
        if name not in self.keys:
            return CheckpointError(f"has no {name}")
        return CheckpointError(f"{name} is {str(self.keys[name])[:60]}, it must be {wanted}")

    def check_read(self) -> None:
        """Raise CheckpointError for a key that nothing has read: it may change what the model computes."""
        prefix = f"{self.architecture}."
        own = {key.removeprefix(prefix) for key in self.keys if key.startswith(prefix)}
        unread = sorted(own - self.read - HARMLESS)
        if unread:
            raise CheckpointError(
                f"{prefix}{unread[0]} is {str(self.keys[prefix + unread[0]])[:60]}: it may change what the model "
                f"computes, and of architecture {self.architecture!r} it is not read"
            )


def _decimal(value: Any) -> Any:  # noqa: ANN401 - any metadata
    """Of a float32 the shortest decimal that rounds to it, which is what was written before it was rounded."""
    if not isinstance(value, float) or not abs(value) < LARGEST:
        return value
    single = np.float32(value)
    return float(str(single)) if float(single) == value else value
