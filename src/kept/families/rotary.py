"""Rotary positions in a config: the item that reads and writes the keys of both forms, and checks every number."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.items import by_layer
from kept.families.table import ATTENTION
from kept.ir import spec as ir
from kept.ir.facts import at_layer, build

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.families.config import Config
    from kept.ir.facts import Facts

ROPE_KEYS = {"rope_type", "type", "rope_theta"}
"""Keys of a rotation's section."""

SMALLEST, LARGEST = 1e-9, 1e30
"""What a number of a scaling may be: rules divide by them, take logarithms and powers. A factor of 1e30 stops."""

SCALINGS: dict[str, type[Any]] = {
    "linear": ir.Linear,
    "dynamic": ir.Dynamic,
    "llama3": ir.Llama3,
    "yarn": ir.Yarn,
    "longrope": ir.LongRope,
    "su": ir.LongRope,
    "proportional": ir.Proportional,
}
"""Rope types of transformers (`su` is an old name)."""

PUBLISHED: dict[str, type[Any]] = {"linear": ir.Linear, "dynamic": ir.Dynamic}
"""RoPE types of the 2023 Llama code, which many families reuse; their classes raise an error for any other type."""

ZERO_IS_UNSAID = {"mscale", "mscale_all_dim"}
"""Keys for which the transformers classes treat 0 as absent."""


@dataclass(frozen=True)
class Rotary:
    """Rotary positions, in the 4.x form (`rope_theta`, `rope_scaling`) and the 5.x form (`rope_parameters`) at once.

    `partial` is the fraction of each head that turns where the config does not say; `says_partial` whether the
    family's classes read that fraction at all. `theta_key` and `partial_key` are the family's own names outside the
    section, `kinds` the rope types that it knows, `original` the length before scaling of classes that have a default
    for it. Comes after head size and context in a table.
    """

    theta: float = 10_000.0
    partial: float = 1.0
    says_partial: bool = False
    interleaved: bool = False
    theta_key: str = "rope_theta"
    partial_key: str = "partial_rotary_factor"
    kinds: Mapping[str, type[Any]] = field(default_factory=lambda: SCALINGS)
    original: int | None = None
    path: str = field(default=f"{ATTENTION}rope")

    def read(self, config: Config, known: Facts) -> Facts:
        """Keys to a rotation."""
        old, new = config.section("rope_scaling"), config.section("rope_parameters")
        given = old if old.keys else new
        _one_for_all(given)
        theta = _theta(given, config, self.theta_key, self.theta)
        kind = given.get("rope_type") or given.get("type") or "default"
        if not isinstance(kind, str) or kind not in {"default", *self.kinds}:
            raise given.wrong("rope_type", "one of default, " + ", ".join(self.kinds))
        if kind == "yarn" and theta <= 1:
            raise given.wrong_value("rope_theta", theta, "above 1: YaRN divides by its logarithm")
        dims = self._dims(given, config, known[f"{ATTENTION}head_dim"], partial=kind == "proportional")
        if kind == "dynamic" and dims == 2:
            raise given.wrong(
                "rope_type", "another than dynamic where one pair of dimensions turns: its rule divides by 0"
            )
        if kind == "default":
            return {self.path: ir.Rope(theta, dims, self.interleaved)}
        original = _original(given, config, self.original, known["context"])
        scaling = _scaling(self.kinds[kind], given, original, known["context"], dims // 2)
        return {self.path: ir.Rope(theta, dims, self.interleaved, scaling)}

    def _dims(self, given: Config, config: Config, head: int, *, partial: bool) -> int:
        """How many dimensions of each head turn."""
        where, key = _stated_once(given, "partial_rotary_factor", config, self.partial_key)
        if not self.says_partial and not partial:
            if where.number(key, 1.0) != 1:
                raise where.wrong(key, "1: the classes of this family turn whole heads, whatever it says")
            fraction = 1.0
        else:
            fraction = where.number(key, self.partial)
        if not 0 < fraction <= 1:
            raise where.wrong(key, "above 0 and at most 1")
        dims = int(head * fraction)
        if dims < 2 or dims % 2:
            raise where.wrong(key, f"such that an even number of the {head} head dimensions turn")
        return dims

    def write(self, table: Facts) -> dict[str, Any]:
        """A rotation to keys."""
        turning = next((i for i, tag in enumerate(by_layer(table, self.path)) if tag is not None), None)
        if turning is None:
            whole = {self.partial_key: 1.0} if self.says_partial else {}
            return {self.theta_key: self.theta, "rope_scaling": None, **whole}
        layer = at_layer(table, turning)
        rope: ir.Rope = build(ir.Rope, self.path, layer)
        head = layer[f"{ATTENTION}head_dim"]
        fraction = _fraction(rope.dims, head)
        stated = _stated(rope.scaling, (rope.dims if self.says_partial else head) // 2)
        if isinstance(rope.scaling, ir.Proportional) or self.says_partial:
            stated["partial_rotary_factor"] = fraction
        kind = stated.pop("rope_type", "default")
        out: dict[str, Any] = {self.theta_key: rope.theta}
        out["rope_parameters"] = {"rope_type": kind, "rope_theta": rope.theta, **stated}
        # transformers 4.41 accepts `type` and `factor` and nothing else for the two kinds that it knows.
        named = {"type": kind} if kind in {"linear", "dynamic"} and not self.says_partial else {"rope_type": kind}
        out["rope_scaling"] = None if kind == "default" else {**named, **stated}
        if self.says_partial:
            out[self.partial_key] = fraction
        if isinstance(rope.scaling, ir.LongRope):
            # transformers 4 looks for it here, and otherwise takes the whole context for it.
            out["original_max_position_embeddings"] = rope.scaling.original_max_position_embeddings
        return out


@dataclass(frozen=True)
class FixedRotary:
    """RoPE over whole heads with a theta that is fixed in the family's code, which reads no RoPE key of a config."""

    theta: float = 10_000.0
    path: str = field(default=f"{ATTENTION}rope")

    def read(self, config: Config, known: Facts) -> Facts:
        """Return the rotation. Raises CheckpointError for a config with another one, which the code would ignore."""
        why = f"this family's own code always uses RoPE with theta {self.theta:g} and without scaling"
        for section in ("rope_scaling", "rope_parameters"):
            given = config.section(section)
            if (given.get("rope_type") or given.get("type") or "default") != "default":
                raise config.wrong(section, f"null: {why}")
            if given.get("rope_theta") not in (None, self.theta):
                raise given.wrong("rope_theta", f"{self.theta:g}: {why}")
        if config.get("rope_theta") not in (None, self.theta):
            raise config.wrong("rope_theta", f"{self.theta:g}: {why}")
        return {self.path: ir.Rope(self.theta, known[f"{ATTENTION}head_dim"])}

    def write(self, table: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Return no keys: the family's code reads none."""
        return {}


def _one_for_all(given: Config) -> None:
    """Refuse a rotation for each type of layer, as some classes of transformers 5 have it."""
    kinds = [key for key, value in given.keys.items() if isinstance(value, dict) and ROPE_KEYS & value.keys()]
    if kinds:
        shown = ", ".join(kinds)
        raise CheckpointError(f"{given.where}: states a rotation for each of {shown}; kept reads one for all layers")


def _theta(given: Config, config: Config, outside: str, default: float) -> float:
    where, key = _stated_once(given, "rope_theta", config, outside)
    theta = where.number(key, default)
    if theta < 1:
        raise where.wrong(key, "at least 1")
    return theta


def _stated_once(given: Config, inside: str, config: Config, outside: str) -> tuple[Config, str]:
    """Return the config and key that hold a value: the RoPE section (transformers 5) or the top level (transformers 4).

    Raises CheckpointError if both hold it with different values.
    """
    inner, outer = given.get(inside), config.get(outside)
    if inner is None:
        return config, outside
    if outer is not None and outer != inner:
        wanted = f"{outer}, as the top-level {outside}: transformers 4 and 5 disagree on which one they use"
        raise given.wrong(inside, wanted)
    return given, inside


def _within(given: Config, key: str) -> float:
    """A number that no rule of scaling turns into infinity or NaN."""
    value = given.number(key)
    if not SMALLEST <= value <= LARGEST:
        raise given.wrong(key, f"a number from {SMALLEST:g} to {LARGEST:g}")
    return value


def _fraction(dims: int, head: int) -> float:
    """The part of a head that turns, such that `int(head * fraction)`, which readers compute, is `dims` again."""
    fraction = dims / head
    return fraction if int(head * fraction) == dims else math.nextafter(fraction, 1)


def _scaling(kind: type[Any], given: Config, original: int, context: int, pairs: int) -> ir.Scaling:
    values: dict[str, Any] = {}
    for spec_field in fields(kind):
        name = spec_field.name
        if name == "original_max_position_embeddings":
            # The stock classes scale `dynamic` from the configured context, whatever else is stated.
            values[name] = context if kind is ir.Dynamic else original
        elif name in {"short_factor", "long_factor"}:
            values[name] = _divisors(given, name, pairs)
        elif name == "truncate":
            values[name] = given.flag(name, default=True)
        elif given.get(name) is not None and not (name in ZERO_IS_UNSAID and given.number(name) == 0):
            values[name] = _within(given, name)
        elif name == "factor" and kind in {ir.Yarn, ir.LongRope}:
            values[name] = context / original
        elif spec_field.default is MISSING:
            values[name] = _within(given, name)  # raises: it is absent
    _check_together(kind, values, given)
    made: ir.Scaling = kind(**values)
    # Old stock classes derive another factor on cos and sin: said outright, it means the same to all.
    return replace(made, attention_factor=made.temperature) if isinstance(made, ir.LongRope) else made


def _check_together(kind: type[Any], values: dict[str, Any], given: Config) -> None:
    """Refuse numbers that are fine alone and make a rule divide by zero together."""
    if kind is ir.Llama3 and values["high_freq_factor"] <= values["low_freq_factor"]:
        raise given.wrong("high_freq_factor", f"above low_freq_factor, {values['low_freq_factor']:g}")
    if kind is ir.LongRope and values["original_max_position_embeddings"] < 2:
        raise given.wrong_value("original_max_position_embeddings", 1, "at least 2: LongRoPE divides by its logarithm")


def _original(given: Config, config: Config, default: int | None, context: int) -> int:
    """The stock classes prefer the length that stands outside the rotation's own section, and even its default."""
    name = "original_max_position_embeddings"
    if default is not None or config.get(name) is not None:
        return config.size(name, default)
    return given.size(name, context)


def _divisors(given: Config, key: str, pairs: int) -> tuple[float, ...]:
    values = given.get(key)
    if (
        not isinstance(values, list)
        or len(values) != pairs
        or not all(type(v) in {int, float} and SMALLEST <= v <= LARGEST for v in values)
    ):
        numbers = f"{pairs} numbers from {SMALLEST:g} to {LARGEST:g}"
        raise given.wrong(key, f"a list of {numbers}, one a pair of dimensions that turn")
    return tuple(float(v) for v in values)


def _stated(scaling: ir.Scaling | None, pairs: int) -> dict[str, Any]:
    """The scaling's keys. A list of divisors is filled up where the family turns more pairs than the rotation does."""
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
