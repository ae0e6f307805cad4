"""Settings of `kept expand`: new layers, new tokens, or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from kept.errors import RecipeError
from kept.passes.expand_blocks import ExpandBlocks, Placement
from kept.passes.expand_vocabulary import LARGEST_MULTIPLE, MEAN, ExpandVocabulary
from kept.recipe import SAME, ConversionSettings, Recipe
from kept.setting_types import Directory, WholeNumbers
from kept.settings_model import CONFIG, model_fields

if TYPE_CHECKING:
    from kept.passes import Pass

OF_LAYERS = ("groups", "blocks", "placement", "at")
OF_TOKENS = ("embedding_init", "pad_to_multiple_of")


@dataclass(frozen=True, config=CONFIG)
class ExpandSettings(ConversionSettings):
    """An expansion: copies of layers that contribute nothing yet, rows for the new tokens of a tokenizer, or both."""

    FORMER: ClassVar[Mapping[str, str]] = {
        **ConversionSettings.FORMER,
        "place": "placement",
        "rows": "embedding_init",
        "multiple": "pad_to_multiple_of",
    }

    groups: int | None = Field(default=None, ge=1, description="Divide the layers into N groups of nearly equal size.")
    blocks: int = Field(
        default=1, ge=1, description="Number of layers that are copied per group: the last ones of the group."
    )
    at: WholeNumbers = Field(
        default=(), description="Instead of --groups: indices of the new layers in the output, such as 4,9,14."
    )
    placement: Placement = Field(
        default="interleaved",
        description="Position of the copies: after each group (interleaved), before all layers (prefix) or after all "
        "layers (suffix).",
    )
    tokenizer: Directory | None = Field(
        default=None,
        description="Output of kept tokenizer merge. Embedding and head get a row for each of its new tokens.",
    )
    embedding_init: str = Field(
        default=MEAN,
        description="Initial value of the new rows: mean (of the rows of the old tokens that make up the new token's "
        "text), zero, or a safetensors file with the tensors embedding, head and bias.",
    )
    pad_to_multiple_of: int = Field(
        default=1, ge=1, le=LARGEST_MULTIPLE, description="Pad the number of rows to a multiple of this number."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.passes  # noqa: B018 - raises RecipeError
        return self

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes that expand. Raises RecipeError if neither layers nor tokens are given."""
        if self.tokenizer is None and self._said(OF_TOKENS):
            raise RecipeError("is missing; embedding_init and pad_to_multiple_of are about its new tokens", "tokenizer")
        passes: list[Pass] = []
        if self.tokenizer is None or self._said(OF_LAYERS):
            passes.append(ExpandBlocks(self.groups, self.blocks, self.placement, self.at))
        if self.tokenizer is not None:
            passes.append(ExpandVocabulary(self.tokenizer, self.embedding_init, self.pad_to_multiple_of))
        return tuple(passes)

    @property
    def recipe(self) -> Recipe:
        """The conversion within the source's family that runs these passes."""
        shared = {key: getattr(self, key) for key in model_fields(ConversionSettings)}
        return Recipe(**shared, to=SAME, passes=self.passes)

    def _said(self, keys: tuple[str, ...]) -> bool:
        known = model_fields(ExpandSettings)
        return any(getattr(self, key) != known[key].default for key in keys)
