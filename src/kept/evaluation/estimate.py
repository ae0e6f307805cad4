"""Estimates over items with standard errors; two models on the same items are compared as paired samples.

An estimate is a ratio r = sum v / sum w over n items, or a smooth function of ratios. The first-order influence of item
i is `(v_i - r w_i) / sum w`, times the derivative of the function; the variance is `n / (n - 1) * sum influence^2` (the
infinitesimal jackknife). For a mean this is the usual standard error. The influences of a paired difference are the
differences of the influences. Intervals cover 95 %: Wilson's for proportions, and for their paired differences
Newcombe's, which is made from both (`interval`); for other figures 1.96 standard errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_model import Number  # noqa: TC001 - pydantic evaluates the annotation
from kept.evaluation.interval import paired_interval, wilson

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Figure:
    """A number and its standard error, which is NaN where one item cannot tell it.

    `low` and `high` are a 95 % interval that is right for few items; NaN for 1.96 standard errors.
    """

    value: Number
    error: Number
    low: Number = math.nan
    high: Number = math.nan

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero; False if it is not known."""
        if math.isnan(self.low):
            return abs(self.value) > 2 * self.error
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Estimate:
    """A number, and the first-order influence of each item on it. `proportion`: it is the share of items that pass."""

    value: float
    influences: tuple[float, ...]
    proportion: bool = False

    @property
    def figure(self) -> Figure:
        """The number with its standard error and interval; the error is NaN for fewer than two items."""
        count = len(self.influences)
        bounds = wilson(self.value * count, count) if self.proportion and count else (math.nan, math.nan)
        return Figure(self.value, _error(self.influences), *bounds)

    @property
    def passed(self) -> list[bool]:
        """Whether each item of a proportion passes."""
        return [influence * len(self.influences) + self.value > 0.5 for influence in self.influences]

    def stored(self) -> dict[str, Any]:
        """Return the estimate as JSON data."""
        return {"value": self.value, "influences": [*self.influences], "proportion": self.proportion}

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Estimate:
        """Return the estimate that `stored` wrote."""
        return cls(float(stored["value"]), tuple(map(float, stored["influences"])), bool(stored["proportion"]))


def ratio(values: Sequence[float], weights: Sequence[float]) -> Estimate:
    """Return `sum v / sum w`; NaN if the weights sum to 0."""
    total = math.fsum(weights)
    if not total:
        return Estimate(math.nan, (math.nan,) * len(values))
    found = math.fsum(values) / total
    return Estimate(found, tuple((v - found * w) / total for v, w in zip(values, weights, strict=True)))


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean of one value per item; a proportion if all values are 0 or 1."""
    return replace(ratio(values, [1.0] * len(values)), proportion=all(value in {0.0, 1.0} for value in values))


def jackknife(values: Sequence[Any], aggregate: Callable[[Any], float], most: int) -> Estimate:
    """Return any aggregate of one value per item; the influences come from leaving out each item in turn.

    For more than `most` items they are NaN.
    """
    whole, count = float(aggregate([*values])), len(values)
    if not 1 < count <= most:
        return Estimate(whole, (math.nan,) * count)
    without = (float(aggregate([*values[:n], *values[n + 1 :]])) for n in range(count))
    return Estimate(whole, tuple((whole - one) * (count - 1) / count for one in without))


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


def paired_difference(first: Estimate, other: Estimate) -> Estimate:
    """Return `other - first` over the same items."""
    influences = tuple(b - a for a, b in zip(first.influences, other.influences, strict=True))
    return Estimate(other.value - first.value, influences)


def difference(first: Estimate, other: Estimate) -> Figure:
    """Return `other - first`: paired if both have as many items, else of independent samples."""
    if len(first.influences) != len(other.influences):
        return Figure(other.value - first.value, math.hypot(_error(first.influences), _error(other.influences)))
    apart = paired_difference(first, other).figure
    if first.proportion and other.proportion and first.influences:
        low, high = paired_interval(first.passed, other.passed)
        return Figure(apart.value, apart.error, low, high)
    return apart


def _error(influences: Sequence[float]) -> float:
    count = len(influences)
    return math.sqrt(count / (count - 1) * math.fsum(one * one for one in influences)) if count > 1 else math.nan
