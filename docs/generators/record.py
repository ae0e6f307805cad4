"""Reference page of `kept.json`: every key with its type, from the classes that write and validate it."""

from __future__ import annotations

import inspect
import re

from kept.checkpoint.json_model import JsonModel
from kept.output import record

INTRODUCTION = """# kept.json

Generated from the code by `docs/generate.py`.

Every output contains `kept.json`: what was done, and what was measured. It holds no times and no paths of source and
output, so the same command writes the same bytes. `kept verify`, `kept check`, `kept heal --train new`,
`kept shrink-expanded` and `kept report` read it.

`Mapping` is a JSON object, `tuple` a list. `Number` is a number, or null for NaN and infinity. Types with a link have
their own section.
"""

MEANINGS = {
    "kept": "version of `kept` that wrote the output",
    "torch": "version of torch",
    "source": "the source",
    "recipe": "options of the conversion",
    "before": "the source in figures",
    "after": "the output in figures",
    "promise": "exact, approximate or lossy",
    "domain": "where the promise holds, as phrases; empty: everywhere",
    "passes": "the passes, in order",
    "layers": "where each layer comes from",
    "stream": "what the conversion does to the residual stream: mean, factor, added constant; absent if nothing",
    "new_layers": "layers that the source does not have; `--train new` trains them",
    "new_tokens": "first new token id and one past the last; empty if there are none",
    "new_parameters": "weights that the source does not have, or that have newly initialised values",
    "expansions": "every block expansion, oldest first, in current layer numbers",
    "vocabularies": "every expansion of the vocabulary, oldest first",
    "runtimes": "notes on runtimes that do not load the output or compute something else",
    "verification": "measurements and verdict; null if verification was turned off",
    "healed": "what training did; absent if the output was not trained",
    "files": "sha256 of every other file of the output, by name",
    "history": "earlier steps, oldest first",
}
"""Meaning of each key of the record. A key without one is an error of this script."""


def page() -> str:
    """Return the page: a table of the record, and one for each type of its values."""
    types = [one for one in vars(record).values() if inspect.isclass(one) and issubclass(one, JsonModel)]
    parts = {one.__name__: one for one in types if one is not JsonModel and not issubclass(one, record.PastRecord)}
    rows = ["## Record", "", "| key | type | meaning |", "| --- | --- | --- |"]
    rows += [
        f"| `{key}` | {_type(record.Record, key, parts)} | {MEANINGS[key]} |" for key in record.Record.model_fields
    ]
    for name, model in parts.items():
        rows += ["", f"## {name}", "", inspect.getdoc(model) or "", "", "| key | type |", "| --- | --- |"]
        rows += [f"| `{key}` | {_type(model, key, parts)} |" for key in model.model_fields]
    return "\n".join([INTRODUCTION, *rows, ""])


def _type(model: type[JsonModel], key: str, parts: dict[str, type[JsonModel]]) -> str:
    """Return the annotation of a field, with links to the types that have a section."""
    owner = next(one for one in model.__mro__ if key in inspect.get_annotations(one))
    annotation = inspect.get_annotations(owner)[key].replace("PastRecord", "Record")
    annotation = re.sub(r"Annotated\[SerializeAsAny\[(\w+)\][^\]]*\]", r"\1", annotation)
    link = re.compile("|".join(sorted(parts, key=len, reverse=True)) + r"|\bRecord\b")
    return link.sub(lambda found: f"[{found[0]}](#{found[0].lower()})", annotation.replace("|", "\\|"))
