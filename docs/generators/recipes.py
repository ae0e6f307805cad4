"""Reference page of recipe files: every key with its type, default and meaning, from the JSON schemas."""

from __future__ import annotations

import importlib
import json
import re
from typing import TYPE_CHECKING, Any

from kept.cli.commands.schema import SCHEMAS
from kept.settings_model import json_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TITLES = {
    "convert": ("Conversion", "For `kept convert --recipe FILE`."),
    "heal": ("Training", "For `kept heal FILE` and `kept plan FILE`."),
    "steps": ("Steps", "For `kept run FILE`."),
    "eval": ("Evaluation", "For `eval` steps, and the keywords of `kept.evaluate`."),
    "cluster": ("Cluster", "For `kept plan --cluster FILE`."),
}
"""Title of each kind of file, and the commands that read it."""

DEFAULT = re.compile(r" ?\[default: ([^\]]*)\]")
"""A default in words, at the end of a description."""

INTRODUCTION = """# Recipe files

Generated from the code by `docs/generate.py`.

A recipe is a TOML file. Its keys are the options of the command, with `_` for `-`; an option on the command line wins
over the file. An unknown key is an error that names the nearest known key. `kept schema KIND` prints the JSON schema of
each kind of file, with which editors complete and check recipes.
"""


def page() -> str:
    """Return the page: a table for each kind of file."""
    parts = [INTRODUCTION]
    for kind, (module, name) in SCHEMAS.items():
        schema = json_schema(getattr(importlib.import_module(module), name))
        title, use = TITLES[kind]
        parts += [f"## {title}", "", f"{use} `kept schema {kind}` prints the schema.", "", *table(schema)]
        parts += [line for step in steps(schema) for line in step]
    return "\n".join([*parts, ""])


def steps(schema: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield a section for each kind of step: the keys that are not those of its command's own recipe."""
    for step in schema["properties"].get("steps", {}).get("items", {}).get("oneOf", ()):
        name = step["properties"]["do"]["const"]
        keys = {key: value for key, value in step["properties"].items() if key != "do"}
        yield [f"### Step {name}", "", *table({**step, "properties": keys})]


def table(schema: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table: a row for each property."""
    required = schema.get("required", ())
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, value in schema["properties"].items():
        default = "required" if key in required else _default(value)
        meaning = DEFAULT.sub("", value.get("description", ""))
        rows.append(f"| `{key}` | {_type(value)} | {_cell(default)} | {_cell(meaning)} |")
    return [*rows, ""]


def _default(value: Mapping[str, Any]) -> str:
    """Return the default of a property: in the words of its description, or its value."""
    if words := DEFAULT.search(value.get("description", "")):
        return words[1]
    return "" if value.get("default") in (None, [], {}) else _code(value["default"])


def _type(value: Mapping[str, Any]) -> str:
    """Return the type of a property in words, or its choices."""
    if "enum" in value:
        return ", ".join(_code(one) for one in value["enum"])
    if "const" in value:
        return _code(value["const"])
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(one) for one in value["anyOf"] if one.get("type") != "null"))
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}" if value.get("items") else "list"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false"}
    return words.get(value.get("type", ""), "table")


def _code(value: object) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
