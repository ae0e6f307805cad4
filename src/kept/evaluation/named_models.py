"""Models by the names that tables have for them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kept.errors import InputError
from kept.loaded import LoadedModel, open_model
from kept.naming import split_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def named_models(given: Sequence[str | Path]) -> dict[str, LoadedModel]:
    """Models by name: `pro=out/trained` has one before it, any other its directory's, or its path where that is taken.

    What is there as it is written is a path, whatever signs are in it. Raises InputError where two have one name, and
    KeptError kinds for what is no model.
    """
    pairs = [split_name(str(one)) for one in given]
    for name, path in pairs:
        if not path.strip():
            raise InputError(f"{name}: names no model; write it as {name or 'pro'}=out/pro")
    models = [open_model(path) for _, path in pairs]
    called = [name or model.name for (name, _), model in zip(pairs, models, strict=True)]
    count = Counter(called)
    found: dict[str, LoadedModel] = {}
    for (name, path), short, model in zip(pairs, called, models, strict=True):
        own = path if not name and count[short] > 1 else short
        if own in found:
            raise InputError(f"{path}: another model is called {own!r} too; name them: a={found[own].path} b={path}")
        found[own] = model
    return found
