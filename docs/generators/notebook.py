"""docs/notebook.ipynb: run its cells, and write it as a page.

A cell is run as Jupyter runs it: its last expression is the output, as a table where it has one. No kernel is needed.
"""

from __future__ import annotations

import ast
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "notebook.ipynb"


def load() -> dict[str, Any]:
    """Return the notebook."""
    found: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return found


def save(notebook: dict[str, Any]) -> None:
    """Write the notebook as Jupyter writes it."""
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook with the outputs of its code cells, run in order in the working directory."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cells.append({**cell, "execution_count": count, "outputs": _outputs("".join(cell["source"]), names, count)})
        else:
            cells.append(cell)
    return {**notebook, "cells": cells}


def _outputs(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Run a cell and return its outputs: what it printed, and the value of its last expression."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "notebook", "exec"), names)  # noqa: S102 - our own notebook
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "notebook", "eval"), names)  # noqa: S307 - the same
    stream = {"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())}
    result = {"data": _shown(value), "execution_count": count, "metadata": {}, "output_type": "execute_result"}
    return [*([stream] if printed.getvalue() else []), *([] if value is None else [result])]


def _shown(value: object) -> dict[str, list[str]]:
    html = getattr(value, "_repr_html_", None)
    return {**({} if html is None else {"text/html": _lines(html())}), "text/plain": _lines(repr(value))}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def page() -> str:
    """Return the notebook with its stored outputs as Markdown."""
    parts = ["<!-- written by docs/generate.py from docs/notebook.ipynb -->"]
    for cell in load()["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [_block(output) for output in cell.get("outputs", ())]
    return "\n\n".join(parts) + "\n"


def _block(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", [])})
    if "text/html" in data:
        return "".join(data["text/html"])
    return "```text\n" + "".join(data["text/plain"]).rstrip("\n") + "\n```"
