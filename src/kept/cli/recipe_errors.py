"""Name the recipe and the key that a model's path came from, in the error if the model cannot be opened."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def recipe_in_errors(recipe: str | None, **models: str | None) -> Iterator[None]:
    """Add the recipe and the key to the error of a model; `models` are the models by their keys."""
    try:
        yield
    except CheckpointError as error:
        key = next((key for key, path in models.items() if path is not None and path == error.model), None)
        if recipe is None or key is None:
            raise
        raise CheckpointError(f"{recipe}: {key}: {error}") from None
