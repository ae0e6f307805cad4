"""Settings of the steps that write no model: verify, eval and report."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from kept.distillation.data.documents import named_paths
from kept.errors import RecipeError
from kept.evaluation.settings import EvalOptions, EvalSettings
from kept.setting_types import Directory, File, Texts
from kept.settings_model import CONFIG, Settings, model_fields


@dataclass(frozen=True, config=CONFIG)
class VerifySettings(Settings):
    """Options of a verify step."""

    against: Directory = Field(description="Reference model: a checkpoint or the name of an earlier step.")
    model: Directory = Field(description="The model to verify.")
    text: File | None = Field(default=None, description="UTF-8 text to measure on. [default: a built-in sample]")
    tokens: int = Field(default=2048, description="Number of tokens to measure on.")
    streamed: bool = Field(
        default=False, description="Load one layer at a time, to need less memory; no texts are generated."
    )


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class EvalStepSettings(EvalOptions):
    """Options of an eval step: one model, or two side by side."""

    model: Directory = Field(description="The model to evaluate.")
    out: File = Field(description="JSON file for the results.")
    against: Directory | None = Field(default=None, description="Model to compare with.")
    texts: Texts = Field(
        default=(),
        description="Text or data files, or directories of them, on which perplexity is measured, as DOMAIN=FILE. "
        "[default: a built-in sample]",
    )
    old: Texts = Field(
        default=(), description="Texts of domains that `against` was trained on: measures how much was forgotten."
    )
    new: Texts = Field(
        default=(), description="Texts of domains that `model` was trained on: measures how much was learned."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.measures  # noqa: B018 - raises RecipeError or InputError
        for role in ("old", "new"):
            if getattr(self, role) and self.against is None:
                raise RecipeError("compares models; say against which, or give the file as one of texts", role)
        return self

    @property
    def measures(self) -> EvalSettings:
        """The settings of the evaluation."""
        old, new = named_paths(self.old, "old"), named_paths(self.new, "new")
        return EvalSettings(
            texts=named_paths((*self.texts, *self.old, *self.new), "texts"),
            old=tuple(old),
            new=tuple(new),
            **{key: getattr(self, key) for key in model_fields(EvalOptions)},
        )


@dataclass(frozen=True, config=CONFIG)
class ReportSettings(Settings):
    """Options of a report step."""

    model: Directory = Field(description="The model that the page is about.")
    file: File | None = Field(default=None, description="The page. [default: report.html in the model's directory]")
    evaluations: Texts = Field(default=(), description="Results of kept eval.")
    metrics: File | None = Field(default=None, description="metrics.jsonl of the run that healed the model.")
