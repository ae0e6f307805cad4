"""`kept/option_types.py`: the keywords of Python's functions, as types, from the settings that read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BeforeValidator

from kept.commands.cache_teacher import SHARED
from kept.commands.expand import ExpandSettings
from kept.commands.shrink import ShrinkSettings
from kept.distillation.loss_setting import Loss
from kept.distillation.settings import HealSettings
from kept.evaluation.settings import EvalSettings
from kept.recipe import Recipe
from kept.setting_types import count
from kept.settings_model import base_type, model_fields, path_kind

if TYPE_CHECKING:
    from collections.abc import Collection

    from pydantic.fields import FieldInfo

    from kept.settings_model import Settings

HEAD = '''"""Keywords of Python's functions: the options of the commands, and the keys of recipes.

Generated from the settings by `docs/generate.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kept.passes import Pass
'''

NAMES: dict[Any, str] = {
    tuple[str, ...]: "str | Sequence[str]",
    tuple[int, ...]: "Sequence[int]",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
}


def page() -> str:
    """Return the module."""
    loss = f"    loss: Literal[{', '.join(repr(word) for word in get_args(Loss))}]\n".replace("'", '"')
    return HEAD + "".join(
        [
            _typed("PlanOptions", "kept.plan", Recipe, without=("source", "out", "to")),
            _typed("ConvertOptions", "kept.convert", Recipe, without=("source", "out", "to")),
            _typed("RecipeOptions", "kept.load_recipe", Recipe),
            _typed("ExpandOptions", "kept.expand", ExpandSettings, without=("source", "out")),
            _typed("ShrinkOptions", "kept.shrink_expanded", ShrinkSettings, without=("source", "out")),
            _typed("HealOptions", "kept.heal", HealSettings, without=("student", "out"), more=loss),
            _typed("CacheOptions", "kept.cache_teacher", HealSettings, only=SHARED),
            _typed("EvaluateOptions", "kept.evaluate", EvalSettings, without=("texts", "old", "new")),
        ]
    )


def _typed(
    name: str,
    function: str,
    model: type[Settings],
    *,
    only: Collection[str] = (),
    without: Collection[str] = (),
    more: str = "",
) -> str:
    """Return the class of one function's keywords."""
    fields = model_fields(model)
    keys = [key for key in only or fields if key not in without]
    lines = "".join(f"    {key}: {_type(fields[key])}\n" for key in keys)
    return f'\n\nclass {name}(TypedDict, total=False):\n    """Keywords of `{function}`."""\n\n{lines}{more}'


def _type(field: FieldInfo) -> str:
    """Return a setting's type as it is written."""
    kind, metadata = base_type(field.annotation)
    metadata = (*metadata, *field.metadata)
    found = NAMES.get(kind, "str")
    if get_origin(kind) is Literal:
        found = f"Literal[{', '.join(map(repr, get_args(kind)))}]".replace("'", '"')
    elif path_kind(field) is not None:
        found = "str | Path"
    elif "Pass" in str(kind):
        found = "Sequence[Pass | Mapping[str, Any]]"
    elif any(isinstance(one, BeforeValidator) and one.func is count for one in metadata):
        found = "int | str"
    return f"{found} | None" if field.default is None else found
