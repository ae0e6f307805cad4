"""Reference page of the passes: options, promise and equation of each, from its class."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from kept.passes import PASSES

if TYPE_CHECKING:
    from kept.passes import Pass


def page() -> str:
    """Return the page: a table of all passes, then the docstring of each."""
    rows = ["# Passes", "", "Generated from the code by `docs/generate.py`.", ""]
    rows += ["| pass | options | effect |", "| --- | --- | --- |"]
    rows += [f"| [`{name}`](#{name}) | {_options(rewrite)} | {rewrite.summary} |" for name, rewrite in PASSES.items()]
    for name, rewrite in PASSES.items():
        rows += ["", f"## `{name}`", "", inspect.getdoc(rewrite) or ""]
    return "\n".join([*rows, ""])


def _options(rewrite: type[Pass]) -> str:
    return ", ".join(f"`{field.name}`" for field in rewrite.chosen_fields())
