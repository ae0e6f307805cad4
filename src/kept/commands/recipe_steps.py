"""Several commands in one recipe, each with its own keys; what one writes the next one reads.

```toml
out = "out/final"
keep = false              # true: what the other steps wrote stays, in out/.final.kept-run

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
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.commands.shrink import ShrinkSettings, shrinking_from
from kept.distillation.data.documents import named_paths
from kept.distillation.settings import SELF, HealSettings
from kept.distillation.settings_file import settings_from
from kept.errors import InputError, RecipeError
from kept.evaluation.settings import EvalSettings
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.expand_vocabulary import ExpandVocabulary
from kept.recipe import MEASUREMENTS, SAME, Recipe, recipe_from
from kept.toml_file import check_type, load, merged, one_of, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

RUN = ".kept-run"
"""What the name of the directory beside the output ends with, in which the steps write."""


MOST_STEPS = 100


@dataclass(frozen=True)
class VerifySettings:
    """The options of `kept verify`."""

    against: str
    model: str
    text: str | None = None
    tokens: int = 2048
    streamed: bool = False


@dataclass(frozen=True)
class EvalStepSettings:
    """The options of `kept eval`, of one model and perhaps another; `out` is the file for what was found."""

    model: str
    out: str
    against: str | None = None
    texts: tuple[str, ...] = ()
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    data: str | None = None
    limit: int | None = None
    dtype: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check what the settings check."""
        self.measures  # noqa: B018 - checks them
        for role in ("old", "new"):
            if getattr(self, role) and self.against is None:
                raise RecipeError(f"{role}: compares models; say against which, or give the file as one of texts")

    @property
    def measures(self) -> EvalSettings:
        """What is measured."""
        return EvalSettings(
            texts=named_paths((*self.texts, *self.old, *self.new)),
            old=tuple(named_paths(self.old)),
            new=tuple(named_paths(self.new)),
            suites=self.suites,
            data=None if self.data is None else Path(self.data),
            limit=self.limit,
            dtype=self.dtype,
            device=self.device,
        )


@dataclass(frozen=True)
class ReportSettings:
    """The options of `kept report`."""

    model: str
    file: str | None = None
    evaluations: tuple[str, ...] = ()
    metrics: str | None = None


Asked = Recipe | HealSettings | ShrinkSettings | VerifySettings | EvalStepSettings | ReportSettings
"""What one step was asked."""


def _plain(kind: type[Any]) -> Callable[[Mapping[str, Any]], Any]:
    """What makes one of the plain classes above of a table."""
    known = {one.name: one for one in fields(kind)}

    def make(table: Mapping[str, Any]) -> Any:  # noqa: ANN401 - one of the kind
        given = merged(table, {}, known)
        for key, value in given.items():
            hint = str(known[key].type)
            if hint.startswith("tuple"):
                given[key] = texts(key, value)
            else:
                check_type(key, value, hint)
        missing = next((key for key, one in known.items() if one.default is MISSING and key not in given), None)
        if missing is not None and known[missing].default_factory is MISSING:
            raise RecipeError(f"{missing}: is missing")
        return kind(**given)

    return make


def _expansion(table: Mapping[str, Any]) -> Recipe:
    """The recipe of `kept expand`: options of two passes beside its own, of layers where nothing is said of tokens."""
    kinds = {kind: {one.name for one in fields(kind)} - MEASUREMENTS for kind in (ExpandBlocks, ExpandVocabulary)}
    said = {kind: {key: value for key, value in table.items() if key in own} for kind, own in kinds.items()}
    asked = [kind for kind in kinds if said[kind]] or [ExpandBlocks]
    entries = [{"name": kind.name, **said[kind]} for kind in asked]
    rest = {key: value for key, value in table.items() if not any(key in own for own in kinds.values())}
    if taken := next((key for key in ("to", "passes") if key in rest), None):
        raise RecipeError(f"{taken}: is for a step that converts")
    return recipe_from({**rest, "to": SAME, "passes": entries})


@dataclass(frozen=True)
class StepKind:
    """How a command's keys are read: what makes what it is asked of them, and which of them is what.

    `model` is the key of the model that a step goes on from; `others` are models, `files` paths that it reads too.
    """

    make: Callable[[Mapping[str, Any]], Asked]
    model: str
    writes: bool = True
    others: tuple[str, ...] = ()
    files: tuple[str, ...] = ("text",)


KINDS: Mapping[str, StepKind] = {
    "expand": StepKind(_expansion, "source"),
    "convert": StepKind(lambda table: recipe_from({**table}), "source"),
    "heal": StepKind(settings_from, "student", others=("teacher",), files=("teacher_cache", "chat_template")),
    "shrink-expanded": StepKind(shrinking_from, "source"),
    "verify": StepKind(_plain(VerifySettings), "model", writes=False, others=("against",)),
    "eval": StepKind(_plain(EvalStepSettings), "model", writes=False, others=("against",), files=("data",)),
    "report": StepKind(_plain(ReportSettings), "model", writes=False, files=("metrics", "evaluations")),
}
"""The commands that can be steps."""


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
        learned = {} if self.asked.data == (SELF,) else named_paths(self.asked.data)
        return {**learned, **{f"watch {name}": path for name, path in named_paths(self.asked.watch, "watch").items()}}

    @property
    def made(self) -> tuple[Path, ...]:
        """The files that it writes and that are no model."""
        return (Path(self.asked.out),) if isinstance(self.asked, EvalStepSettings) else ()


@dataclass(frozen=True)
class StepRecipe:
    """A recipe of steps. The models of all are written below `folder`; the last of them becomes `out`."""

    out: Path
    keep: bool
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
        """Where a model is when all is done; None for a step's that nobody keeps."""
        if model == self.last.out:
            return self.out
        return None if not self.keep and model.parent.parent == self.folder else model


def folder_of(out: Path) -> Path:
    """Where the steps of an output write."""
    return out.with_name(f".{out.name}{RUN}")


def load_steps(path: str | Path, **overrides: Any) -> StepRecipe:  # noqa: ANN401 - values of any key
    """Read a recipe of steps; `overrides` (None: not given) win over it. Raises RecipeError naming file, line, key."""
    return load(path, steps_from, overrides)


def steps_from(table: Mapping[str, Any], **overrides: Any) -> StepRecipe:  # noqa: ANN401 - values of any key
    """Steps from a TOML table. Raises RecipeError naming the step and the key that is unknown, wrong or missing."""
    given = merged(table, overrides, ("out", "keep", "steps"))
    for key, hint in (("out", "str"), ("keep", "bool")):
        if key in given:
            check_type(key, given[key], hint)
    if "out" not in given:
        raise RecipeError("out: is missing; say where the result goes")
    entries = given.get("steps", ())
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise RecipeError("steps: must be one or more tables: write each under [[steps]]")
    if len(entries) > MOST_STEPS:
        raise RecipeError(f"steps: are {len(entries)}, a recipe has at most {MOST_STEPS}")
    made = StepRecipe(Path(given["out"]), given.get("keep", False))
    made = replace(made, steps=tuple(_steps(entries, made.folder)))
    if all(step.out is None for step in made.steps):
        raise RecipeError("steps: none of them writes a model, so that nothing would be out")
    return made


def _steps(entries: list[dict[str, Any]], folder: Path) -> Iterator[RecipeStep]:
    done: list[RecipeStep] = []
    for number, entry in enumerate(entries, 1):
        try:
            done.append(_step(number, entry, folder, done))
        except (RecipeError, InputError) as error:
            raise RecipeError(f"step {number}: {error}") from None
        yield done[-1]


def _called(entry: Mapping[str, Any], before: list[RecipeStep]) -> tuple[str, str]:
    """What a step does, and its name."""
    if "do" not in entry:
        raise RecipeError(f"do: is missing; it must be one of {', '.join(KINDS)}")
    do, name = entry["do"], entry.get("name", entry["do"])
    check_type("do", do, "str")
    one_of("do", do, KINDS)
    check_type("name", name, "str")
    if "name" in entry and any(step.name == name for step in before):
        raise RecipeError(f"name: another step is called {name!r}")
    return do, name


def _step(number: int, entry: dict[str, Any], folder: Path, before: list[RecipeStep]) -> RecipeStep:
    """One step behind others: what it does not say follows from them."""
    do, name = _called(entry, before)
    kind, table = KINDS[do], {key: value for key, value in entry.items() if key not in {"do", "name"}}
    if kind.writes and "out" in table:
        raise RecipeError("out: is for the whole recipe to say; keep = true above the steps keeps what each one wrote")
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
