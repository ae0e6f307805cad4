"""Several commands in one recipe, each with its own keys; what one writes the next one reads.

```toml
out = "out/final"
keep_intermediate = false # true: the outputs of all steps stay, in out/.final.kept-run

[[steps]]
do = "expand"             # expand, convert, heal, shrink-expanded, verify, eval, report
source = "path/to/orion"  # only the first step has to say it; the others go on from the one before
groups = 8

[[steps]]
do = "heal"
teacher = "expand"        # a model may be an earlier step, by its name: what it does, or its own `name`
train = "new"
data = ["corpus/"]

[[steps]]
do = "convert"
to = "llama"

[[steps]]
do = "verify"             # against = "expand" compares with that step, else with the first step's source
```
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass as settings_dataclass
from pydantic_core import CoreSchema, core_schema

from kept.commands.step_kinds import KINDS
from kept.commands.step_settings import EvalStepSettings
from kept.distillation.data.documents import named_paths
from kept.distillation.settings import HealSettings
from kept.distillation.settings_fields import SELF
from kept.errors import InputError, RecipeError
from kept.passes.expand_vocabulary import ExpandVocabulary
from kept.setting_types import Directory, wrong
from kept.settings_model import CONFIG, Settings, check_choice, json_schema
from kept.toml_file import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

    from kept.commands.step_kinds import Asked

RUN = ".kept-run"
"""Suffix of the working directory of a run, beside the output."""


MOST_STEPS = 100

NO_STEPS = "must be one or more tables: write each under [[steps]]"


@dataclass(frozen=True)
class RecipeStep:
    """One command: what it was asked, the models and files that it reads by their keys, and where it writes.

    `table` is what the recipe says of it, with its models and its output; `out` is None for one that writes no model.
    """

    number: int
    do: str
    name: str
    table: Mapping[str, Any]
    asked: Asked
    out: Path | None

    @property
    def model(self) -> Path:
        """The model that it goes on from."""
        return Path(getattr(self.asked, KINDS[self.do].model))

    @property
    def models(self) -> dict[str, Path]:
        """Every model that it reads, by its key."""
        named = ((key, getattr(self.asked, key)) for key in (KINDS[self.do].model, *KINDS[self.do].others))
        return {key: Path(value) for key, value in named if value is not None}

    @property
    def files(self) -> dict[str, Path]:
        """Every file and directory that it reads beside them, by its key."""
        found: dict[str, Path] = {}
        for key in KINDS[self.do].files:
            value = getattr(self.asked, key)
            for number, one in enumerate(value if isinstance(value, tuple) else (value,)):
                found |= {} if one is None else {f"{key} {number}" if number else key: Path(one)}
        grown = [one for one in getattr(self.asked, "passes", ()) if isinstance(one, ExpandVocabulary)]
        found |= {f"tokenizer {number}" if number else "tokenizer": Path(o.tokenizer) for number, o in enumerate(grown)}
        return {**found, **{f"text {name}": path for name, path in self._texts().items()}}

    def _texts(self) -> Mapping[str, Path]:
        """The texts that it learns from or measures on, by their names."""
        if isinstance(self.asked, EvalStepSettings):
            return self.asked.measures.texts
        if not isinstance(self.asked, HealSettings):
            return {}
        trained = {} if self.asked.data == (SELF,) else named_paths(self.asked.data)
        return {
            **trained,
            **{f"eval_data {name}": path for name, path in named_paths(self.asked.eval_data, "eval_data").items()},
        }

    @property
    def made(self) -> tuple[Path, ...]:
        """The files that it writes and that are no model."""
        return (Path(self.asked.out),) if isinstance(self.asked, EvalStepSettings) else ()


@dataclass(frozen=True)
class StepRecipe:
    """A recipe of steps. The models of all are written below `folder`; the last of them becomes `out`."""

    out: Path
    keep_intermediate: bool
    steps: tuple[RecipeStep, ...] = field(default=())

    @property
    def folder(self) -> Path:
        """The hidden sibling in which the steps write."""
        return folder_of(self.out)

    @property
    def last(self) -> RecipeStep:
        """The last step that writes a model."""
        return [step for step in self.steps if step.out is not None][-1]

    def place(self, model: Path) -> Path | None:
        """Return the path of a model after the run; None if its step's output is removed."""
        if model == self.last.out:
            return self.out
        return None if not self.keep_intermediate and model.parent.parent == self.folder else model


def folder_of(out: Path) -> Path:
    """Return the working directory of a run."""
    return out.with_name(f".{out.name}{RUN}")


def _tables(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise wrong(NO_STEPS)
    if len(value) > MOST_STEPS:
        raise wrong(f"are {len(value)}, a recipe has at most {MOST_STEPS}")
    return tuple(value)


class StepTables:
    """Validates the tables of the steps; each is read later, when the steps before it are known."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the validator."""
        return core_schema.no_info_plain_validator_function(_tables)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the JSON schema: each table names a command and has its keys."""
        return {"type": "array", "minItems": 1, "items": {"oneOf": [_step_schema(do) for do in KINDS]}}


@settings_dataclass(frozen=True, config=CONFIG)
class StepsFile(Settings):
    """The content of a recipe file with steps."""

    FORMER: ClassVar[Mapping[str, str]] = {"keep": "keep_intermediate"}

    out: Directory = Field(description="Output directory of the last model.")
    steps: Annotated[tuple[dict[str, Any], ...], StepTables()] = Field(default=(), description="The steps, in order.")
    keep_intermediate: bool = Field(
        default=False, description="Keep the outputs of all steps, in the directory .OUT.kept-run beside OUT."
    )


def _step_schema(do: str) -> dict[str, Any]:
    """Return the JSON schema of a step. It need not name its model, and one that writes a model names no output."""
    kind = KINDS[do]
    schema = json_schema(kind.settings)
    hidden = {"out"} if kind.writes else set()
    first = {"do": {"const": do}, "name": {"type": "string", "description": "Name for later steps. [default: do]"}}
    properties = {key: value for key, value in schema["properties"].items() if key not in hidden}
    needed = [key for key in schema.get("required", ()) if key not in {*hidden, kind.model, *kind.others}]
    return {**schema, "title": do, "properties": {**first, **properties}, "required": ["do", *needed]}


def load_steps(path: str | Path, **overrides: Any) -> StepRecipe:  # noqa: ANN401 - values of any key
    """Read a recipe of steps; `overrides` that are not None win. Raises RecipeError with file, line and key."""
    return load(path, steps_from, overrides)


def steps_from(table: Mapping[str, Any], **overrides: Any) -> StepRecipe:  # noqa: ANN401 - values of any key
    """Return the steps of a TOML table. Raises RecipeError with the step and the key."""
    read = StepsFile.from_table(table, **overrides)
    if not read.steps:
        raise RecipeError(NO_STEPS, "steps")
    made = StepRecipe(Path(read.out), read.keep_intermediate)
    made = replace(made, steps=tuple(_steps(read.steps, made.folder)))
    if all(step.out is None for step in made.steps):
        raise RecipeError("none of them writes a model, so that there would be no output", "steps")
    return made


def _steps(entries: Sequence[dict[str, Any]], folder: Path) -> Iterator[RecipeStep]:
    done: list[RecipeStep] = []
    for at, entry in enumerate(entries):
        try:
            done.append(_step(at + 1, entry, folder, done))
        except RecipeError as error:
            raise error.within("steps", at) from None
        except InputError as error:
            raise RecipeError(str(error), "steps", at) from None
        yield done[-1]


def _called(entry: Mapping[str, Any], before: list[RecipeStep]) -> tuple[str, str]:
    """Return the command of a step, and its name."""
    if "do" not in entry:
        raise RecipeError(f"is missing; it must be one of {', '.join(KINDS)}", "do")
    do, name = entry["do"], entry.get("name", entry["do"])
    for key, value in (("do", do), ("name", name)):
        if not isinstance(value, str):
            raise RecipeError(f"is {value!r}, it must be text in quotes", key)
    check_choice("do", do, KINDS)
    if "name" in entry and any(step.name == name for step in before):
        raise RecipeError(f"another step is called {name!r}", "name")
    return do, name


def _step(number: int, entry: dict[str, Any], folder: Path, before: list[RecipeStep]) -> RecipeStep:
    """One step behind others: what it does not say follows from them."""
    do, name = _called(entry, before)
    kind, table = KINDS[do], {key: value for key, value in entry.items() if key not in {"do", "name"}}
    if kind.writes and "out" in table:
        raise RecipeError(
            "belongs above the steps; keep_intermediate = true there keeps the output of each step", "out"
        )
    written = {step.name: step.out for step in before if step.out is not None}
    for key in (kind.model, *kind.others):
        if isinstance(table.get(key), str) and table[key] in written:
            table[key] = str(written[table[key]])
    if before:
        table.setdefault(kind.model, str([before[0].model, *written.values()][-1]))
    if do == "verify" and before:
        table.setdefault("against", str(before[0].model))
    out = None
    if kind.writes:
        first = before[0].model if before else str(table.get(kind.model, ""))
        called = os.path.basename(os.path.abspath(first))  # noqa: PTH100, PTH119 - of any text, also of no path
        out = folder / f"{number}-{do}" / (called or "model")
        table["out"] = str(out)
    return RecipeStep(number, do, name, table, kind.make(table), out)
