"""Settings of a conversion to latent attention with a smaller KV cache."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.dataclasses import dataclass

from kept.compression.latent.settings import Method, RankRule, TruncationSettings
from kept.setting_types import Texts, WholeNumbers, wrong
from kept.settings_model import CONFIG, Settings

PERCENT = r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$"

SHARE_SCHEMA = {
    "anyOf": [{"type": "string", "pattern": PERCENT}, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}]
}


def _share(value: object) -> object:
    """Return a share of 1, written as 50% or 0.5. Raises PydanticCustomError for anything else."""
    found: Any = value
    if isinstance(value, str):
        percent = re.fullmatch(PERCENT, value, re.ASCII) is not None
        try:
            found = float(value.strip().removesuffix("%")) / (100 if percent else 1)
        except ValueError:
            found = None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found <= 1:
        raise wrong(f"is {value!r}, write a share of the cache as 50% or 0.5, above 0 and at most 100%")
    return float(found)


def _two(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if len(sizes) != 2:
        raise wrong(f"has {len(sizes)} numbers, write the widths of rotary key and latent, as 48,142")
    return sizes


@dataclass(frozen=True, config=CONFIG)
class CacheSettings(Settings):
    """The KV cache of a conversion to latent attention; without one of the three sizes, the cache keeps its size."""

    kv: Annotated[float, BeforeValidator(_share), WithJsonSchema(SHARE_SCHEMA)] | None = Field(
        default=None,
        description="For a target with latent attention: share of the source's KV cache, such as 50%. Attention is "
        "truncated without training, measured on --data.",
    )
    kv_ranks: Annotated[WholeNumbers, AfterValidator(_two)] | None = Field(
        default=None, description="Instead of --kv: widths of the rotary key and of the latent, such as 48,142."
    )
    kv_energy: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Instead of --kv: part of the energy of rotary components and of the latent to keep, such as 0.99.",
    )
    kv_method: Method = Field(
        default="whitened",
        description="How attention is truncated. whitened: by what errors of keys and values change in the output. "
        "transmla: TransMLA (arXiv 2502.07864). paper: X-EcoMLA's start from weights alone (arXiv 2503.11132).",
    )
    ranks: RankRule = Field(
        default="uniform",
        description="uniform: one rank for all layers, as stock classes need. per-layer: each layer has its own.",
    )
    kv_refit: bool = Field(
        default=True, description="Fit values and output projections to the source's outputs on --data, in closed form."
    )
    data: Texts = Field(
        default=(),
        description="Calibration texts for --kv: text files, JSON, CSV, parquet, or directories of them, of equal "
        "parts. May be given several times. self: texts that the source generates.",
    )
    calibration_tokens: int = Field(
        default=32768, ge=256, le=10_000_000, description="Number of tokens of --data to calibrate on."
    )

    @property
    def truncates(self) -> bool:
        """Whether the cache is to be smaller."""
        return self.kv not in (None, 1.0) or self.kv_ranks is not None or self.kv_energy is not None

    @property
    def truncation(self) -> TruncationSettings:
        """The settings of the truncation."""
        sizes = None if self.kv_ranks is None else (self.kv_ranks[0], self.kv_ranks[1])
        return TruncationSettings(self.kv, sizes, self.kv_energy, self.kv_method, self.ranks, self.kv_refit)
