"""Items of rotary positions, in the config forms of transformers 4 and 5. Every number is checked."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.config import Config
from kept.families.paths import ATTENTION, layer_values
from kept.ir import spec as ir
from kept.ir.facts import at_layer, build

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.ir.facts import Facts

ROPE_KEYS = {"rope_type", "type", "rope_theta"}
"""Keys of a RoPE section."""

SMALLEST, LARGEST = 1e-9, 1e30
"""Limits of a scaling's numbers: rules divide by them and take their logarithms and powers."""

SCALINGS: dict[str, type[Any]] = {
    "linear": ir.Linear,
    "dynamic": ir.Dynamic,
    "llama3": ir.Llama3,
    "yarn": ir.Yarn,
    "longrope": ir.LongRope,
    "su": ir.LongRope,
    "proportional": ir.Proportional,
}
"""RoPE types of transformers (`su` is an old name of longrope)."""

PUBLISHED_SCALINGS: dict[str, type[Any]] = {"linear": ir.Linear, "dynamic": ir.Dynamic}
"""RoPE types of the 2023 Llama code, which many families reuse; their classes raise an error for any other type."""

ZERO_IS_ABSENT = {"mscale", "mscale_all_dim"}
"""Keys for which the transformers classes treat 0 as absent."""


@dataclass(frozen=True)
class Rotary:
    """Rotary positions, in the form of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`).

    `partial` is the default fraction of each head that rotates; `reads_partial`: the family's classes read that
    fraction. `theta_key` and `partial_key` are the family's own keys outside the section. `scalings` are the RoPE types
    that its classes accept, `original` their default of the length before scaling, if they have one. `path` is the
    fact that it states, `head_dim` the fact with the size of what it rotates. `section` is the class's own, used if a
    config has none. Comes after that size and the context.
    """

    theta: float = 10_000.0
    partial: float = 1.0
    reads_partial: bool = False
    interleaved: bool = False
    theta_key: str = "rope_theta"
    partial_key: str = "partial_rotary_factor"
    scalings: Mapping[str, type[Any]] = field(default_factory=lambda: SCALINGS)
    original: int | None = None
    section: Mapping[str, Any] = field(default_factory=dict)
    path: str = field(default=f"{ATTENTION}rope")
    head_dim: str = field(default=f"{ATTENTION}head_dim")

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the rotation. Raises CheckpointError for one that its rule or the family's classes cannot compute."""
        section = self._section(config)
        _check_one_for_all(section)
        theta = _theta(section, config, self.theta_key, self.theta)
        kind = section.get("rope_type") or section.get("type") or "default"
        if not isinstance(kind, str) or kind not in {"default", *self.scalings}:
            raise section.wrong("rope_type", "one of default, " + ", ".join(self.scalings))
        if kind == "yarn" and theta <= 1:
            raise section.wrong_value("rope_theta", theta, "above 1: YaRN divides by its logarithm")
        dims = self._dims(section, config, facts[self.head_dim], partial=kind == "proportional")
        if kind == "dynamic" and dims == 2:
            raise section.wrong(
                "rope_type", "another than dynamic if one pair of dimensions rotates: its rule divides by 0"
            )
        if kind == "default":
            return {self.path: ir.Rope(theta, dims, self.interleaved)}
        original = _original(section, config, self.original, facts["context"])
        scaling = _scaling(self.scalings[kind], section, original, facts["context"], dims // 2)
        return {self.path: ir.Rope(theta, dims, self.interleaved, scaling)}

    def _section(self, config: Config) -> Config:
        """Return the section of the rotation: that of transformers 4 or 5, or else the class's own."""
        old, new = config.section("rope_scaling"), config.section("rope_parameters")
        found = old if old.keys else new
        return found if found.keys else Config({**self.section}, new.where)

    def _dims(self, section: Config, config: Config, head: int, *, partial: bool) -> int:
        """Return the number of dimensions of each head that rotate."""
        where, key = _one_place(section, "partial_rotary_factor", config, self.partial_key)
        if not self.reads_partial and not partial:
            if where.number(key, 1.0) != 1:
                raise where.wrong(key, "1: the classes of this family rotate whole heads and do not read it")
            fraction = 1.0
        else:
            fraction = where.number(key, self.partial)
        if not 0 < fraction <= 1:
            raise where.wrong(key, "above 0 and at most 1")
        dims = int(head * fraction)
        if dims < 2 or dims % 2:
            raise where.wrong(key, f"such that an even number of the {head} head dimensions rotate")
        return dims

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the keys of both forms."""
        rotating = next((i for i, tag in enumerate(layer_values(facts, self.path)) if tag is not None), None)
        if rotating is None:
            whole = {self.partial_key: 1.0} if self.reads_partial else {}
            return {self.theta_key: self.theta, "rope_scaling": None, **whole}
        layer = at_layer(facts, rotating)
        rope: ir.Rope = build(ir.Rope, self.path, layer)
        head = layer[self.head_dim]
        fraction = _fraction(rope.dims, head)
        section = _scaling_keys(rope.scaling, (rope.dims if self.reads_partial else head) // 2)
        if isinstance(rope.scaling, ir.Proportional) or self.reads_partial:
            section["partial_rotary_factor"] = fraction
        kind = section.pop("rope_type", "default")
        out: dict[str, Any] = {self.theta_key: rope.theta}
        out["rope_parameters"] = {"rope_type": kind, "rope_theta": rope.theta, **section}
        # transformers 4.41 accepts `type` and `factor` and nothing else for the two kinds that it knows.
        rope_type = {"type": kind} if kind in {"linear", "dynamic"} and not self.reads_partial else {"rope_type": kind}
        out["rope_scaling"] = None if kind == "default" else {**rope_type, **section}
        if self.reads_partial:
            out[self.partial_key] = fraction
        if isinstance(rope.scaling, ir.LongRope):
            # transformers 4 reads it here, and otherwise uses the whole context.
            out["original_max_position_embeddings"] = rope.scaling.original_max_position_embeddings
        return out


@dataclass(frozen=True)
class FixedRotary:
    """RoPE over whole heads with a theta that is fixed in the family's code, which reads no RoPE key of a config."""

    theta: float = 10_000.0
    path: str = field(default=f"{ATTENTION}rope")
    head_dim: str = field(default=f"{ATTENTION}head_dim")

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the rotation. Raises CheckpointError for a config with another one, which the code would ignore."""
        why = f"this family's own code always uses RoPE with theta {self.theta:g} and without scaling"
        for key in ("rope_scaling", "rope_parameters"):
            section = config.section(key)
            if (section.get("rope_type") or section.get("type") or "default") != "default":
                raise config.wrong(key, f"null: {why}")
            if section.get("rope_theta") not in (None, self.theta):
                raise section.wrong("rope_theta", f"{self.theta:g}: {why}")
        if config.get("rope_theta") not in (None, self.theta):
            raise config.wrong("rope_theta", f"{self.theta:g}: {why}")
        return {self.path: ir.Rope(self.theta, facts[self.head_dim])}

    def write(self, facts: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Return no keys: the family's code reads none."""
        return {}


def _check_one_for_all(section: Config) -> None:
    """Raise CheckpointError for a rotation for each type of layer, as some classes of transformers 5 have it."""
    kinds = [key for key, value in section.keys.items() if isinstance(value, dict) and ROPE_KEYS & value.keys()]
    if kinds:
        shown = ", ".join(kinds)
        raise CheckpointError(f"{section.where}: states a rotation for each of {shown}; kept reads one for all layers")


def _theta(section: Config, config: Config, outside: str, default: float) -> float:
    where, key = _one_place(section, "rope_theta", config, outside)
    theta = where.number(key, default)
    if theta < 1:
        raise where.wrong(key, "at least 1")
    return theta


def _one_place(section: Config, inside: str, config: Config, outside: str) -> tuple[Config, str]:
    """Return the config and key that hold a value: the RoPE section (transformers 5) or the top level (transformers 4).

    Raises CheckpointError if both hold it with different values.
    """
    inner, outer = section.get(inside), config.get(outside)
    if inner is None:
        return config, outside
    if outer is not None and outer != inner:
        wanted = f"{outer}, as the top-level {outside}: transformers 4 and 5 disagree on which one they use"
        raise section.wrong(inside, wanted)
    return section, inside


def _bounded(section: Config, key: str) -> float:
    """Return a number with which no rule of scaling gives infinity or NaN."""
    value = section.number(key)
    if not SMALLEST <= value <= LARGEST:
        raise section.wrong(key, f"a number from {SMALLEST:g} to {LARGEST:g}")
    return value


def _fraction(dims: int, head: int) -> float:
    """Return the fraction of a head that rotates: readers compute `int(head * fraction)`, which must be `dims`."""
    fraction = dims / head
    return fraction if int(head * fraction) == dims else math.nextafter(fraction, 1)


def _scaling(kind: type[Any], section: Config, original: int, context: int, pairs: int) -> ir.Scaling:
    values: dict[str, Any] = {}
    for spec_field in fields(kind):
        name = spec_field.name
        if name == "original_max_position_embeddings":
            # The classes scale `dynamic` from the configured context, whatever else is stated.
            values[name] = context if kind is ir.Dynamic else original
        elif name in {"short_factor", "long_factor"}:
            values[name] = _divisors(section, name, pairs)
        elif name == "truncate":
            values[name] = section.flag(name, default=True)
        elif section.get(name) is not None and not (name in ZERO_IS_ABSENT and section.number(name) == 0):
            values[name] = _bounded(section, name)
        elif name == "factor" and kind in {ir.Yarn, ir.LongRope}:
            values[name] = context / original
        elif spec_field.default is MISSING:
            values[name] = _bounded(section, name)  # raises: it is absent
    _check_together(kind, values, section)
    made: ir.Scaling = kind(**values)
    # Old classes derive another factor on cos and sin; a stated factor means the same to all.
    return replace(made, attention_factor=made.temperature) if isinstance(made, ir.LongRope) else made


def _check_together(kind: type[Any], values: dict[str, Any], section: Config) -> None:
    """Raise CheckpointError for numbers that are valid alone and together make a rule divide by zero."""
    if kind is ir.Llama3 and values["high_freq_factor"] <= values["low_freq_factor"]:
        raise section.wrong("high_freq_factor", f"above low_freq_factor, {values['low_freq_factor']:g}")
    if kind is ir.LongRope and values["original_max_position_embeddings"] < 2:
        raise section.wrong_value(
            "original_max_position_embeddings", 1, "at least 2: LongRoPE divides by its logarithm"
        )


def _original(section: Config, config: Config, default: int | None, context: int) -> int:
    """Return the length before scaling. The classes prefer the key outside the RoPE section, and even its default."""
    name = "original_max_position_embeddings"
    if default is not None or config.get(name) is not None:
        return config.size(name, default)
    return section.size(name, context)


def _divisors(section: Config, key: str, pairs: int) -> tuple[float, ...]:
    values = section.get(key)
    if (
        not isinstance(values, list)
        or len(values) != pairs
        or not all(type(v) in {int, float} and SMALLEST <= v <= LARGEST for v in values)
    ):
        numbers = f"{pairs} numbers from {SMALLEST:g} to {LARGEST:g}"
        raise section.wrong(key, f"a list of {numbers}, one for each pair of dimensions that rotates")
    return tuple(float(v) for v in values)


def _scaling_keys(scaling: ir.Scaling | None, pairs: int) -> dict[str, Any]:
    """Return the keys of a scaling. A list of divisors is padded to the number of pairs that the family rotates."""
    if scaling is None:
        return {}
    name = next(name for name, kind in SCALINGS.items() if kind is type(scaling))
    out: dict[str, Any] = {"rope_type": name}
    for spec_field in fields(scaling):
        value = getattr(scaling, spec_field.name)
        # A default that is left out reads back as itself, and older classes reject keys that they do not know.
        if value != spec_field.default and not (name == "dynamic" and spec_field.name != "factor"):
            out[spec_field.name] = [*value, *[1.0] * (pairs - len(value))] if isinstance(value, tuple) else value
    return out
