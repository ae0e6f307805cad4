"""Settings of `kept expand`: new layers, new tokens, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from kept.errors import RecipeError
from kept.passes.expand_blocks import ExpandBlocks, Place
from kept.passes.expand_vocabulary import LARGEST_MULTIPLE, MEAN, ExpandVocabulary
from kept.recipe import SAME, ConversionSettings, Recipe
from kept.settings_model import CONFIG, Directory, WholeNumbers, model_fields

if TYPE_CHECKING:
    from kept.passes import Pass

OF_LAYERS = ("groups", "blocks", "place", "at")
OF_TOKENS = ("rows", "multiple")


@dataclass(frozen=True, config=CONFIG)
class ExpandSettings(ConversionSettings):
    """An expansion: copies of layers that contribute nothing yet, rows for the new tokens of a tokenizer, or both."""

    groups: int | None = Field(
        default=None, ge=1, description="Divide the layers into N groups of equal size, as far as possible."
    )
    blocks: int = Field(default=1, ge=1, description="Copies per group, of its topmost layers.")
    at: WholeNumbers = Field(
        default=(), description="Indices of the new layers in the output, as 4,9,14; instead of --groups."
    )
    place: Place = Field(
        default="interleaved",
        description="Put the copies after their group (interleaved), or all before (prefix) or after (suffix) the "
        "layers of the model.",
    )
    tokenizer: Directory | None = Field(
        default=None, description="A merged tokenizer (see kept tokenizer merge): its new tokens get rows."
    )
    rows: str = Field(
        default=MEAN,
        description="Initial value of a new row: mean of the rows of the old tokens that spelled it, zero, or a "
        "safetensors file with embedding, head and bias.",
    )
    multiple: int = Field(
        default=1, ge=1, le=LARGEST_MULTIPLE, description="Pad the vocabulary to a multiple of this number."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.passes  # noqa: B018 - raises RecipeError
        return self

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes that expand. Raises RecipeError if neither layers nor tokens are given."""
        if self.tokenizer is None and self._said(OF_TOKENS):
            raise RecipeError("is missing; rows and multiple are about its new tokens", "tokenizer")
        passes: list[Pass] = []
        if self.tokenizer is None or self._said(OF_LAYERS):
            passes.append(ExpandBlocks(self.groups, self.blocks, self.place, self.at))
        if self.tokenizer is not None:
            passes.append(ExpandVocabulary(self.tokenizer, self.rows, self.multiple))
        return tuple(passes)

    @property
    def recipe(self) -> Recipe:
        """The conversion within the source's family that runs these passes."""
        shared = {key: getattr(self, key) for key in model_fields(ConversionSettings)}
        return Recipe(**shared, to=SAME, passes=self.passes)

    def _said(self, keys: tuple[str, ...]) -> bool:
        known = model_fields(ExpandSettings)
        return any(getattr(self, key) != known[key].default for key in keys)
