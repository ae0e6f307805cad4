"""Weights, the schedule that keeps them, and what is held out."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept.distillation.data.mixture import FINEST, Mixture, MixtureSchedule, parse_weights
from kept.errors import InputError
from support.heal_data import lengths, spread, tokens_of

shares = st.lists(st.integers(1, 400), min_size=1, max_size=8).map(tuple)


def farthest(sources: list[int], shares: tuple[int, ...]) -> float:
    """How many rows any source is from its weight, among any first rows."""
    counts = np.cumsum(np.array(sources)[:, None] == np.arange(len(shares)), axis=0)
    wanted = np.arange(1, len(sources) + 1)[:, None] * np.array(shares) / sum(shares)
    return float(np.abs(counts - wanted).max())


# ----------------------------------------------------------------------------------------------------------- schedule


@given(shares)
def test_any_first_rows_are_within_one_row_of_the_weights(shares: tuple[int, ...]) -> None:
    schedule = MixtureSchedule(shares)
    assert farthest([schedule.source_of(row)[0] for row in range(2 * sum(shares) + 3)], shares) < 1


def test_turns_alone_are_not_within_one_row() -> None:
    """Negative control: sources in blocks have the right counts at the end only."""
    assert farthest([0] * 6 + [1] * 4, (6, 4)) > 1


@given(shares)
def test_the_rows_of_a_source_are_counted_without_gap(shares: tuple[int, ...]) -> None:
    schedule = MixtureSchedule(shares)
    seen = [schedule.source_of(row) for row in range(2 * sum(shares))]
    for source in range(len(shares)):
        assert [before for s, before in seen if s == source] == list(range(2 * shares[source]))


# ------------------------------------------------------------------------------------------------------------ weights


def test_weights_are_parsed_exactly() -> None:
    assert parse_weights("english=0.7, python=0.3") == {"english": Fraction(7, 10), "python": Fraction(3, 10)}
    assert parse_weights("a=1/3,b=2") == {"a": Fraction(1, 3), "b": Fraction(2)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no new source"),
        ("english=0.7,", "names no new source"),
        ("=0.7", "names no new source"),
        ("a=1,a=2", "'a=2' names no new source"),
        ("english", "'english' has no name or no weight"),
        ("english=much", "'much', the weight of 'english', is not a number"),
        ("english=nan", "is not a number"),
        ("english=1e999999999", "'1e999999999', the weight of 'english', is not a number"),
        ("english=" + "1" * 10**6, "is not a number"),
        ("english=1/" + "1" * 19, "is not a number"),
        ("english=1/0", "is not a number"),
        ("english=0", "make it positive"),
        ("english=-1", "make it positive"),
    ],
)
def test_invalid_weights_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_weights(text)


def test_weights_are_normalised() -> None:
    sources = {name: tokens_of([5, 5], first=2 * i) for i, name in enumerate("abc")}
    assert Mixture(sources, {"a": 1, "b": 1, "c": 2}).shares == (1, 1, 2)
    assert Mixture(sources, {"a": 0.7, "b": 0.2, "c": 0.3}).shares == (7, 2, 3)
    assert Mixture(sources, parse_weights("a=1/3,b=1/3,c=1/3")).shares == (1, 1, 1)


def test_weights_of_many_digits_are_rounded() -> None:
    sources = {name: tokens_of([5, 5], first=2 * i) for i, name in enumerate("ab")}
    first, second = Mixture(sources, {"a": 0.123456789, "b": 1 - 0.123456789}).shares
    assert abs(first / (first + second) - 0.123456789) < 1 / FINEST
    assert min(Mixture(sources, {"a": 1e-9, "b": 1}).shares) == 1


def test_without_weights_a_source_weighs_what_it_has_to_train_on() -> None:
    sources = {"a": tokens_of([10, 20, 30]), "b": tokens_of([40, 50], first=3)}
    mixture = Mixture(sources, hold_out=0)
    assert mixture.shares == (2, 3)


@pytest.mark.parametrize("weights", [{"a": 1}, {"a": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}])
def test_weights_of_other_sources(weights: dict[str, float]) -> None:
    sources = {name: tokens_of([5, 5], first=2 * i) for i, name in enumerate("ab")}
    with pytest.raises(InputError, match="but data has a, b"):
        Mixture(sources, weights)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_weigh_nothing(weight: float) -> None:
    sources = {name: tokens_of([5, 5], first=2 * i) for i, name in enumerate("ab")}
    with pytest.raises(InputError, match="of 'b'"):
        Mixture(sources, {"a": 1, "b": weight})


# ----------------------------------------------------------------------------------------------------------- held out

hold_outs = st.one_of(st.floats(0.001, 0.6), st.integers(1, 5))


def test_a_fraction_is_bounded_in_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long document is trained on; a number of documents is what it says."""
    monkeypatch.setattr("kept.distillation.data.mixture.LONGEST_HELD", 50)
    monkeypatch.setattr("kept.distillation.data.mixture.MOST_HELD", 95)
    source = {"a": tokens_of([300, *[10] * 60])}
    held = [int(source["a"].lengths()[one].sum()) for one in (Mixture(source, None, f).held[0] for f in (0.01, 0.9))]
    assert held == [10, 90]
    assert len(Mixture(source, None, 20).held[0]) == 20
    monkeypatch.setattr("kept.distillation.data.mixture.LONGEST_HELD", 5)
    assert len(Mixture(source, None, 0.01).held[0]) == 1


def digests_of(mixture: Mixture, chosen: tuple[np.ndarray, ...]) -> set[int]:
    return {int(d) for tokens, c in zip(mixture.tokens, chosen, strict=True) for d in tokens.table["digest"][c]}


@given(lengths, lengths, hold_outs)
def test_no_text_is_on_both_sides(first: list[int], second: list[int], hold_out: float) -> None:
    """The second source repeats texts of the first."""
    pool = spread(0, max(len(first), len(second)) + 1)
    sources = {"a": tokens_of(first, pool[: len(first)]), "b": tokens_of(second, pool[1 : len(second) + 1])}
    try:
        mixture = Mixture(sources, hold_out=hold_out)
    except InputError as error:
        assert "every document is held out" in str(error)  # noqa: PT017 - small sources may have too few
        return
    assert not digests_of(mixture, mixture.train) & digests_of(mixture, mixture.held)
    assert all(map(len, mixture.held))
    for tokens, train, held in zip(mixture.tokens, mixture.train, mixture.held, strict=True):
        assert not set(train) & set(held)
        assert len(set(held)) == len(held)
        assert len(train) + len(held) <= len(tokens.table)


def test_one_source_is_split_without_rest() -> None:
    mixture = Mixture({"a": tokens_of([3] * 40)}, hold_out=0.2)
    assert sorted([*mixture.train[0], *mixture.held[0]]) == list(range(40))


@given(st.integers(3, 40), st.integers(1, 40), hold_outs)
def test_what_was_trained_on_is_never_held_out_as_data_grow(old: int, new: int, hold_out: float) -> None:
    try:
        before = Mixture({"a": tokens_of([3] * old)}, hold_out=hold_out)
    except InputError:
        return
    after = Mixture({"a": tokens_of([3] * (old + new))}, hold_out=hold_out)
    assert not set(before.train[0]) & set(after.held[0])


def test_a_fraction_and_a_number() -> None:
    tokens = tokens_of([3] * 2000)
    assert 250 < len(Mixture({"a": tokens}, hold_out=0.15).held[0]) < 350
    assert len(Mixture({"a": tokens}, hold_out=7).held[0]) == 7
    assert len(Mixture({"a": tokens}, hold_out=1e-9).held[0]) == 1, "one at least"
    assert len(Mixture({"a": tokens}, hold_out=0).held[0]) == 0


def test_equal_texts_stay_together() -> None:
    mixture = Mixture({"a": tokens_of([3] * 6, [5, 1, 1, 9, 1, 7])}, hold_out=1)
    assert list(mixture.held[0]) == [1, 2, 4]


def test_the_first_held_out_documents_are_a_sample() -> None:
    tokens = tokens_of([3] * 2000)
    held = Mixture({"a": tokens}, hold_out=0.15).held[0]
    digests = tokens.table["digest"][held]
    assert (np.sort(digests) == digests).all()
    assert abs(np.mean(held[:100]) - 1000) < 300, "from all over the source"


def test_documents_of_one_token_are_not_trained_on() -> None:
    mixture = Mixture({"a": tokens_of([1, 5, 1, 5, 5])}, hold_out=1)
    assert sorted([*mixture.train[0], *mixture.held[0]]) == [1, 3, 4]
    with pytest.raises(InputError, match="a: no document is 2 tokens long"):
        Mixture({"a": tokens_of([1, 1])})


@pytest.mark.parametrize(("documents", "hold_out"), [(1, 0.1), (1, 1), (3, 3), (3, 99)])
def test_something_is_left_to_train_on(documents: int, hold_out: float) -> None:
    with pytest.raises(
        InputError, match="a: every document is held out; give more documents that differ, or hold fewer"
    ):
        Mixture({"a": tokens_of([3] * documents)}, hold_out=hold_out)
    assert len(next(islice(Mixture({"a": tokens_of([3] * documents)}, hold_out=0).train, 1))) == documents


@pytest.mark.parametrize("hold_out", [-0.1, 1.5, float("nan"), float("inf")])
def test_an_invalid_share_is_refused(hold_out: float) -> None:
    with pytest.raises(InputError, match="held out: is"):
        Mixture({"a": tokens_of([3, 3])}, hold_out=hold_out)
