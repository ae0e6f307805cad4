"""Load models under the names that tables show."""

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
    """Return models by name: the given name (`pro=out/trained`), else the directory's, or the path if that is taken.

    An existing path that contains `=` is taken as a path. Raises InputError if two models have the same name, and
    other KeptErrors if a path is not a model.
    """
    pairs = [split_name(str(one)) for one in given]
    for name, path in pairs:
        if not path.strip():
            raise InputError(f"{name}: has no path; write {name or 'pro'}=out/pro")
    models = [open_model(path) for _, path in pairs]
    called = [name or model.name for (name, _), model in zip(pairs, models, strict=True)]
    count = Counter(called)
    found: dict[str, LoadedModel] = {}
    for (name, path), short, model in zip(pairs, called, models, strict=True):
        own = path if not name and count[short] > 1 else short
        if own in found:
            raise InputError(f"{path}: another model has the name {own!r}; name them: a={found[own].path} b={path}")
        found[own] = model
    return found
