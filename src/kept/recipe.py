"""A conversion recipe as TOML.

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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Unpack

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, core_schema

from kept.cache_settings import CacheSettings
from kept.checkpoint.safetensors_writer import SHARD_BYTES
from kept.device import Dtype
from kept.families import TARGETS
from kept.pass_options import DTYPES, pass_table, passes_from, passes_schema
from kept.passes import Pass
from kept.passes.full_rotary import RopeForm
from kept.passes.layer_norm_to_rms import NormMode
from kept.passes.legalize import MOST_STEPS
from kept.passes.rules import Options
from kept.setting_types import Directory, File, OneOf, wrong
from kept.settings_model import CONFIG, Settings, model_fields

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

    from kept.option_types import RecipeOptions

SAME = "same"
"""Target of a conversion that stays in the family of its source."""

CHOICES = ("to", "norm", "final_bias", "rope")
"""Keys that are recorded even if they have their default, which may differ between versions."""

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1}

LARGEST_SHARD = 10**18

SHARD_SIZE = r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGkmg]?[Bb])\s*$"


MOST_TOKENS = 10_000_000
"""Tokens that a verification may read: they are held in memory."""

VERIFY_TOKENS = {"anyOf": [{"const": 0}, {"type": "integer", "minimum": 2, "maximum": MOST_TOKENS}]}
"""JSON schema of `verify_tokens`."""

SMALL = 300_000_000
"""Parameters below which an output is measured on 512 tokens, and writes greedy continuations; above on 64 tokens."""


def _bytes(size: str) -> int:
    """Return a size such as 5GB in bytes. Raises PydanticCustomError if it is none."""
    match = re.fullmatch(SHARD_SIZE, size)
    found = float(match[1]) * UNITS[match[2].upper()] if match is not None else 0
    if not 1 <= found <= LARGEST_SHARD:
        raise wrong(f"is {size!r}, write it as 5GB or 500MB")
    return int(found)


def _shard_size(size: str) -> str:
    _bytes(size)
    return size


def _verify_tokens(tokens: int) -> int:
    if tokens != 0 and not 2 <= tokens <= MOST_TOKENS:
        raise wrong(f"is {tokens}, it must be 0 (no verification) or from 2 to {MOST_TOKENS}")
    return tokens


class PassTables:
    """Validates a list of passes, each a `Pass` or a table with a name and options."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the validator."""
        return core_schema.no_info_plain_validator_function(self._checked)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the JSON schema: a table with a name, and options by the name."""
        return passes_schema()

    def _checked(self, value: object) -> tuple[Pass, ...]:
        passes = passes_from(value)
        if len(passes) > MOST_STEPS:
            raise wrong(f"are {len(passes)}, a plan has at most {MOST_STEPS}")
        return passes


@dataclass(frozen=True, config=CONFIG)
class ConversionSettings(Settings):
    """Settings that every conversion has."""

    FORMER: ClassVar[Mapping[str, str]] = {"shard_size": "max_shard_size"}

    source: Directory = Field(description="The checkpoint to convert: a directory, a GGUF file or a hub id.")
    out: Directory = Field(description="Output directory.")
    norm: NormMode = Field(
        default="exact",
        description="How LayerNorm becomes RMSNorm. exact: same outputs, norm biases become projection biases. "
        "carried: norm biases are stored in one direction of the residual stream. opm: gains are copied, biases "
        "dropped. opm-centred: as opm, after the mean is removed from the weights. calibrated: gains are fitted on "
        "--text, biases dropped. All but exact change the outputs.",
    )
    final_bias: Literal["block", "drop"] = Field(
        default="block",
        description="Bias of the final norm. block: one more layer adds it (exact). drop: it is left out.",
    )
    rope: RopeForm = Field(
        default="llama3",
        description="rope_type that expresses a partial rotary embedding: llama3 (loads in every runtime) or "
        "proportional (transformers 5).",
    )
    context: int | None = Field(
        default=None,
        ge=1,
        description="max_position_embeddings of the output. A sliding window of at least that length has no effect "
        "and is removed.",
    )
    dtype: Dtype | None = Field(
        default=None,
        description="Dtype of the output: float32 (fp32), bfloat16 (bf16), float16 (fp16) or float64. [default: that "
        "of the source]",
    )
    max_shard_size: (
        Annotated[str, AfterValidator(_shard_size), WithJsonSchema({"type": "string", "pattern": SHARD_SIZE})] | None
    ) = Field(default=None, description="Maximum size of a weight file, such as 5GB or 500MB. [default: 5GB]")
    text: File | None = Field(
        default=None, description="UTF-8 text for calibration and verification. [default: a built-in sample]"
    )
    verify_tokens: Annotated[int, AfterValidator(_verify_tokens), WithJsonSchema(VERIFY_TOKENS)] | None = Field(
        default=None,
        description="Number of tokens on which the output is verified; 0 skips the verification. [default: 512, for "
        "large models 64]",
    )
    base: Directory | None = Field(default=None, description="Base model of a LoRA adapter.")
    adapter: Directory | None = Field(
        default=None, description="A LoRA or DoRA adapter (peft) that is merged into the source first."
    )
    tie: bool | None = Field(
        default=None,
        description="If the config ties the embeddings but the checkpoint stores another head: use the embedding "
        "(--tie) or the stored head (--untie).",
    )

    @property
    def shard_bytes(self) -> int:
        """Size limit of an output file in bytes; 5 GB by default."""
        return SHARD_BYTES if self.max_shard_size is None else _bytes(self.max_shard_size)


@dataclass(frozen=True, config=CONFIG)
class Recipe(CacheSettings, ConversionSettings):
    """The options of one conversion. `passes` run first, in order; the planner adds what the target needs.

    Values are checked by the constructor, which raises RecipeError with the name of the key.

    Attributes:
        source: the checkpoint to convert.
        out: the directory to write.
        to: the target family, or "same".
        norm: how LayerNorm becomes RMSNorm: exact, opm, opm-centred, calibrated or carried.
        final_bias: the bias of the last norm: "block" (one more layer, exact) or "drop".
        rope: form of a partial rotation: "llama3" (any runtime) or "proportional" (transformers 5).
        context: a shorter `max_position_embeddings`, in tokens.
        dtype: dtype of the output; None: that of the source.
        max_shard_size: maximum size of a weight file, such as "5GB".
        text: a UTF-8 file for calibration and verification.
        verify_tokens: number of tokens of the verification; 0 turns it off.
        base: the base model, if the source is a LoRA adapter.
        adapter: a LoRA or DoRA adapter that is merged into the source first.
        tie: if the stored head differs from tied embeddings: True uses the embedding, False the stored head.
        passes: passes to run before planning.
        kv: share of the source's KV cache, for a target with latent attention; "50%" or 0.5.
        kv_ranks: instead, the widths of the rotary key and of the latent.
        kv_energy: instead, the part of the energy to keep.
        kv_method: how attention is truncated: whitened, transmla or paper.
        ranks: "uniform" or "per-layer".
        kv_refit: fit the truncated layers to the source's outputs.
        data: calibration texts, or "self".
        calibration_tokens: number of tokens to calibrate on.
    """

    to: Annotated[str, OneOf((*TARGETS, SAME))] = Field(
        default="llama", description="Target family; same: the family of the source."
    )
    passes: Annotated[tuple[Pass, ...], PassTables()] = Field(
        default=(), description="Passes to run first, in order; each has a name and options."
    )

    @property
    def options(self) -> Options:
        """The options of the planner."""
        dtype = None if self.dtype is None else DTYPES[self.dtype]
        return Options(self.norm, self.final_bias, self.rope, self.context, dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return the values that are not defaults, and those of `CHOICES`, as the keys of a recipe."""
        known = model_fields(Recipe)
        keys = ("source", "out", "to", *(key for key in known if key not in {"source", "out", "to", "passes"}))
        values = {key: getattr(self, key) for key in keys}
        kept = {key: value for key, value in values.items() if value != known[key].default or key in CHOICES}
        return {**kept, **({"passes": [pass_table(one) for one in self.passes]} if self.passes else {})}


def load_recipe(path: str | Path, **overrides: Unpack[RecipeOptions]) -> Recipe:
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
    return Recipe.load(path, **overrides)


def recipe_from(table: Mapping[str, Any], **overrides: Any) -> Recipe:  # noqa: ANN401 - values of any key
    """Return a recipe from a TOML table; `overrides` that are not None win. Raises RecipeError with the key."""
    return Recipe.from_table(table, **overrides)
