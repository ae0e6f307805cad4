"""The commands that can be steps of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.commands.expand import ExpandSettings
from kept.commands.shrink import ShrinkSettings
from kept.commands.step_settings import EvalStepSettings, ReportSettings, VerifySettings
from kept.distillation.settings import HealSettings
from kept.errors import RecipeError
from kept.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kept.settings_model import Settings

Asked = Recipe | HealSettings | ShrinkSettings | VerifySettings | EvalStepSettings | ReportSettings
"""Settings of one step."""


def _expansion(table: Mapping[str, Any]) -> Recipe:
    """Return the conversion of an expand step. Raises RecipeError."""
    if taken := next((key for key in ("to", "passes") if key in table), None):
        raise RecipeError("is for a step that converts", taken)
    return ExpandSettings.from_table(table).recipe


@dataclass(frozen=True)
class StepKind:
    """A command that can be a step: its settings, and which keys name models and files.

    `model` is the key of the model that the step continues from; `others` are keys of further models, `files` of files
    that it reads.
    """

    settings: type[Settings]
    make: Callable[[Mapping[str, Any]], Asked]
    model: str
    writes: bool = True
    others: tuple[str, ...] = ()
    files: tuple[str, ...] = ("text",)


def _kind(settings: type[Any], model: str, **keys: Any) -> StepKind:  # noqa: ANN401 - fields of StepKind
    return StepKind(settings, settings.from_table, model, **keys)


KINDS: Mapping[str, StepKind] = {
    "expand": StepKind(ExpandSettings, _expansion, "source"),
    "convert": _kind(Recipe, "source"),
    "heal": _kind(HealSettings, "student", others=("teacher",), files=("teacher_cache", "chat_template")),
    "shrink-expanded": _kind(ShrinkSettings, "source"),
    "verify": _kind(VerifySettings, "model", writes=False, others=("against",)),
    "eval": _kind(EvalStepSettings, "model", writes=False, others=("against",), files=("data",)),
    "report": _kind(ReportSettings, "model", writes=False, files=("metrics", "evaluations")),
}
"""The commands that can be steps."""
