"""Packed rows: what a batch must be, and that a stream is a pure function of its step."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.distillation.data.mixture import Mixture
from kept.distillation.data.packing import Batch, BatchStream, check_stream
from kept.errors import InputError
from support.heal_data import LARGE, lengths, tokens_of

sizes = st.integers(1, 40)


def stream_of(lengths: list[int], batch: int = 1, length: int = 8, seed: int = 0, hold_out: float = 0) -> BatchStream:
    return BatchStream(Mixture({"a": tokens_of(lengths)}, hold_out=hold_out), batch, length, seed)


def two_sources(batch: int, length: int, seed: int = 0) -> BatchStream:
    sources = {"a": tokens_of([7, 3, 12, 5] * 3), "b": tokens_of([4, 9, 2] * 4, first=20)}
    return BatchStream(Mixture(sources, {"a": 0.7, "b": 0.3}, hold_out=2), batch, length, seed)


def faults(batch: Batch, lengths: dict[int, int]) -> list[str]:
    """Return the errors of a batch whose ids encode their document and position."""
    found = []
    for row in range(batch.tokens_BT.shape[0]):
        tokens, documents = batch.tokens_BT[row].tolist(), batch.documents_BT[row].tolist()
        targets, masks = batch.targets_BT[row].tolist(), batch.mask_BT[row].tolist()
        for at, (token, document, target, mask) in enumerate(zip(tokens, documents, targets, masks, strict=True)):
            if document == -1:
                found += ["padding teaches"] * (mask != 0)
                continue
            number, place = divmod(token, LARGE)
            if batch.names[document] != f"made:{number}":
                found.append("another document's name")
            if at and documents[at - 1] == document and tokens[at - 1] != token - 1:
                found.append("a document is torn")
            if mask != (place + 1 < lengths[number]):
                found.append("the mask is not where the document goes on")
            if mask and target != token + 1:
                found.append("a target of another document")
    return found


def same(one: Batch, other: Batch) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


# ---------------------------------------------------------------------------------------------------------- the batch


@given(lengths, st.integers(1, 4), sizes, st.integers(0, 30))
def test_targets_follow_in_the_same_document(lengths: list[int], batch: int, length: int, step: int) -> None:
    found = stream_of(lengths, batch, length).batch_at(step)
    assert faults(found, dict(enumerate(lengths))) == []
    assert found.tokens_BT.shape == found.targets_BT.shape == found.mask_BT.shape == (batch, length)
    assert int(found.documents_BT.min()) == 0, "no padding"
    assert found.documents_BT.unique().tolist() == list(range(len(found.names)))
    assert found.tokens_BT.dtype == found.targets_BT.dtype == found.documents_BT.dtype == torch.int64


def test_faults_are_found() -> None:
    """Negative control: the law above sees a batch that breaks it."""
    lengths = [5, 4, 6]
    batch, known = stream_of(lengths, 2, 10).batch_at(0), dict(enumerate(lengths))
    assert faults(replace(batch, mask_BT=torch.ones_like(batch.mask_BT)), known)
    assert faults(replace(batch, targets_BT=batch.targets_BT.roll(1, 1)), known)
    assert faults(replace(batch, tokens_BT=batch.tokens_BT.flip(1)), known)
    assert faults(replace(batch, names=batch.names[::-1]), known)


def test_positions_begin_anew_with_each_document() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, 2], [3, 3, 4, -1, -1, -1]])
    batch = Batch(documents, documents, documents, documents, ())
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 1, 2]]


def test_a_document_longer_than_a_row_goes_on_as_another() -> None:
    batch = stream_of([20], batch=3, length=8).batch_at(0)
    assert batch.tokens_BT.tolist() == [[*range(8)], [*range(8, 16)], [*range(16, 20), *range(4)]]
    assert batch.documents_BT.tolist() == [[0] * 8, [1] * 8, [2] * 4 + [3] * 4]
    assert batch.positions_BT.tolist() == [[*range(8)], [*range(8)], [*range(4), *range(4)]]
    assert batch.mask_BT.tolist() == [[1] * 8, [1] * 8, [1] * 3 + [0] + [1] * 4]
    assert batch.targets_BT[0].tolist() == [*range(1, 9)]
    assert batch.names == ("made:0",) * 4


def test_rows_of_a_batch() -> None:
    batch = two_sources(6, 8).batch_at(1)
    part = batch.rows(2, 5)
    assert torch.equal(part.tokens_BT, batch.tokens_BT[2:5])
    assert torch.equal(part.mask_BT, batch.mask_BT[2:5])
    assert part.names == batch.names


# --------------------------------------------------------------------------------------------------------- the stream


@given(lengths, sizes, st.integers(0, 5))
def test_an_epoch_is_every_document_once_and_whole(lengths: list[int], length: int, seed: int) -> None:
    stream, total = stream_of(lengths, 1, length, seed), sum(lengths)
    rows = [stream.batch_at(step) for step in range(-(-3 * total // length))]
    tokens = np.concatenate([row.tokens_BT[0] for row in rows])[: 3 * total].reshape(3, total)
    masks = np.concatenate([row.mask_BT[0] for row in rows])[: 3 * total].reshape(3, total)
    whole = np.sort(stream.mixture.tokens[0].ids)
    for epoch, mask in zip(tokens, masks, strict=True):
        assert (np.sort(epoch) == whole).all()
        assert (np.flatnonzero(epoch % LARGE == 0).size) == len(lengths)
        assert all(b == a + 1 or b % LARGE == 0 for a, b in pairwise(epoch)), "none is torn"
        assert mask.sum() == total - len(lengths), "all but a document's last id have a target"


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    lengths = [4] * 50
    orders = [
        stream_of(lengths, 1, 200, seed).batch_at(epoch).tokens_BT[0, ::4].tolist()
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    ]
    assert len({tuple(order) for order in orders}) == 6
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(1, 5), sizes)
def test_a_step_is_the_same_after_whatever_came_before(steps: list[int], batch: int, length: int) -> None:
    used = two_sources(batch, length)
    for step in steps:
        assert same(used.batch_at(step), two_sources(batch, length).batch_at(step))


@given(st.integers(0, 40), st.integers(1, 6))
def test_rows_are_the_same_in_batches_of_any_size(step: int, batch: int) -> None:
    whole, single = two_sources(batch, 16).batch_at(step), two_sources(1, 16)
    for row in range(batch):
        assert torch.equal(whole.tokens_BT[row], single.batch_at(step * batch + row).tokens_BT[0])


def test_a_mixture_is_kept_row_by_row() -> None:
    stream = two_sources(10, 8)
    for step in range(12):
        second = (stream.batch_at(step).tokens_BT[:, 0] >= 20 * LARGE).sum()
        assert int(second) == 3


@pytest.mark.parametrize(("batch", "length", "said"), [(0, 8, "batch: is 0"), (2, 0, "length: is 0")])
def test_sizes_are_positive(batch: int, length: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        two_sources(batch, length)


# ----------------------------------------------------------------------------------------------------------- held out


@given(lengths, st.integers(1, 4), sizes, st.sampled_from([0.2, 1, 2]))
def test_held_out_rows_never_meet_training_rows(lengths: list[int], batch: int, length: int, hold_out: float) -> None:
    if len(lengths) <= hold_out:
        lengths = [*lengths, 5]
    try:
        stream = stream_of(lengths, batch, length, hold_out=hold_out)
    except InputError:
        return
    held = stream.held_out()
    ids = [int(i) for b in held for i in b.tokens_BT[b.documents_BT >= 0]]
    documents = {i // LARGE for i in ids}
    assert sorted(ids) == [d * LARGE + i for d in sorted(documents) for i in range(lengths[d])], "whole, and once"
    assert [faults(b, dict(enumerate(lengths))) for b in held] == [[]] * len(held)
    steps = -(-sum(lengths) // (batch * length))
    trained = {int(i) // LARGE for step in range(steps) for i in stream.batch_at(step).tokens_BT.flatten()}
    assert trained == set(range(len(lengths))) - documents


def test_held_out_rows_by_source_and_number() -> None:
    stream = two_sources(2, 4)
    second = stream.held_out("b")
    assert all(int(t) >= 20 * LARGE for b in second for t in b.tokens_BT[b.documents_BT >= 0])
    assert sum(len(b.tokens_BT) for b in stream.held_out("a", rows=1)) == 1
    assert len(stream.held_out()) == len(stream.held_out("a")) + len(second)
    assert same(stream.held_out("b")[0], second[0])


def test_nothing_held_out() -> None:
    assert stream_of([5, 6]).held_out() == []


# -------------------------------------------------------------------------------------------------------------- limits


def test_what_a_model_does_not_take() -> None:
    stream = two_sources(2, 64)
    largest = stream.mixture.tokens[1].largest
    check_stream(stream, vocabulary=largest + 1, context=64)
    with pytest.raises(InputError, match="length: is 64, the model has 63 positions"):
        check_stream(stream, vocabulary=largest + 1, context=63)
    with pytest.raises(InputError, match=f"b: has id {largest}, the model has {largest} tokens"):
        check_stream(stream, vocabulary=largest, context=64)
