"""Rotary positions in a config: the item that reads and writes the keys of both forms, and checks every number."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from kept.families.table import L
from kept.ir import spec as ir
from kept.ir.facts import at_layer, build

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

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


@dataclass(frozen=True)
class Rotary:
    """Rotary positions, in the 4.x form (`rope_theta`, `rope_scaling`) and the 5.x form (`rope_parameters`) at once.

    `partial` is the fraction of each head that turns where the config does not say; `says_partial` whether the
    family's classes read that fraction at all. `theta_key` and `partial_key` are the family's own names outside the
    section. Comes after head size and context in a table.
    """

    theta: float = 10_000.0
    partial: float = 1.0
    says_partial: bool = False
    interleaved: bool = False
    theta_key: str = "rope_theta"
    partial_key: str = "partial_rotary_factor"
    path: str = field(default=f"{L}mixer.rope")

    def read(self, config: Config, known: Facts) -> Facts:
        """Keys to a rotation."""
        given = config.section("rope_parameters" if config.get("rope_scaling") in (None, {}) else "rope_scaling")
        theta = given.positive("rope_theta", config.positive(self.theta_key, self.theta))
        kind = given.get("rope_type") or given.get("type") or "default"
        if not isinstance(kind, str) or kind not in {"default", *SCALINGS}:
            raise given.wrong("rope_type", "one of default, " + ", ".join(SCALINGS))
        head = known[f"{L}mixer.head_dim"]
        fraction = 1.0
        if self.says_partial or kind == "proportional":
            fraction = given.number("partial_rotary_factor", config.number(self.partial_key, self.partial))
        if not 0 < fraction <= 1:
            raise config.wrong(self.partial_key, "above 0 and at most 1")
        dims = int(head * fraction)
        if dims < 2 or dims % 2:
            raise config.wrong(self.partial_key, f"such that an even number of the {head} head dimensions turn")
        scaling = None if kind == "default" else _scaling(SCALINGS[kind], given, config, known["context"], dims // 2)
        return {self.path: ir.Rope(theta, dims, self.interleaved, scaling)}

    def write(self, table: Facts) -> dict[str, Any]:
        """A rotation to keys."""
        layer = at_layer(table, 0)
        if layer.get(self.path) is None:
            return {self.theta_key: self.theta, "rope_scaling": None}
        rope: ir.Rope = build(ir.Rope, self.path, layer)
        head = layer[f"{L}mixer.head_dim"]
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


def _fraction(dims: int, head: int) -> float:
    """The part of a head that turns, such that `int(head * fraction)`, which readers compute, is `dims` again."""
    fraction = dims / head
    return fraction if int(head * fraction) == dims else math.nextafter(fraction, 1)


def _scaling(kind: type[Any], given: Config, config: Config, context: int, pairs: int) -> ir.Scaling:
    values: dict[str, Any] = {}
    for spec_field in fields(kind):
        name = spec_field.name
        if name == "original_max_position_embeddings":
            # The stock classes scale `dynamic` from the configured context, whatever else is stated.
            values[name] = context if kind is ir.Dynamic else _original(given, config, context)
        elif name in {"short_factor", "long_factor"}:
            values[name] = _divisors(given, name, pairs)
        elif name == "truncate":
            values[name] = given.flag(name, default=True)
        elif given.get(name) is not None:
            values[name] = given.number(name) if name.startswith("mscale") else given.positive(name)
        elif name == "factor" and kind in {ir.Yarn, ir.LongRope}:
            values[name] = context / values.get("original_max_position_embeddings", _original(given, config, context))
        elif spec_field.default is MISSING:
            values[name] = given.number(name)  # raises: it is absent
    if kind is ir.LongRope and values.get("attention_factor") is None:
        # Old stock classes derive another one: said outright, it means the same to all.
        factor, original = values["factor"], values["original_max_position_embeddings"]
        stretched = factor > 1 and original > 1
        values["attention_factor"] = math.sqrt(1 + math.log(factor) / math.log(original)) if stretched else 1.0
    made: ir.Scaling = kind(**values)
    return made


def _original(given: Config, config: Config, context: int) -> int:
    """The stock classes prefer the length that stands outside the rotation's own section."""
    name = "original_max_position_embeddings"
    return (given if config.get(name) is None else config).size(name, context)


def _divisors(given: Config, key: str, pairs: int) -> tuple[float, ...]:
    values = given.get(key)
    if (
        not isinstance(values, list)
        or len(values) != pairs
        or not all(isinstance(v, int | float) and v > 0 for v in values)
    ):
        raise given.wrong(key, f"a list of {pairs} positive numbers, one a pair of dimensions that turn")
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
