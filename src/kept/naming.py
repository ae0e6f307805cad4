"""Names that users give to models and texts: `english=corpus/en`."""

from __future__ import annotations

import os


def split_name(given: str) -> tuple[str, str]:
    """Return the name and the path of `NAME=PATH`; the name is empty if none is given.

    An existing path is a path, even if it contains an equals sign.
    """
    if "=" not in given or os.path.exists(given):  # noqa: PTH110 - Path.exists raises for a long name
        return "", given
    name, _, path = given.partition("=")
    return name, path
