"""A recipe: everything a conversion was asked to do, as TOML. What is not understood is an error, with its line.

```toml
source = "path/to/orion"
out = "out/llamion"
to = "llama"
norm = "exact"            # exact, opm, opm-centred, calibrated, carried
final_bias = "block"      # block, drop
rope = "llama3"           # llama3, proportional

[[passes]]                # optional: run these first, in order
name = "layernorm-to-rmsnorm"
mode = "opm"
```
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from kept.checkpoint.safetensors_writer import SHARD_BYTES
from kept.errors import RecipeError
from kept.families import TARGETS
from kept.ir.tensors import TORCH_NAMES
from kept.passes import PASSES, Pass
from kept.passes.full_rotary import ROPE_FORMS
from kept.passes.layer_norm_to_rms import MODES, WAYS
from kept.passes.legalize import MOST_STEPS
from kept.passes.rules import Options
from kept.toml_file import check_type, load, merged, nearest, one_of, texts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

DTYPES = {torch_name: name for name, torch_name in TORCH_NAMES.items()}
"""Our dtype names by the words that users write."""

SAME = "same"
"""The target of a conversion that stays in its source's family, whichever that is."""

WORDS: Mapping[str, Collection[str]] = {
    "to": (*TARGETS, SAME),
    "norm": WAYS,
    "final_bias": ("block", "drop"),
    "rope": ROPE_FORMS,
    "dtype": DTYPES,
}
"""What the keys whose value is one word may say."""

CHOICES = ("to", "norm", "final_bias", "rope")
"""Keys that are recorded even where they have their default: another version may have another."""

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1}

LARGEST_SHARD = 10**18

MOST_TOKENS = 10_000_000
"""Tokens that a verification may read: they are held in memory."""


MEASUREMENTS = {"gains", "growth", "lengths", "silent"}
"""Fields of passes that are measured, not chosen."""


@dataclass(frozen=True)
class Recipe:
    """The options of one conversion. `passes` run first, in order; the planner adds what the target needs.

    Values are checked by the constructor, which raises RecipeError with the name of the key.

    Attributes:
        source: the checkpoint to convert.
        out: the directory to write.
        to: the target family, or "same".
        norm: how LayerNorm becomes RMSNorm: exact, opm, opm-centred, calibrated or carried.
        final_bias: the bias of the last norm: "block" (one more layer, exact) or "drop".
        rope: form of a partial rotation: "llama3" (any runtime) or "proportional" (transformers 5).
        context: state a shorter context, in tokens.
        dtype: dtype of the output; None keeps the source's.
        shard_size: largest weight file, such as "5GB".
        text: a UTF-8 file for calibration and verification.
        verify_tokens: number of tokens of the verification; 0 turns it off.
        base: the base model, if the source is a LoRA adapter.
        tie: if the stored head differs from tied embeddings: True uses the embedding, False the stored head.
        passes: passes to run before planning.
    """

    source: str
    out: str
    to: str = "llama"
    norm: str = "exact"
    final_bias: str = "block"
    rope: str = "llama3"
    context: int | None = None
    dtype: str | None = None
    shard_size: str | None = None
    text: str | None = None
    verify_tokens: int | None = None
    base: str | None = None
    tie: bool | None = None
    passes: tuple[Pass, ...] = field(default=())

    def __post_init__(self) -> None:
        """Check every value."""
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if field_.name != "passes" and not (value is None and "None" in str(field_.type)):
                check_type(field_.name, value, str(field_.type))
        for key, words in WORDS.items():
            if getattr(self, key) is not None:
                one_of(key, getattr(self, key), words)
        if self.context is not None and self.context < 1:
            raise RecipeError(f"context: is {self.context}, it must be a positive number of tokens")
        if self.verify_tokens not in {None, 0} and not 2 <= (self.verify_tokens or 0) <= MOST_TOKENS:
            allowed = f"it must be 0 (no verification) or from 2 to {MOST_TOKENS}"
            raise RecipeError(f"verify_tokens: is {self.verify_tokens}, {allowed}")
        if len(self.passes) > MOST_STEPS:
            raise RecipeError(f"passes: are {len(self.passes)}, a plan has at most {MOST_STEPS}")
        self.shard_bytes  # noqa: B018 - checks it

    @property
    def options(self) -> Options:
        """What the planner is told."""
        dtype = None if self.dtype is None else DTYPES[self.dtype]
        return Options(self.norm, self.final_bias, self.rope, self.context, dtype)  # type: ignore[arg-type]

    @property
    def shard_bytes(self) -> int:
        """The largest size of an output file, in bytes; 5 GB where nothing is said."""
        if self.shard_size is None:
            return SHARD_BYTES
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B)", self.shard_size.strip(), re.IGNORECASE)
        size = float(match[1]) * UNITS[match[2].upper()] if match is not None else 0
        if not 1 <= size <= LARGEST_SHARD:
            raise RecipeError(f"shard_size: is {self.shard_size!r}, write it as 5GB or 500MB")
        return int(size)

    def to_dict(self) -> dict[str, Any]:
        """What was chosen, and what the defaults of the choices are, in the words of the TOML file."""
        out = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "passes"}
        defaults = {f.name: f.default for f in fields(self)}
        kept = {key: value for key, value in out.items() if value != defaults[key] or key in CHOICES}
        return {**kept, **({"passes": [_pass_to_dict(p) for p in self.passes]} if self.passes else {})}


def load_recipe(path: str | Path, **overrides: Any) -> Recipe:  # noqa: ANN401 - values of any key
    """Read a recipe file.

    Args:
        path: a TOML file with fields of `kept.Recipe`.
        overrides: fields that win over the file; None means not given.

    Returns:
        The recipe.

    Raises:
        RecipeError: names file, line and key.

    Example:
        ```python
        recipe = kept.load_recipe("recipes/orion-to-llama.toml", source="path/to/orion-14b")
        ```
    """
    return load(path, recipe_from, overrides)


def recipe_from(table: dict[str, Any], **overrides: Any) -> Recipe:  # noqa: ANN401 - values of any key
    """A recipe from the keys of a TOML table. Raises RecipeError for an unknown key, a wrong type or a missing one."""
    known = {f.name: f for f in fields(Recipe)}
    given = merged(table, overrides, known)
    for key, value in given.items():
        if key != "passes":
            check_type(key, value, str(known[key].type))
    missing = next((key for key in ("source", "out") if key not in given), None)
    if missing is not None:
        raise RecipeError(f"{missing}: is missing")
    return Recipe(**{**given, "passes": tuple(_passes(given.get("passes", ())))})


def _passes(entries: object) -> Iterator[Pass]:
    if not isinstance(entries, list | tuple):
        raise RecipeError(f"passes: is {entries!r}, it must be a list of tables: write each under [[passes]]")
    for number, entry in enumerate(entries, 1):
        try:
            yield _pass(entry)
        except RecipeError as error:
            raise RecipeError(f"pass {number}: {error}") from None


def _pass(entry: object) -> Pass:
    if isinstance(entry, Pass):
        return entry
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise RecipeError("name: every pass is a table with a name")
    name, options = entry["name"], {key: value for key, value in entry.items() if key != "name"}
    if name not in PASSES:
        raise RecipeError(f"name: {name!r} is not a pass{nearest(name, PASSES)}; there are {', '.join(PASSES)}")
    settable = {f.name: f for f in fields(PASSES[name])}
    for key, value in options.items():
        if key not in settable or key in MEASUREMENTS:
            raise RecipeError(f"{key}: is not an option of {name}{nearest(key, settable)}")
        options[key] = _dtype(key, value) if key == "dtype" else _option(key, value, str(settable[key].type))
    try:
        return PASSES[name](**options)
    except TypeError:
        needs = ", ".join(key for key, one in settable.items() if key not in options and one.default is MISSING)
        raise RecipeError(f"{name}: needs {needs}") from None


def _option(key: str, value: object, hint: str) -> object:
    """A pass's option, checked against the pass's own annotation."""
    if hint == "Mode":
        if value == "calibrated":
            raise RecipeError(
                f'{key}: calibration is the recipe\'s own choice; write norm = "calibrated" above the passes'
            )
        if value not in MODES:
            raise RecipeError(f"{key}: is {value!r}; it must be one of {', '.join(MODES)}")
        return value
    if hint == "RopeForm":
        one_of(key, str(value), ROPE_FORMS)
        return value
    if hint.startswith("tuple[int"):
        return whole_numbers(key, value)
    if hint.startswith("tuple"):
        return texts(key, value)
    check_type(key, value, hint)
    return value


def whole_numbers(key: str, value: object) -> tuple[int, ...]:
    """A list of whole numbers. Raises RecipeError where it is none."""
    if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
        raise RecipeError(f"{key}: is {value!r}, it must be a list of whole numbers")
    return tuple(value)


def _dtype(key: str, value: object) -> str:
    """Our name of a dtype, by the word that users write."""
    check_type(key, value, "str")
    one_of(key, str(value), DTYPES)
    return DTYPES[str(value)]


def options_of(rewrite: Pass) -> dict[str, Any]:
    """A pass's options as a recipe writes them."""
    options: dict[str, Any] = {f.name: getattr(rewrite, f.name) for f in fields(rewrite) if f.name not in MEASUREMENTS}
    if "dtype" in options:
        options["dtype"] = TORCH_NAMES[options["dtype"]]
    said = {key: value for key, value in options.items() if value is not None}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in said.items()}


def _pass_to_dict(rewrite: Pass) -> dict[str, Any]:
    return {"name": rewrite.name, **options_of(rewrite)}
