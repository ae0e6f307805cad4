"""Rows that stay: all of a corpus, each once an epoch, whatever order they are read in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.distillation.data.mixture import Mixture
from kept.distillation.data.packed_rows import PackedRows, PackedRowStream, counts
from support.heal_data import lengths, tokens_of


def mixture(sizes: list[int], weights: dict[str, float] | None = None) -> Mixture:
    return Mixture({"a": tokens_of(sizes), "b": tokens_of([4, 9, 2] * 4, first=50)}, weights, hold_out=1)


def ids(rows: PackedRows, numbers: range) -> list[int]:
    batch = rows.batch(numbers)
    return batch.tokens_BT[batch.documents_BT >= 0].tolist()


@given(lengths, st.integers(1, 20))
def test_all_rows_are_all_tokens_once(sizes: list[int], length: int) -> None:
    found = mixture(sizes)
    rows = PackedRows(found, length)
    for source in range(2):
        for part, documents in ((rows.train(source), found.train), (rows.held_out(source), found.held)):
            wanted = [i for d in documents[source] for i in found.tokens[source].document(d, 0, 1000).tolist()]
            assert sorted(ids(rows, part)) == sorted(wanted)
    assert len(rows) == sum(len(part(s)) for s in range(2) for part in (rows.train, rows.held_out))


@given(lengths, st.integers(1, 3), st.integers(0, 9))
def test_an_epoch_of_any_seed_has_each_row_once(sizes: list[int], epoch: int, seed: int) -> None:
    rows = PackedRows(Mixture({"a": tokens_of(sizes)}, hold_out=1), 7)
    size = len(rows.train(0))
    stream = PackedRowStream(rows, 1, seed)
    found = [stream.batch_at(epoch * size + i) for i in range(size)]
    numbered = [(one, one.numbers_B) for one in found if one.numbers_B is not None]
    assert sorted(int(number) for _, number in numbered) == list(rows.train(0))
    assert all(torch.equal(one.tokens_BT, rows.batch(numbers.tolist()).tokens_BT) for one, numbers in numbered)


def test_seeds_and_epochs_have_other_orders() -> None:
    rows = PackedRows(mixture([9] * 40), 8)

    def order(seed: int, epoch: int) -> list[int]:
        stream = PackedRowStream(PackedRows(Mixture({"a": tokens_of([9] * 40)}), 8), 1, seed)
        size = len(stream.numbered.train(0))
        return [int(stream.batch_at(epoch * size + i).numbers_B) for i in range(size)]  # type: ignore[arg-type]

    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4
    assert len(rows.train(0)) == 44


def test_a_batch_and_its_parts_keep_their_numbers() -> None:
    stream = PackedRowStream(PackedRows(mixture([9] * 40), 8), 4, 3)
    batch = stream.batch_at(5)
    assert batch.numbers_B is not None
    part = batch.rows(1, 3)
    assert torch.equal(part.numbers_B, batch.numbers_B[1:3])  # type: ignore[arg-type]
    assert torch.equal(part.tokens_BT, stream.numbered.batch(batch.numbers_B[1:3].tolist()).tokens_BT)
    held = torch.cat([one.numbers_B for one in stream.held_out("b")])  # type: ignore[misc]
    assert held.tolist() == list(stream.numbered.held_out(1))


def test_a_part_of_a_corpus_is_what_the_mixture_gives() -> None:
    found = mixture([9] * 40, {"a": 0.75, "b": 0.25})
    wanted = counts(found, 8, 64)
    rows = PackedRows(found, 8, wanted)
    assert wanted == [6, 2]
    assert [len(rows.train(s)) for s in range(2)] == [6, 2]
    assert len(PackedRows(found, 8, [1000, 1]).train(0)) == 44


@pytest.mark.parametrize("length", [3, 8])
def test_what_is_held_out_is_in_no_row_that_trains(length: int) -> None:
    rows = PackedRows(mixture([9] * 40), length)
    for source in range(2):
        assert not set(ids(rows, rows.train(source))) & set(ids(rows, rows.held_out(source)))
