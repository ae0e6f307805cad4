"""What models learned of new domains and forgot of old ones, each against the first, which they came from.

Learned is what a token of a new domain costs less, forgotten what a token of an old one costs more, in nats. Where a
model cuts texts into other tokens than the first, only bytes compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kept.evaluation.estimate import Estimate, Figure, average, paired
from kept.evaluation.perplexity import cut_alike, nats_a_byte, nats_a_token, text_estimates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kept.evaluation.settings import EvalSettings

    Found = dict[str, Any]
    Texts = Mapping[str, Sequence[Found]]

Unit = Literal["token", "byte"]


@dataclass(frozen=True)
class NatsChange:
    """A change in nats per token (None if the tokens of two models do not compare) and in nats per byte."""

    token: Figure | None
    byte: Figure

    def per(self, unit: Unit) -> Figure:
        """Return the figure per `unit`."""
        found = self.token if unit == "token" else self.byte
        assert found is not None, unit
        return found


@dataclass(frozen=True)
class DomainChange:
    """The change of one domain; `perplexity` is the one before and the one after."""

    domain: str
    nats: NatsChange
    perplexity: tuple[float, float]


@dataclass(frozen=True)
class DomainsChange:
    """The changes of all new or of all old domains, and their mean."""

    domains: tuple[DomainChange, ...]
    mean: NatsChange

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the domains."""
        return tuple(one.domain for one in self.domains)

    @property
    def changes(self) -> tuple[NatsChange, ...]:
        """The mean, and the change of each domain."""
        return (self.mean, *(one.nats for one in self.domains))


@dataclass(frozen=True)
class MethodForgetting:
    """One model against the first. None: no domain is new, or none is old. `verdict` names significant changes."""

    model: str
    learned: DomainsChange | None
    forgot: DomainsChange | None
    verdict: str


@dataclass(frozen=True)
class Forgetting:
    """All models after the first, and the unit that compares for all of them."""

    unit: Unit
    methods: tuple[MethodForgetting, ...]

    def check(self) -> None:
        """Raise ValueError if the models have different domains, or no figures in the unit."""
        sides = [(one.learned, one.forgot) for one in self.methods]
        if len({tuple(None if side is None else side.names for side in pair) for pair in sides}) != 1:
            raise ValueError("models have the same domains")
        changes = [change for pair in sides for side in pair if side is not None for change in side.changes]
        if self.unit == "token" and any(change.token is None for change in changes):
            raise ValueError("tokens do not compare")


def forgetting(settings: EvalSettings, names: Sequence[str], texts: Texts) -> Forgetting | None:
    """What each model learned and forgot; None where no domain is old or new.

    `names`: of the models. `texts`: what `measure_text` found by domain, for each model.
    """
    asked = [texts[domain] for domain in (*settings.old, *settings.new)]
    if not asked:
        return None
    unit: Unit = "token" if all(cut_alike(found[0], one) for found in asked for one in found) else "byte"
    methods = []
    for n, name in enumerate(names[1:], 1):
        pairs = {domain: (found[0], found[n]) for domain, found in texts.items()}
        learned = _side(-1, {domain: pairs[domain] for domain in settings.new})
        forgot = _side(1, {domain: pairs[domain] for domain in settings.old})
        methods.append(MethodForgetting(name, learned, forgot, _verdict(unit, learned, forgot)))
    return Forgetting(unit, tuple(methods))


def _side(sign: int, pairs: Mapping[str, tuple[Found, Found]]) -> DomainsChange | None:
    """`sign`: 1 where a higher cost counts, -1 where a lower one does."""
    if not pairs:
        return None
    rises = [_rise(*(pair if sign > 0 else pair[::-1])) for pair in pairs.values()]
    changes = [
        DomainChange(domain, _nats([rise]), _perplexities(*pairs[domain]))
        for domain, rise in zip(pairs, rises, strict=True)
    ]
    return DomainsChange(tuple(changes), _nats(rises))


def _rise(first: Found, other: Found) -> tuple[Estimate | None, Estimate]:
    """What a token and a byte cost more in the second, over the same passages."""
    a_token = paired(nats_a_token(first), nats_a_token(other)) if cut_alike(first, other) else None
    return a_token, paired(nats_a_byte(first), nats_a_byte(other))


def _nats(rises: Sequence[tuple[Estimate | None, Estimate]]) -> NatsChange:
    """The mean over domains."""
    tokens = [token for token, _ in rises if token is not None]
    a_token = average(tokens).figure if len(tokens) == len(rises) else None
    return NatsChange(a_token, average([byte for _, byte in rises]).figure)


def _perplexities(first: Found, other: Found) -> tuple[float, float]:
    return text_estimates(first)["perplexity"].value, text_estimates(other)["perplexity"].value


def _verdict(unit: Unit, learned: DomainsChange | None, forgot: DomainsChange | None) -> str:
    """What differs by more than twice its standard error, in words; empty where nothing does."""
    said = []
    for side, more, less in ((learned, "learned", "worse at"), (forgot, "forgot", "better at")):
        told = [] if side is None else [c for c in side.domains if c.nats.per(unit).significant]
        for word, sign in ((more, 1), (less, -1)):
            domains = [c.domain for c in told if sign * c.nats.per(unit).value > 0]
            said += [f"{word} {', '.join(domains)}"] * bool(domains)
    return "; ".join(said)
