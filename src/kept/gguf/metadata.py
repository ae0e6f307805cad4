"""Typed access to an architecture's metadata. A key that is neither read nor known to be harmless is an error."""

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
"""Keys that need not be read: they repeat other metadata or describe how the file was made."""

LARGEST = 3e38
"""Just below the largest float32."""


@dataclass(frozen=True)
class Metadata:
    """The metadata of a GGUF file. Methods take an architecture's keys without its prefix; `read` collects them."""

    keys: Mapping[str, Any]
    architecture: str
    read: set[str] = field(default_factory=set)

    def get(self, key: str) -> Any:  # noqa: ANN401 - any metadata
        """Return the value of a key, None if absent. A float32 becomes its shortest decimal."""
        self.read.add(key)
        return _decimal(self.keys.get(f"{self.architecture}.{key}"))

    def size(self, key: str) -> int:
        """Return a positive integer. Raises CheckpointError if it is absent or anything else."""
        value = self.get(key)
        if type(value) is not int or value < 1:
            raise self.wrong(key, "a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number. Raises CheckpointError if it is not a number, or absent without a default."""
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a boolean, `default` if absent. Raises CheckpointError if it is anything else."""
        value = self.get(key)
        if value is not None and type(value) is not bool:
            raise self.wrong(key, "true or false")
        return default if value is None else value

    def one_for_all(self, key: str) -> int:
        """Return a size that may be listed per layer. Raises CheckpointError if layers differ."""
        value = self.get(key)
        if isinstance(value, list) and len({*map(str, value)}) == 1:
            value = value[0]
        if isinstance(value, list):
            raise self.wrong(key, "the same for every layer")
        return value if type(value) is int and value > 0 else self.size(key)

    def must_be(self, key: str, wanted: Collection[Any], why: str) -> None:
        """Raise CheckpointError with the reason `why` if a key is present with a value not in `wanted`."""
        value = self.get(key)
        if value is not None and value not in wanted:
            raise CheckpointError(f"{self.architecture}.{key} is {str(value)[:60]}: {why}")

    def wrong(self, key: str, wanted: str) -> CheckpointError:
        """Return the error for a key that is absent or not what is `wanted`."""
        name = f"{self.architecture}.{key}"
        if name not in self.keys:
            return CheckpointError(f"has no {name}")
        return CheckpointError(f"{name} is {str(self.keys[name])[:60]}, it must be {wanted}")

    def check_read(self) -> None:
        """Raise CheckpointError for a key that was not read: it may change what the model computes."""
        prefix = f"{self.architecture}."
        own = {key.removeprefix(prefix) for key in self.keys if key.startswith(prefix)}
        unread = sorted(own - self.read - HARMLESS)
        if unread:
            raise CheckpointError(
                f"{prefix}{unread[0]} is {str(self.keys[prefix + unread[0]])[:60]}: it may change what the model "
                f"computes, and it is not supported for architecture {self.architecture!r}"
            )


def _decimal(value: Any) -> Any:  # noqa: ANN401 - any metadata
    """Return the shortest decimal that rounds to a float32: the number in the original config, before rounding."""
    if not isinstance(value, float) or not abs(value) < LARGEST:
        return value
    single = np.float32(value)
    return float(str(single)) if float(single) == value else value
