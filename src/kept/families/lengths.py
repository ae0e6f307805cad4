"""Sequence lengths, and attention scores, beyond which the model classes of two families differ.

Two classes that agree in one forward pass may still differ in generation, where a KV cache and RoPE state persist
across passes. `domain` states the length up to which a conversion between two families is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from kept.ir.spec import Dynamic, LongRope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.spec import Scaling, Spec


Kind = Literal["history", "crossing", "generation", "pass"]

WHERE: dict[Kind, str] = {
    "history": "for every sequence up to and including the first one longer than {length} tokens: after it ",
    "crossing": "for any single forward pass, and for generation that does not cross {length} tokens: on crossing ",
    "generation": "for the first forward pass, and for generation of up to {length} tokens: beyond them ",
    "pass": "for sequences of up to {length} tokens: beyond them ",
}
"""The inputs on which two classes agree, by the kind of their rule, least restrictive first."""


@dataclass(frozen=True)
class LengthRule:
    """The behaviour of a family's class beyond `length` tokens; `does` is a predicate whose subject is the class.

    `kind` is what the rule affects: "history", sequences after the first longer one; "crossing", generation whose KV
    cache grows across the length; "generation", any use of a KV cache beyond it; "pass", every forward pass beyond it.
    """

    length: int
    does: str
    kind: Kind


class HasLengthRule(Protocol):
    """The part of `Family` that `domain` needs."""

    @property
    def architecture(self) -> str:
        """The name of the family's model class."""
        ...

    @property
    def score_limit(self) -> float | None:
        """The largest magnitude of an attention score before the softmax; None if scores are not clipped."""
        ...

    def length_rule(self, spec: Spec) -> LengthRule | None:
        """Return the length rule of the class for this spec; None if its behaviour depends on no length."""
        ...


KEPT = "keeps the original rotation of cached keys"
RECOMPUTED = "recomputes its KV cache"


def stock_rule(spec: Spec) -> LengthRule | None:
    """Return the rule of the transformers classes.

    Cached keys keep their rotation. Dynamic NTK scaling restores the configured theta at the next sequence that is
    shorter than the original length.
    """
    return switched(spec, KEPT) or grown(spec, "restores the configured theta at the next sequence below that length")


def published_rule(spec: Spec) -> LengthRule | None:
    """Return the rule of the 2023 Llama code, which many families reuse: its RoPE table grows and never shrinks."""
    return switched(spec, KEPT) or grown(spec, "keeps the increased theta permanently")


def recomputing_rule(spec: Spec) -> LengthRule | None:
    """Return the rule of Phi-3: generation that crosses LongRoPE's original length recomputes the KV cache."""
    return switched(spec, RECOMPUTED) or stock_rule(spec)


def switched(spec: Spec, does: str, kind: Kind = "crossing", *, always: bool = False) -> LengthRule | None:
    """Return a rule at the length beyond which LongRoPE uses `long_factor`; None if it has no effect.

    A length at or beyond the context has no effect, unless `always`.
    """
    for scaling in _scalings(spec):
        if isinstance(scaling, LongRope) and scaling.short_factor != scaling.long_factor:
            length = scaling.original_max_position_embeddings
            return LengthRule(length, does, kind) if always or length < spec.context else None
    return None


def grown(spec: Spec, does: str, kind: Kind = "history") -> LengthRule | None:
    """Return a rule at the length beyond which dynamic NTK scaling increases theta; None without that scaling."""
    lengths = (s.original_max_position_embeddings for s in _scalings(spec) if isinstance(s, Dynamic))
    return next((LengthRule(length, does, kind) for length in lengths), None)


def _scalings(spec: Spec) -> Iterator[Scaling | None]:
    return (rope.scaling for rope in spec.ropes())


def domain(source: HasLengthRule, before: Spec, target: HasLengthRule, after: Spec) -> tuple[str, ...]:
    """Return where a conversion is exact, as phrases that complete "the promise holds"; empty for everywhere."""
    return (*_lengths(source, before, target, after), *_scores(source, target))


def _lengths(source: HasLengthRule, before: Spec, target: HasLengthRule, after: Spec) -> tuple[str, ...]:
    old, new = source.length_rule(before), target.length_rule(after)
    rules = [rule for rule in (old, new) if rule is not None]
    if old == new or all(rule.length >= after.context < before.context for rule in rules):
        return ()
    widest = max(rules, key=lambda rule: [*WHERE].index(rule.kind))
    where = WHERE[widest.kind].format(length=f"{widest.length:,}")
    return (f"{where}{source.architecture} {_predicate(old)}, {target.architecture} {_predicate(new)}",)


def _scores(source: HasLengthRule, target: HasLengthRule) -> tuple[str, ...]:
    limits = [family.score_limit for family in (source, target) if family.score_limit is not None]
    if source.score_limit == target.score_limit:
        return ()
    clips = " and ".join(f"{family.architecture} {_clips(family)}" for family in (source, target))
    return (f"for attention scores up to ±{min(limits):,.0f}: beyond them {clips}",)


def _clips(family: HasLengthRule) -> str:
    return "does not clip" if family.score_limit is None else f"clips at ±{family.score_limit:,.0f}"


def _predicate(rule: LengthRule | None) -> str:
    return "does not" if rule is None else rule.does
