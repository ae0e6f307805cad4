"""Reference page of the passes: options, promise and equation of each, from its class."""

from __future__ import annotations

import inspect
from dataclasses import fields

from kept.pass_options import MEASUREMENTS
from kept.passes import PASSES


def page() -> str:
    """Return the page: a table of all passes, then the docstring of each."""
    rows = ["# Passes", "", "Generated from the code by `docs/generate.py`.", ""]
    rows += ["| pass | options | effect |", "| --- | --- | --- |"]
    rows += [f"| [`{name}`](#{name}) | {_options(rewrite)} | {rewrite.summary} |" for name, rewrite in PASSES.items()]
    for name, rewrite in PASSES.items():
        rows += ["", f"## `{name}`", "", inspect.getdoc(rewrite) or ""]
    return "\n".join([*rows, ""])


def _options(rewrite: type) -> str:
    return ", ".join(f"`{field.name}`" for field in fields(rewrite) if field.name not in MEASUREMENTS)
