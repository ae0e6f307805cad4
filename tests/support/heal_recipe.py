"""A recipe of `kept heal` over two models of which only the configs exist."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.tiny import TINY

if TYPE_CHECKING:
    from pathlib import Path


def healing_recipe(folder: Path, **lines: object) -> Path:
    """A recipe whose models are config files alone."""
    for name, family in (("student", "llama"), ("teacher", "orion")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"model_type": family, **TINY[family]}), encoding="utf-8")
    said = {
        "student": str(folder / "student"),
        "teacher": str(folder / "teacher"),
        "out": "unused",
        "sequence_length": 64,
        **lines,
    }
    recipe = folder / "heal.toml"
    recipe.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items()), encoding="utf-8")
    return recipe
