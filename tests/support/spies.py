"""Functions that are watched while they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def noting(function: Callable[..., Any], note: Callable[..., object]) -> Callable[..., Any]:
    """The function, and before it `note` with the same arguments."""

    def both(*arguments: Any, **options: Any) -> Any:
        note(*arguments, **options)
        return function(*arguments, **options)

    return both
