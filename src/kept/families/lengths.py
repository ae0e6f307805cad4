"""What a family's classes do past some length that one forward pass does not show, and past some attention score.

Two families compute the same in one pass and may still differ in a generation, where keys stay in a cache. A promise
between them names the length (`domain`).
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
    "history": "until a sequence passes {length} tokens, and for that one: after it ",
    "crossing": "for any forward pass, and for a generation that does not cross {length} tokens: there ",
    "generation": "for the first forward pass, and for a generation within {length} tokens: past them ",
    "pass": "for sequences of up to {length} tokens: past them ",
}
"""Where two families still agree, from the widest on."""


@dataclass(frozen=True)
class LengthRule:
    """What the classes do past `length` tokens; `does` is a predicate whose subject is the class.

    `kind` is what it concerns: what follows a sequence past the length, a cache that is carried over it, any cache past
    it, or every pass.
    """

    length: int
    does: str
    kind: Kind


class HasLengthRule(Protocol):
    """A family, as far as its lengths go."""

    @property
    def architecture(self) -> str:
        """The name of its class."""
        ...

    @property
    def score_limit(self) -> float | None:
        """The largest magnitude of an attention score before the softmax; None if scores are not clipped."""
        ...

    def length_rule(self, spec: Spec) -> LengthRule | None:
        """What its classes do past some length; None where no length changes anything."""
        ...


KEPT = "keeps cached keys as they were rotated"
RECOMPUTED = "recomputes its key-value cache"


def stock_rule(spec: Spec) -> LengthRule | None:
    """The stock classes': cached keys stay as they were rotated, whatever later tokens are rotated by."""
    return switched(spec, KEPT) or grown(spec, "keeps the larger theta until a sequence is shorter")


def published_rule(spec: Spec) -> LengthRule | None:
    """Llama's code of 2023, which many families took over: the table of angles is never made smaller again."""
    return switched(spec, KEPT) or grown(spec, "keeps the larger theta for good")


def recomputing_rule(spec: Spec) -> LengthRule | None:
    """Phi-3's: the cache is recomputed when a generation passes the length at which LongRoPE changes its divisors."""
    return switched(spec, RECOMPUTED) or stock_rule(spec)


def switched(spec: Spec, does: str, kind: Kind = "crossing", *, always: bool = False) -> LengthRule | None:
    """The length past which LongRoPE has other divisors, where the context passes it or `always`."""
    for scaling in _scalings(spec):
        if isinstance(scaling, LongRope) and scaling.short_factor != scaling.long_factor:
            length = scaling.original_max_position_embeddings
            return LengthRule(length, does, kind) if always or length < spec.context else None
    return None


def grown(spec: Spec, does: str, kind: Kind = "history") -> LengthRule | None:
    """The length past which dynamic NTK scaling changes theta."""
    lengths = (s.original_max_position_embeddings for s in _scalings(spec) if isinstance(s, Dynamic))
    return next((LengthRule(length, does, kind) for length in lengths), None)


def _scalings(spec: Spec) -> Iterator[Scaling | None]:
    return (layer.mixer.rope.scaling for layer in spec.layers if layer.mixer.rope is not None)


def domain(source: HasLengthRule, before: Spec, target: HasLengthRule, after: Spec) -> tuple[str, ...]:
    """Where a promise between two models holds, in phrases that complete "the promise holds"; empty for everywhere."""
    return (*_lengths(source, before, target, after), *_scores(source, target))


def _lengths(source: HasLengthRule, before: Spec, target: HasLengthRule, after: Spec) -> tuple[str, ...]:
    old, new = source.length_rule(before), target.length_rule(after)
    rules = [rule for rule in (old, new) if rule is not None]
    if old == new or all(rule.length >= after.context < before.context for rule in rules):
        return ()
    widest = max(rules, key=lambda rule: [*WHERE].index(rule.kind))
    where = WHERE[widest.kind].format(length=f"{widest.length:,}")
    return (f"{where}{source.architecture} {_said(old)}, {target.architecture} {_said(new)}",)


def _scores(source: HasLengthRule, target: HasLengthRule) -> tuple[str, ...]:
    limits = [family.score_limit for family in (source, target) if family.score_limit is not None]
    if source.score_limit == target.score_limit:
        return ()
    clips = " and ".join(f"{family.architecture} {_clips(family)}" for family in (source, target))
    return (f"where no attention score passes ±{min(limits):,.0f}: beyond, {clips}",)


def _clips(family: HasLengthRule) -> str:
    return "does not clip it" if family.score_limit is None else f"clips it at ±{family.score_limit:,.0f}"


def _said(rule: LengthRule | None) -> str:
    return "does not" if rule is None else rule.does
