"""Format numbers and units for people."""

from __future__ import annotations

import math
import statistics
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def amount(count: float, unit: str) -> str:
    """A count with its unit; bytes in decimal multiples."""
    if unit != "bytes":
        return f"{count:.0f} {singular(count, unit)}"
    for name in ("B", "KB", "MB", "GB"):
        if count < 1000 or name == "GB":
            return f"{count:.3g} {name}" if count < 1000 else f"{count:.0f} {name}"
        count /= 1000
    raise AssertionError


def singular(count: float, words: str) -> str:
    """Words in the plural, or without their last s where there is one: 1 document."""
    return words.removesuffix("s") if f"{count:.0f}" == "1" else words


def parameters(count: int) -> str:
    """A number of parameters: 8.92 M."""
    for size, name in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return str(count)


def kv_cache(sizes: Mapping[int, int]) -> str:
    """The bytes of a KV cache by tokens: 23.6 MB at 1,024 tokens, 189 MB at 8,192."""
    first, *rest = (f"{amount(size, 'bytes')} at {tokens:,}" for tokens, size in sorted(sizes.items()))
    return ", ".join((f"{first} tokens", *rest))


def finite_median(values: Iterable[float]) -> float:
    """Return the median of the values that are not NaN or Inf; NaN if there are none."""
    found = [value for value in values if math.isfinite(value)]
    return statistics.median(found) if found else math.nan


def uncertain(value: float, error: float, *, signed: bool = False) -> str:
    """A number with its standard error, to the digits that the error leaves. A difference of nothing is 0."""
    if signed and value == error == 0:
        return "0"
    sign = "+" if signed else ""
    if not 0 < error < math.inf:
        return f"{value:{sign}.4g}" + (" ± 0" if error == 0 else "")
    digits = max(0, min(6, 1 - math.floor(math.log10(error))))
    return f"{value:{sign}.{digits}f} ± {error:.{digits}f}"


def within(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """A number with its interval, to the digits that the interval leaves."""
    sign = "+" if signed else ""
    digits = max(0, min(6, 1 - math.floor(math.log10(max(high - low, 1e-6)))))
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def percent(value: float, error: float) -> str:
    """A share in percent; its error is - where all items are alike or there is one, which tells none."""
    known = 0 < error < math.inf
    return f"{uncertain(100 * value, 100 * error)} %" if known else f"{100 * value:.4g} ± - %"


def duration(seconds: float) -> str:
    """A time to wait: 42 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def shared_prefix(a: str, b: str) -> int:
    """Return the number of characters before two texts differ."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
