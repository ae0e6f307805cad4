"""Estimates over items with standard errors; two models on the same items are compared as paired samples.

An estimate is a ratio r = sum v / sum w over n items, or a smooth function of ratios. The first-order influence of item
i is `(v_i - r w_i) / sum w`, times the derivative of the function; the variance is `n / (n - 1) * sum influence^2` (the
infinitesimal jackknife). For a mean this is the usual standard error. The influences of a paired difference are the
differences of the influences.
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
    """A number, and the first-order influence of each item on it."""

    value: float
    influences: tuple[float, ...]

    @property
    def figure(self) -> Figure:
        """The number with its standard error, which is NaN for fewer than two items."""
        return Figure(self.value, _error(self.influences))


def ratio(values: Sequence[float], weights: Sequence[float]) -> Estimate:
    """Return `sum v / sum w`; NaN if the weights sum to 0."""
    total = math.fsum(weights)
    if not total:
        return Estimate(math.nan, (math.nan,) * len(values))
    found = math.fsum(values) / total
    return Estimate(found, tuple((v - found * w) / total for v, w in zip(values, weights, strict=True)))


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean of one value per item."""
    return ratio(values, [1.0] * len(values))


def exponential(estimate: Estimate) -> Estimate:
    """Return the exponential of an estimate: a perplexity from nats per token. Inf if it overflows a float."""
    try:
        found = math.exp(estimate.value)
    except OverflowError:
        found = math.inf
    return Estimate(found, tuple(found * influence for influence in estimate.influences))


def average(estimates: Sequence[Estimate], weights: Sequence[float] | None = None) -> Estimate:
    """Return the mean, optionally weighted, of estimates over different items, such as the tasks of a suite."""
    weights = [1.0] * len(estimates) if weights is None else weights
    shares = [weight / math.fsum(weights) for weight in weights]
    value = math.fsum(share * e.value for share, e in zip(shares, estimates, strict=True))
    return Estimate(
        value, tuple(share * pull for share, e in zip(shares, estimates, strict=True) for pull in e.influences)
    )


def mean_of_same_items(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of estimates over the same items, such as the classes of one task."""
    count = len(estimates)
    value = math.fsum(e.value for e in estimates) / count
    return Estimate(
        value, tuple(math.fsum(each) / count for each in zip(*(e.influences for e in estimates), strict=True))
    )


def macro_f1(pairs: Sequence[tuple[int, int]]) -> Estimate:
    """Return macro F1, the mean over classes of `2 tp / (2 tp + fp + fn)`, from (correct, chosen) classes per item."""
    classes = sorted({label for pair in pairs for label in pair})
    return mean_of_same_items([_f1(pairs, label) for label in classes])


def paired_difference(first: Estimate, other: Estimate) -> Estimate:
    """Return `other - first` over the same items."""
    influences = tuple(b - a for a, b in zip(first.influences, other.influences, strict=True))
    return Estimate(other.value - first.value, influences)


def difference(first: Estimate, other: Estimate) -> Figure:
    """Return `other - first`: paired if both have as many items, else of independent samples."""
    if len(first.influences) == len(other.influences):
        return paired_difference(first, other).figure
    return Figure(other.value - first.value, math.hypot(_error(first.influences), _error(other.influences)))


def _f1(pairs: Sequence[tuple[int, int]], label: int) -> Estimate:
    hits = [2.0 * (gold == chosen == label) for gold, chosen in pairs]
    return ratio(hits, [float((gold == label) + (chosen == label)) for gold, chosen in pairs])


def _error(influences: Sequence[float]) -> float:
    count = len(influences)
    return math.sqrt(count / (count - 1) * math.fsum(one * one for one in influences)) if count > 1 else math.nan
