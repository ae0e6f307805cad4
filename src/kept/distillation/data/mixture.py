"""Mix sources by weights, and hold documents out of each of them."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from kept.distillation.data.token_dataset import TokenDataset

FINEST = 1 << 16
"""Weights are counted in parts of this; what four decimals can say is exact."""

WEIGHT = re.compile(r"[+-]?\d{0,18}(\.\d{0,18})?(e[+-]?\d{1,2})?|\d{1,18}/\d{1,18}", re.ASCII | re.IGNORECASE)
"""Pattern of a weight; longer numbers would take a Fraction too long to parse."""

LONGEST_HELD = 1 << 15
"""Tokens of a document beyond which a fraction does not hold it out: it could be most of a source."""

MOST_HELD = 1 << 20
"""Maximum number of tokens of each source that a fraction holds out: more are lost to training."""

SHORTEST = 2
"""Ids of a document that teaches anything: the first of them predicts the second."""


def parse_weights(text: str) -> dict[str, Fraction]:
    """Weights as they are written: `english=0.7,python=0.3`. Raises InputError naming the part that is none."""
    weights: dict[str, Fraction] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if not name or name in weights:
            raise InputError(f"mixture: {part.strip()!r} names no new source; write it as english=0.7,python=0.3")
        if not value:
            raise InputError(f"mixture: {part.strip()!r} has no name or no weight; write it as english=0.7,python=0.3")
        weights[name] = _weight(name, value)
    return weights


def _weight(name: str, value: str) -> Fraction:
    try:
        weight = Fraction(value if WEIGHT.fullmatch(value) else "")
    except (ValueError, ZeroDivisionError):
        raise InputError(
            f"mixture: {value[:40]!r}, the weight of {name!r}, is not a number; write it as english=0.7"
        ) from None
    if weight <= 0:
        raise InputError(f"mixture: the weight of {name!r} is {value}; make it positive or leave the source out")
    return weight


class Mixture:
    """Named sources, their weights, and the documents of each that are trained on (`train`) and held out (`held`).

    `weights` need not add up to 1; without any, a source weighs what it has tokens. `hold_out` is a fraction of the
    documents, within a bound of tokens, or their number in each source. A document is held out for its digest: equal
    texts stay together, and as data grow nothing that was trained on is ever held out. At least one document of each
    source is, unless `hold_out` is 0.

    Raises InputError where weights and sources differ, and where no document is left to train on.
    """

    def __init__(
        self,
        sources: Mapping[str, TokenDataset],
        weights: Mapping[str, float | Fraction] | None = None,
        hold_out: float = 0.01,
    ) -> None:
        if hold_out < 0 or not (hold_out < 1 or float(hold_out).is_integer()):
            raise InputError(f"held out: is {hold_out}, it must be a fraction below 1 or a number of documents")
        self.names = tuple(sources)
        self.tokens = tuple(sources.values())
        usable = [_usable(name, tokens) for name, tokens in sources.items()]
        digests = [np.asarray(tokens.table["digest"]) for tokens in self.tokens]
        lengths = [tokens.lengths() for tokens in self.tokens]
        self.held = tuple(_held(d, n, u, hold_out) for d, n, u in zip(digests, lengths, usable, strict=True))
        withheld = np.concatenate([d[h] for d, h in zip(digests, self.held, strict=True)])
        self.train = tuple(u[~np.isin(d[u], withheld)] for d, u in zip(digests, usable, strict=True))
        for name, left in zip(self.names, self.train, strict=True):
            if not len(left):
                raise InputError(
                    f"{name}: every document is held out; give more documents that differ, or hold fewer out"
                )
        self.shares = _shares(self._weights(weights))

    @property
    def sources(self) -> dict[str, TokenDataset]:
        """The tokens of each source, by name."""
        return dict(zip(self.names, self.tokens, strict=True))

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Documents and tokens of each source, for training and held out."""
        return {
            name: {
                "documents": len(train),
                "tokens": int(tokens.lengths()[train].sum()),
                "held_out_documents": len(held),
                "held_out_tokens": int(tokens.lengths()[held].sum()),
                **_conversation_counts(tokens),
            }
            for name, tokens, train, held in zip(self.names, self.tokens, self.train, self.held, strict=True)
        }

    @property
    def weights(self) -> dict[str, float]:
        """The fraction of all rows that each source has; the fractions add up to 1."""
        return {name: share / sum(self.shares) for name, share in zip(self.names, self.shares, strict=True)}

    def _weights(self, weights: Mapping[str, float | Fraction] | None) -> list[Fraction]:
        if weights is None:
            return [Fraction(int(t.lengths()[d].sum())) for t, d in zip(self.tokens, self.train, strict=True)]
        if set(weights) != set(self.names):
            raise InputError(
                f"mixture: weighs {', '.join(weights)}, but data has {', '.join(self.names)}; name the same"
            )
        return [_weight(name, str(weights[name])) for name in self.names]


def _conversation_counts(tokens: TokenDataset) -> dict[str, int]:
    """Return, for conversations, the number of assistant tokens and of conversations skipped for having none."""
    if tokens.assistant_mask is None:
        return {}
    return {"answer_tokens": int(tokens.assistant_mask.sum(dtype=np.int64)), "without_answer": tokens.skipped}


def _usable(name: str, tokens: TokenDataset) -> NDArray[np.int64]:
    found = np.flatnonzero(tokens.lengths() >= SHORTEST)
    if not len(found):
        raise InputError(f"{name}: no document is {SHORTEST} tokens long; give longer ones")
    return found


def _held(
    digests: NDArray[np.uint64], lengths: NDArray[np.int64], usable: NDArray[np.int64], hold_out: float
) -> NDArray[np.int64]:
    """Documents with the smallest digests, in the order of them: any number of the first is a sample.

    A fraction never takes a document of more than `LONGEST_HELD` tokens, unless all are longer, nor more than
    `MOST_HELD` tokens beyond the first document.
    """
    if not hold_out:
        return usable[:0]
    short = usable[lengths[usable] <= LONGEST_HELD] if hold_out < 1 else usable
    chosen = short if len(short) else usable
    values = np.unique(digests[chosen])
    wanted = int(np.searchsorted(values, np.uint64(int(hold_out * 2**64)))) if hold_out < 1 else int(hold_out)
    last = values[max(1, min(wanted, len(values))) - 1]
    found: NDArray[np.int64] = chosen[digests[chosen] <= last]
    found = found[np.argsort(digests[found], kind="stable")]
    if hold_out >= 1:
        return found
    return found[: max(1, int(np.searchsorted(np.cumsum(lengths[found]), MOST_HELD, side="right")))]


def _shares(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Weights as whole numbers whose sum is the period of the schedule."""
    scaled = [weight / sum(weights) for weight in weights]
    common = math.lcm(*(w.denominator for w in scaled))
    if common <= FINEST:
        return tuple(int(w * common) for w in scaled)
    return tuple(max(1, round(w * FINEST)) for w in scaled)


class MixtureSchedule:
    """Return the source of each row: among the first n rows, counts differ from the weights by less than one row.

    The j-th row of a source with share w has its place between (j - 1) / w and j / w; of those whose place has begun,
    the one that ends first is next (earliest deadline first, with which such windows never miss: Baruah et al. 1996,
    Proportionate progress). The schedule repeats after the sum of the shares.
    """

    def __init__(self, shares: Sequence[int]) -> None:
        self.shares = shares
        self.period = sum(shares)
        self._source = np.zeros(self.period, dtype=np.int64)
        self._before = np.zeros(self.period, dtype=np.int64)
        given = [0] * len(shares)
        for row in range(self.period):
            begun = [s for s, share in enumerate(shares) if given[s] * self.period < share * (row + 1)]
            chosen = min(begun, key=lambda s: -(-(given[s] + 1) * self.period // shares[s]))
            self._source[row], self._before[row] = chosen, given[chosen]
            given[chosen] += 1

    def source_of(self, row: int) -> tuple[int, int]:
        """The source of a row, and how many rows of that source came before."""
        round_, inside = divmod(row, self.period)
        source = int(self._source[inside])
        return source, round_ * self.shares[source] + int(self._before[inside])
