"""Check a recipe of steps before the first one runs. Reads headers only and writes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.output_path import check_place
from kept.checkpoint.staging import check_target
from kept.commands.plan import make_plan, target_family
from kept.commands.shrink import ShrinkSettings, expanded
from kept.commands.teacher_student import check_sizes, check_widths
from kept.distillation.settings import HealSettings
from kept.distillation.settings_fields import CHANGED
from kept.distillation.train.choose_trainable import trainable
from kept.distillation.train.tracker import check_tracker
from kept.errors import CheckpointError, InputError, KeptError, OutputError
from kept.evaluation.evaluation_file import check as check_evaluation
from kept.loaded import LoadedModel, open_model
from kept.output.record import record_table
from kept.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kept.commands.recipe_steps import RecipeStep, StepRecipe
    from kept.commands.step_kinds import Asked


def check(asked: StepRecipe) -> None:
    """Find what is wrong before the first step: missing files, a target that is taken, plans that there are not.

    Nothing is written. What a step writes is foreseen as far as headers tell it. Raises RecipeError naming the step.
    """
    check_target(asked.out)
    made = {step.out for step in asked.steps if step.out is not None}
    written = {file for step in asked.steps for file in step.made}
    foreseen: dict[Path, LoadedModel] = {}
    for step in asked.steps:
        try:
            for key, path in step.models.items():
                if path not in made and path not in foreseen:
                    foreseen[path] = _opened(key, path, asked.out, step.asked)
            for key, path in step.files.items():
                if path not in written and not path.exists():
                    raise InputError(f"{key}: {path} does not exist")
            for file in step.made:
                _check_file(file, (asked.out, *step.models.values()))
                check_evaluation(file, step.models.values(), step.files.values())
            if step.model not in made:
                _check_new(step.asked, foreseen[step.model])
            if step.out is not None:
                foreseen[step.out] = _foreseen(step, foreseen)
        except KeptError as error:
            raise error.at(f"step {step.number} ({step.do})") from None


def _opened(key: str, path: Path, out: Path, asked: Asked) -> LoadedModel:
    try:
        opened = open_model(path, tie=asked.tie if isinstance(asked, Recipe) else None)
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from None
    check_place(opened.source, out, f"{key}'s model")
    return opened


def _check_file(file: Path, models: Iterable[Path]) -> None:
    """Raise OutputError where a file is a directory, or lies where a model is."""
    for model in models:
        check_place(model, file, f"the model {model}")
    if file.is_dir():
        raise OutputError(f"out: {file}: is a directory; name another file")


def _check_new(asked: Asked, model: LoadedModel) -> None:
    """Raise InputError where a model that is there lacks the layers that are to be dropped, or the weights to learn."""
    if isinstance(asked, ShrinkSettings):
        expanded(model)
    if isinstance(asked, HealSettings) and CHANGED not in asked.train:
        trainable(model.program, asked.train, record_table(model.path), asked.lora_rank, asked.lora_alpha)


def _foreseen(step: RecipeStep, models: Mapping[Path, LoadedModel]) -> LoadedModel:
    """Return the spec of a step's output, as far as it is known: layers that shrinking drops are not."""
    source = models[step.model]
    if isinstance(step.asked, HealSettings):
        check_tracker(step.asked.report_to)
        teacher = None if step.asked.teacher is None else models[Path(step.asked.teacher)]
        check_sizes(source, teacher, step.asked.sequence_length)
        for key in ("hidden", "layerwise"):
            if getattr(step.asked, key) and teacher is not None:
                check_widths(source, teacher, key)
    if not isinstance(step.asked, Recipe):
        return source
    plan = make_plan(source, step.asked, unmeasured=True)
    return replace(source, program=plan.program, family=target_family(source, step.asked))
