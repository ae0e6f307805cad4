"""Sequences with common prefixes become trees, and a model's outputs on a tree are those on each sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.evaluation.packing import Tree, trees
from support.subjects import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SEQUENCES = [(1, 2, 3, 4, 5), (1, 2, 3, 6), (1, 2, 3, 6, 7), (1, 2, 9), (8, 8, 8), (1, 2, 3)]


def read(tree: Tree, place: int) -> list[int]:
    """The tokens on the path to a place, by the rule that the model's mask follows."""
    return [token for at, token in enumerate(tree.tokens[: place + 1]) if place < tree.ends[at]]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), min_size=1, max_size=12, unique=True))
def test_every_sequence_is_a_path(sequences: list[tuple[int, ...]]) -> None:
    found = [*trees(sequences, [1] * len(sequences), width=8)]
    paths = {number: read(tree, place) for tree in found for number, (place,) in tree.places.items()}
    assert [tuple(paths[n]) for n in range(len(sequences))] == sequences


def test_a_common_prefix_is_there_once() -> None:
    (first, other) = trees(SEQUENCES, [2] * len(SEQUENCES), width=64)
    assert first.tokens == [1, 2, 3, 4, 5, 6, 7, 9]
    assert first.ends == [8, 8, 7, 5, 5, 7, 7, 8]
    assert other.tokens == [8, 8, 8]
    assert not other.branched


def test_sharing_must_be_worth_its_attention() -> None:
    assert len([*trees(SEQUENCES, [1] * len(SEQUENCES), width=0)]) == len(SEQUENCES)
    long = [(1, *[n] * 400) for n in range(4)]
    assert len([*trees(long, [1] * 4, width=8)]) == 4, "one shared token does not pay for 160,000 masked scores"
    assert len([*trees(long, [1] * 4, width=10**6)]) == 1
    assert max(len(tree.tokens) for tree in trees(long, [1] * 4, width=10**6, largest=900)) == 801


def outputs(model: Any, sequences: Sequence[tuple[int, ...]], at: dict[int, tuple[int, int]], rows: list[Tree]) -> Any:
    longest = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([row.tokens + [0] * (longest - len(row.tokens)) for row in rows])
    ends = torch.tensor([row.ends + [longest] * (longest - len(row.ends)) for row in rows])
    hidden = model.hidden(tokens, ends_BT=ends)
    return [hidden[at[n]] for n in range(len(sequences))]


@pytest.mark.parametrize(
    ("family", "config"),
    [("llama", {}), ("mistral", {"sliding_window": 3}), ("gpt2", {}), ("gemma2", {"sliding_window": 3})],
)
def test_outputs_on_a_tree_are_those_on_each_sequence(tmp_path: Path, family: str, config: dict[str, Any]) -> None:
    model = tiny(tmp_path, family, **config).model
    rows = [*trees(SEQUENCES, [1] * len(SEQUENCES), width=64)]
    at = {n: (row, place) for row, tree in enumerate(rows) for n, (place,) in tree.places.items()}
    with torch.inference_mode():
        found = outputs(model, SEQUENCES, at, rows)
        for one, sequence in zip(found, SEQUENCES, strict=True):
            wanted = model.hidden(torch.tensor([sequence]))[0, -1]
            assert (one - wanted).abs().max() < 1e-9
        rows[0].ends[3] += 1
        changed = outputs(model, SEQUENCES, at, rows)
    assert any((a - b).abs().max() > 1e-6 for a, b in zip(changed, found, strict=True)), "a token too many is seen"
