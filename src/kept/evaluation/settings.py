"""Settings of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, Field, Strict, model_validator
from pydantic.dataclasses import dataclass

from kept.errors import InputError, RecipeError
from kept.evaluation.tasks import NAMES
from kept.ir.tensors import TORCH_NAMES
from kept.settings_model import CONFIG, Date, OneOf, PathKind, Settings, Texts, not_a_choice, wrong

DTYPES = tuple(TORCH_NAMES.values())


def _known(suites: tuple[str, ...]) -> tuple[str, ...]:
    unknown = next((name for name in suites if name not in NAMES), None)
    if unknown is not None:
        raise wrong(not_a_choice(unknown, NAMES))
    return suites


def _texts_by_domain(texts: object) -> object:
    return {name: Path(file) for name, file in texts.items()} if isinstance(texts, Mapping) else texts


DataDirectory = Annotated[Path, Strict(strict=False), PathKind("dir", "DIR")]


@dataclass(frozen=True, config=CONFIG)
class EvalOptions(Settings):
    """Settings that `kept eval` and the step of a recipe share."""

    WHAT: ClassVar[str] = "an option of an evaluation"

    suites: Annotated[Texts, AfterValidator(_known)] = Field(
        default=(),
        description="positions, passkey, agreement, h6, kobest, blimp, lambada, humaneval, mt-bench, or the name of a "
        "task. May be given several times.",
    )
    data: DataDirectory | None = Field(default=None, description="Directory with the files of the tasks.")
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Evaluate only N documents per task, questions per category, prompts and trials.",
    )
    dtype: Annotated[str, OneOf(DTYPES)] | None = Field(
        default=None, description="Dtype of the models. [default: each weight's own]"
    )
    device: str = Field(default="cpu", description="Device that the models run on: cpu, cuda, cuda:1, ...")


@dataclass(frozen=True, config=CONFIG)
class EvalSettings(EvalOptions):
    """Settings of an evaluation. Raises RecipeError with the key of a wrong value.

    `texts` are files by domain; without any, a built-in sample is used. `old` are domains that the first model knew,
    `new` those that the later models were trained on.
    """

    texts: Annotated[Mapping[str, Path], BeforeValidator(_texts_by_domain)] = Field(
        default_factory=dict, description="UTF-8 files by domain. [default: a built-in sample]"
    )
    old: Texts = Field(default=(), description="Domains that the first model knew.")
    new: Texts = Field(default=(), description="Domains that the later models were trained on.")
    window: int | None = Field(
        default=None, ge=2, description="Window of the perplexity, in tokens. [default: the context]"
    )
    stride: int | None = Field(
        default=None, ge=1, description="Stride between windows, in tokens. [default: half the window]"
    )
    characters: int = Field(default=200_000, ge=1, description="Characters to read from each text.")
    longest: int | None = Field(
        default=None,
        ge=2,
        description="Maximum sequence length of positions and passkey, in tokens. [default: the model's limit]",
    )
    execute: bool = Field(default=False, description="Run the programs that humaneval generates, in a sandbox.")
    unsafe: bool = Field(
        default=False, description="With --execute: run even if this system cannot enforce every limit of the sandbox."
    )
    chat: bool = Field(
        default=False, description="Format the prompts of mt-bench with the checkpoint's chat template, in a sandbox."
    )
    chat_date: Date | None = Field(
        default=None, description="Current date for the chat template, as 2026-01-31. [default: today]"
    )
    judge: str | None = Field(
        default=None,
        description="URL of an OpenAI-compatible endpoint that grades mt-bench; its key is read from KEPT_JUDGE_KEY.",
    )
    judge_model: str = Field(default="gpt-4", description="Model of the judge.")
    seed: int = Field(default=0, description="Seed of the pass keys.")

    @model_validator(mode="after")
    def _allowed(self) -> Self:
        if "humaneval" in self.suites and not self.execute:
            raise RecipeError("runs code that the model writes, with limits; allow it with --execute", "humaneval")
        return self

    def folder(self, asked_by: str) -> Path:
        """Return the directory with the tasks' files. Raises InputError if there is none."""
        if self.data is None:
            raise InputError(f"{asked_by}: needs the files of its tasks; give their directory with --data DIR")
        if not self.data.is_dir():
            raise InputError(f"{self.data}: is not a directory; give the directory of the tasks' files with --data DIR")
        return self.data
