"""Settings of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, Field, Strict, WithJsonSchema, model_validator
from pydantic.dataclasses import dataclass

from kept.device import AUTO, DEVICE_HELP, Device, Dtype
from kept.errors import InputError, RecipeError
from kept.setting_types import Date, PathKind, Texts, wrong
from kept.settings_model import CONFIG, Settings

BATCH_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}


def _split(names: object) -> object:
    """Return names that are separated by commas as a list."""
    listed = (names,) if isinstance(names, str) else names
    if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
        return names
    return tuple(name.strip() for text in listed for name in text.split(",") if name.strip())


def _batch(size: object) -> object:
    """Return a batch size; None for "auto"."""
    if size == "auto":
        return None
    return int(size) if isinstance(size, str) and size.isdecimal() and size.isascii() else size


def _texts_by_domain(texts: object) -> object:
    if not isinstance(texts, Mapping):
        return texts
    if not all(isinstance(file, str | Path) for file in texts.values()):
        raise wrong(f"is {texts!r}, it must be a table of files by domain")
    return {name: Path(file) for name, file in texts.items()}


DataDirectory = Annotated[Path, Strict(strict=False), PathKind("dir", "DIR")]


@dataclass(frozen=True, config=CONFIG)
class EvalOptions(Settings):
    """Settings that `kept eval` and the step of a recipe share."""

    FORMER: ClassVar[Mapping[str, str]] = {
        "suite": "tasks",
        "suites": "tasks",
        "task": "tasks",
        "chat": "apply_chat_template",
        "longest": "max_length",
        "characters": "max_characters",
    }
    WHAT: ClassVar[str] = "an option of an evaluation"

    tasks: Annotated[Texts, BeforeValidator(_split)] = Field(
        default=(),
        description="What to evaluate besides the texts, separated by commas: tasks, groups and tags of lm-eval, h6, "
        "humaneval, mt-bench, positions, passkey, agreement.",
    )
    data: DataDirectory | None = Field(
        default=None, description="Directory with the documents of the tasks. [default: the hub's cache]"
    )
    num_fewshot: int | None = Field(
        default=None, ge=0, description="Examples in each prompt. [default: what the task says]"
    )
    apply_chat_template: bool = Field(
        default=False,
        description="Format prompts with the model's chat template, which is rendered in a sandbox.",
    )
    batch_size: Annotated[int | None, BeforeValidator(_batch), WithJsonSchema(BATCH_SCHEMA)] = Field(
        default=None, ge=1, description="Rows that run together; auto chooses by their length. [default: auto]"
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Evaluate at most N items per task: documents, questions of a category, prompts or trials.",
    )
    dtype: Dtype | None = Field(
        default=None, description="Dtype that the weights are cast to. [default: the dtype in the checkpoint]"
    )
    device: Device = Field(default=AUTO, description=DEVICE_HELP)
    text_field: str = Field(
        default="text", description="Field of JSON, or column of CSV and parquet, that holds the text of a document."
    )


@dataclass(frozen=True, config=CONFIG)
class EvalSettings(EvalOptions):
    """Settings of an evaluation. Raises RecipeError with the key of a wrong value.

    `texts` are files by domain; without any, a built-in sample is used. `old` are domains that the first model knew,
    `new` those that the later models were trained on.
    """

    texts: Annotated[Mapping[str, Path], BeforeValidator(_texts_by_domain)] = Field(
        default_factory=dict,
        description="Text or data files, or directories of them, by domain. [default: a built-in sample]",
    )
    old: Texts = Field(default=(), description="Domains that the first model knew.")
    new: Texts = Field(default=(), description="Domains that the later models were trained on.")
    window: int | None = Field(
        default=None,
        ge=2,
        description="Tokens per window of the sliding-window perplexity. [default: the context length]",
    )
    stride: int | None = Field(
        default=None,
        ge=1,
        description="Tokens from the start of one window to the start of the next. [default: half the window]",
    )
    max_characters: int = Field(default=200_000, ge=1, description="Read at most this many characters of each text.")
    max_length: int | None = Field(
        default=None,
        ge=2,
        description="Maximum sequence length of positions and passkey, in tokens. [default: the context length]",
    )
    execute: bool = Field(default=False, description="Run the programs that humaneval generates, in a sandbox.")
    unsafe: bool = Field(
        default=False, description="With --execute: run even if this system cannot enforce every limit of the sandbox."
    )
    log_samples: bool = Field(
        default=False, description="Also write every prompt, answer and metric to JSON lines files in --results."
    )
    include_path: DataDirectory | None = Field(
        default=None, description="Directory with YAML files of further tasks, in lm-eval's format."
    )
    run_task_code: bool = Field(
        default=False, description="Allow the YAML files of --include-path to run Python (!function) in this process."
    )
    chat_date: Date | None = Field(
        default=None,
        description="Date for chat templates that use the current date, such as 2026-01-31. [default: today]",
    )
    judge: str | None = Field(
        default=None,
        description="URL of an OpenAI-compatible endpoint that grades mt-bench; its key is read from KEPT_JUDGE_KEY.",
    )
    judge_model: str = Field(default="gpt-4", description="Model name that is sent to the judge.")
    seed: int = Field(default=0, description="Seed of the random pass keys.")

    @model_validator(mode="after")
    def _allowed(self) -> Self:
        if "humaneval" in self.tasks and not self.execute:
            raise RecipeError("runs code that the model writes, with limits; allow it with --execute", "humaneval")
        return self

    def folder(self, asked_by: str) -> Path:
        """Return the directory with the tasks' files. Raises InputError if there is none."""
        if self.data is None:
            raise InputError(f"{asked_by}: needs the files of its tasks; give their directory with --data DIR")
        self.check_data()
        return self.data

    def check_data(self) -> None:
        """Raise InputError if the directory of the tasks' files is none."""
        if self.data is not None and not self.data.is_dir():
            raise InputError(f"{self.data}: is not a directory; give the directory of the tasks' files with --data DIR")
