"""Checks of the settings of a healing run against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.distillation.settings_fields import CALIBRATION_TOKENS, CHANGED, SELF
from kept.errors import RecipeError
from kept.setting_types import MOST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.distillation.settings_fields import HealFields

LOGIT_SETTINGS: Mapping[str, Any] = {
    "kl": 1.0,
    "reverse_kl": 0.0,
    "jsd": 0.0,
    "ce": 0.0,
    "hidden": 0.0,
    "teacher_cache": None,
}
"""Settings of losses that a layerwise run does not have, with their defaults."""

WHOLE_MODEL_SETTINGS: Mapping[str, Any] = {"eval_data": (), "gradient_checkpointing": False, "compile": False}
"""Settings of a student that runs as a whole, with their defaults."""

BRANCH_SETTINGS: Mapping[str, Any] = {"calibration_tokens": CALIBRATION_TOKENS, "refit": True, "whiten": True}
"""Settings of layerwise runs, with their defaults."""


def check_settings(settings: HealFields) -> None:
    """Raise RecipeError for settings that contradict each other."""
    _check_losses(settings)
    _check_layerwise(settings)
    _check_data(settings)
    _check_chat(settings)


def _check_losses(settings: HealFields) -> None:
    if not any((settings.kl, settings.reverse_kl, settings.jsd, settings.ce, settings.hidden)):
        _refuse(settings, "kl", "above 0 where no other loss is")
    if settings.tokens_a_step > MOST:
        largest = max(
            ("batch_size", "sequence_length", "gradient_accumulation"), key=lambda key: getattr(settings, key)
        )
        _refuse(settings, largest, f"smaller: a step has at most {MOST} tokens, and this one {settings.tokens_a_step}")
    if settings.teacher_cache and settings.runs_teacher:
        _refuse(settings, "teacher_cache", "left out where reverse_kl, jsd or hidden is above 0")


def _check_layerwise(settings: HealFields) -> None:
    words = [word.strip() for word in settings.train.split("+")]
    if not settings.layerwise:
        for key, default in BRANCH_SETTINGS.items():
            if getattr(settings, key) != default:
                _refuse(settings, key, "left out without layerwise")
        if CHANGED in words:
            _refuse(settings, "train", "something else than changed without layerwise")
        return
    for key, default in {**LOGIT_SETTINGS, **WHOLE_MODEL_SETTINGS}.items():
        if getattr(settings, key) != default:
            _refuse(settings, key, f"left out with layerwise, which {_lacks(key)}")
    if settings.teacher is None:
        _refuse(settings, "teacher", "a checkpoint, whose branches the student's learn from")
    if "lora" in words:
        _refuse(settings, "train", "without lora where layerwise is true")


def _lacks(key: str) -> str:
    return "computes no logits" if key in LOGIT_SETTINGS else "does not run the student as a whole"


def _check_data(settings: HealFields) -> None:
    sampled = settings.data == (SELF,)
    if settings.teacher is not None:
        return
    if sampled and settings.teacher_cache is not None:
        raise RecipeError(
            "is self, which the teacher samples; "
            f"give the --data that the cache {settings.teacher_cache} was made of, or --teacher too",
            "data",
        )
    if settings.runs_teacher or (settings.kl and settings.teacher_cache is None):
        why = "is missing: the loss compares with a teacher; name one, or train on texts alone with --loss ce"
        raise RecipeError(why, "teacher")
    if sampled:
        raise RecipeError("is self, which the teacher samples; give --data, or --teacher too", "data")


def _check_chat(settings: HealFields) -> None:
    if settings.chat and settings.data == (SELF,):
        _refuse(settings, "chat", "left out where data is self, which are texts")
    for key in () if settings.chat else ("chat_template", "chat_date"):
        if getattr(settings, key) is not None:
            _refuse(settings, key, "left out without chat")


def _refuse(settings: HealFields, key: str, wanted: str) -> None:
    raise RecipeError(f"is {getattr(settings, key)!r}, it must be {wanted}", key)
