"""Learning and forgetting of models relative to the first one, from which they were trained.

Learned: the decrease of the loss on a new domain. Forgotten: the increase of the loss on an old domain. Both are in
nats per token, or in nats per byte if a model's tokenizer gives other tokens than the first one's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kept.evaluation.estimate import Estimate, Figure, average, paired_difference
from kept.evaluation.perplexity import nats_per_byte, nats_per_token, same_tokenization, text_estimates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kept.evaluation.settings import EvalSettings

    Result = dict[str, Any]
    Texts = Mapping[str, Sequence[Result]]

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
    """The changes of all models after the first, in a unit that is comparable for all of them."""

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
    """Return the changes of each model after the first; None if no domain is old or new.

    `names` are the models' names. `texts` has by domain the result of `measure_text` for each model.
    """
    asked = [texts[domain] for domain in (*settings.old, *settings.new)]
    if not asked:
        return None
    unit: Unit = "token" if all(same_tokenization(found[0], one) for found in asked for one in found) else "byte"
    methods = []
    for n, name in enumerate(names[1:], 1):
        pairs = {domain: (found[0], found[n]) for domain, found in texts.items()}
        learned = _side(-1, {domain: pairs[domain] for domain in settings.new})
        forgot = _side(1, {domain: pairs[domain] for domain in settings.old})
        methods.append(MethodForgetting(name, learned, forgot, _verdict(unit, learned, forgot)))
    return Forgetting(unit, tuple(methods))


def _side(sign: int, pairs: Mapping[str, tuple[Result, Result]]) -> DomainsChange | None:
    """Return the changes of some domains; `sign` is 1 to count increases of the loss, -1 to count decreases."""
    if not pairs:
        return None
    rises = [_rise(*(pair if sign > 0 else pair[::-1])) for pair in pairs.values()]
    changes = [
        DomainChange(domain, _nats([rise]), _perplexities(*pairs[domain]))
        for domain, rise in zip(pairs, rises, strict=True)
    ]
    return DomainsChange(tuple(changes), _nats(rises))


def _rise(first: Result, other: Result) -> tuple[Estimate | None, Estimate]:
    """Return the increase of the loss in nats per token and per byte, paired over passages."""
    a_token = (
        paired_difference(nats_per_token(first), nats_per_token(other)) if same_tokenization(first, other) else None
    )
    return a_token, paired_difference(nats_per_byte(first), nats_per_byte(other))


def _nats(rises: Sequence[tuple[Estimate | None, Estimate]]) -> NatsChange:
    """Return the mean over domains."""
    tokens = [token for token, _ in rises if token is not None]
    per_token = average(tokens).figure if len(tokens) == len(rises) else None
    return NatsChange(per_token, average([byte for _, byte in rises]).figure)


def _perplexities(first: Result, other: Result) -> tuple[float, float]:
    return text_estimates(first)["perplexity"].value, text_estimates(other)["perplexity"].value


def _verdict(unit: Unit, learned: DomainsChange | None, forgot: DomainsChange | None) -> str:
    """Return the changes larger than two standard errors in words; empty if there are none."""
    phrases = []
    for side, more, less in ((learned, "learned", "worse at"), (forgot, "forgot", "better at")):
        significant = [] if side is None else [c for c in side.domains if c.nats.per(unit).significant]
        for word, sign in ((more, 1), (less, -1)):
            domains = [c.domain for c in significant if sign * c.nats.per(unit).value > 0]
            phrases += [f"{word} {', '.join(domains)}"] * bool(domains)
    return "; ".join(phrases)
