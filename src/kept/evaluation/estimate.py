"""A figure over items, with the error that the choice of items gives it; two models on the same items are paired.

A figure is a ratio r = sum v / sum w over n items, or a smooth function of ratios. To first order, item i pulls it by
`(v_i - r w_i) / sum w`, times the function's slope; its variance is `n / (n - 1) * sum pull^2` (the infinitesimal
jackknife). For a plain mean that is the textbook's standard error. What two models differ by on the same items has the
differences of their pulls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.checkpoint.json_model import Number  # noqa: TC001 - pydantic evaluates the annotation

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Figure:
    """A number and its standard error, which is NaN where one item cannot tell it."""

    value: Number
    error: Number

    @property
    def significant(self) -> bool:
        """Whether it differs from zero by more than two standard errors; False if the error is not known."""
        return abs(self.value) > 2 * self.error


@dataclass(frozen=True)
class Estimate:
    """A number, and by how much each item pulls it from what it would be without."""

    value: float
    pulls: tuple[float, ...]

    @property
    def figure(self) -> Figure:
        """The number with its standard error."""
        return Figure(self.value, _error(self.pulls))


def ratio(values: Sequence[float], weights: Sequence[float]) -> Estimate:
    """`sum v / sum w`; NaN where there is nothing to divide by."""
    total = math.fsum(weights)
    if not total:
        return Estimate(math.nan, (math.nan,) * len(values))
    found = math.fsum(values) / total
    return Estimate(found, tuple((v - found * w) / total for v, w in zip(values, weights, strict=True)))


def mean(values: Sequence[float]) -> Estimate:
    """The mean of one value an item."""
    return ratio(values, [1.0] * len(values))


def exponential(estimate: Estimate) -> Estimate:
    """The exponential of a figure: a perplexity from nats per token. Infinity where it passes what a float holds."""
    try:
        found = math.exp(estimate.value)
    except OverflowError:
        found = math.inf
    return Estimate(found, tuple(found * pull for pull in estimate.pulls))


def average(estimates: Sequence[Estimate], weights: Sequence[float] | None = None) -> Estimate:
    """The mean of figures over different items, plain or weighted: of a suite's tasks."""
    weights = [1.0] * len(estimates) if weights is None else weights
    shares = [weight / math.fsum(weights) for weight in weights]
    value = math.fsum(share * e.value for share, e in zip(shares, estimates, strict=True))
    return Estimate(value, tuple(share * pull for share, e in zip(shares, estimates, strict=True) for pull in e.pulls))


def blend(estimates: Sequence[Estimate]) -> Estimate:
    """The plain mean of figures over the same items: of the classes of one task."""
    count = len(estimates)
    value = math.fsum(e.value for e in estimates) / count
    return Estimate(value, tuple(math.fsum(each) / count for each in zip(*(e.pulls for e in estimates), strict=True)))


def macro_f1(pairs: Sequence[tuple[int, int]]) -> Estimate:
    """The mean over classes of `2 tp / (2 tp + fp + fn)`, from each item's right and chosen class."""
    classes = sorted({label for pair in pairs for label in pair})
    return blend([_f1(pairs, label) for label in classes])


def paired(first: Estimate, other: Estimate) -> Estimate:
    """`other - first` over the same items."""
    pulls = tuple(b - a for a, b in zip(first.pulls, other.pulls, strict=True))
    return Estimate(other.value - first.value, pulls)


def difference(first: Estimate, other: Estimate) -> Figure:
    """`other - first`: paired where both have the same items, else as of independent ones."""
    if len(first.pulls) == len(other.pulls):
        return paired(first, other).figure
    return Figure(other.value - first.value, math.hypot(_error(first.pulls), _error(other.pulls)))


def _f1(pairs: Sequence[tuple[int, int]], label: int) -> Estimate:
    hits = [2.0 * (gold == chosen == label) for gold, chosen in pairs]
    return ratio(hits, [float((gold == label) + (chosen == label)) for gold, chosen in pairs])


def _error(pulls: Sequence[float]) -> float:
    count = len(pulls)
    return math.sqrt(count / (count - 1) * math.fsum(pull * pull for pull in pulls)) if count > 1 else math.nan
