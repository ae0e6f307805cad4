"""Settings of a healing run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from kept.distillation.loss_setting import add_loss, loss_weights
from kept.distillation.settings_checks import check_settings
from kept.distillation.settings_fields import CHANGED, HealFields
from kept.settings_model import CONFIG, merged

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, config=ConfigDict(**CONFIG, json_schema_extra=add_loss))
class HealSettings(HealFields):
    """Settings of a healing run: the student is trained to match its teacher, or on texts alone.

    A step has `gradient_accumulation` batches of `batch_size` rows of `sequence_length` tokens. `dtype` is that of the
    arithmetic; trainable parameters are float32. Raises RecipeError with the key of a wrong value.
    """

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Check settings against each other. Raises RecipeError."""
        check_settings(self)
        return self

    @classmethod
    def from_table(cls, table: Mapping[str, Any], **overrides: Any) -> Self:  # noqa: ANN401 - values of any key
        """Return settings from a TOML table, which may have `loss`; overrides that are not None win."""
        values = loss_weights(merged(table, overrides))
        return super().from_table({"train": CHANGED, **values} if values.get("layerwise") is True else values)
