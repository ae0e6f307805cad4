"""The hidden-state loss pairs layers by origin and compares hidden states after the next norm."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

import kept
from kept.commands.heal import run_heal
from kept.errors import CheckpointError, InputError
from kept.ir.stream_map import IDENTITY
from kept.loaded import open_model
from kept.output.layer_pairing import paired, stream_map
from support.heal_runs import settings
from support.stored import change_json, read_json, write_readable

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.slow]

STREAMS = {"kl": 0.0, "hidden": 1.0, "train": "all", "tokens": 128}

ROUNDING = 1e-9
"""Rounding error in float32 of a relative squared error and of a cosine distance."""


@pytest.fixture(scope="module")
def orion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with LayerNorm: its residual stream has a mean, its final norm a bias."""
    return write_readable(tmp_path_factory.mktemp("orion") / "orion", "orion", num_hidden_layers=3)


@pytest.fixture(scope="module")
def exact(orion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exact Llama of that model: centred residual stream and an affine tail as an extra layer."""
    out = tmp_path_factory.mktemp("exact") / "llama"
    return kept.convert(orion, out, dtype="float32", verify_tokens=0).path


def first(student: Path, teacher: Path, corpus: Path, out: Path, **changes: Any) -> float:
    """Return the hidden-state loss before the first step."""
    given = settings((teacher, student), corpus, out, **{**STREAMS, **changes})
    return run_heal(given).history[0].losses["hidden"]


def pairs(student: Path, teacher: Path) -> list[tuple[int, int]]:
    return [*paired(open_model(student), open_model(teacher))]


@pytest.mark.parametrize("error", ["mse", "cosine"])
@pytest.mark.parametrize("at", [(1, 4), (0,), (3,)])
def test_an_expanded_student_begins_at_its_teacher(
    orion: Path, corpus: Path, tmp_path: Path, at: tuple[int, ...], error: str
) -> None:
    """Copies are inserted between, before and after the other layers."""
    grown = kept.expand(orion, tmp_path / "grown", at=at, verify_tokens=0).path
    assert first(grown, orion, corpus, tmp_path / "out", hidden_error=error) < ROUNDING


@pytest.mark.parametrize("error", ["mse", "cosine"])
def test_a_centred_student_with_a_tail_begins_at_its_teacher(
    orion: Path, exact: Path, corpus: Path, tmp_path: Path, error: str
) -> None:
    assert pairs(exact, orion) == [(1, 1), (2, 2), (3, 3)], "the tail's own output is the constant of the last norm"
    assert first(exact, orion, corpus, tmp_path / "out", hidden_error=error) < ROUNDING


def weakened(source: Path, target: Path) -> Path:
    """Copy a checkpoint with small output projections."""
    shutil.copytree(source, target)
    file = target / "model.safetensors"
    tensors = {n: 0.05 * t if "o_proj" in n or "down_proj" in n else t for n, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return target


def test_a_student_with_carried_biases_begins_near_its_teacher(orion: Path, corpus: Path, tmp_path: Path) -> None:
    """The constant that carries the norm biases is no error; without the stream map in the record it is one.

    The layers write little, so that the constant is a large part of the residual stream.
    """
    weak = weakened(orion, tmp_path / "weak")
    carried = kept.convert(weak, tmp_path / "carried", norm="carried", dtype="float32", verify_tokens=0).path
    found = stream_map(open_model(carried), open_model(weak))
    assert found.centred
    assert found.constant is not None
    assert found.constant > 0
    near = first(carried, weak, corpus, tmp_path / "near")
    change_json(carried / "kept.json", stream={})
    assert near < first(carried, weak, corpus, tmp_path / "far") / 10


def test_a_model_that_is_its_own_teacher_has_the_identity(orion: Path, tmp_path: Path) -> None:
    carried = kept.convert(orion, tmp_path / "carried", norm="carried", verify_tokens=0).path
    assert stream_map(open_model(carried), open_model(carried)) == IDENTITY
    again = kept.expand(carried, tmp_path / "grown", at=(1,), verify_tokens=0).path
    assert stream_map(open_model(again), open_model(carried)) == IDENTITY
    assert stream_map(open_model(again), open_model(orion)) == stream_map(open_model(carried), open_model(orion))


def test_a_student_that_is_another_model_does_not(orion: Path, corpus: Path, tmp_path: Path) -> None:
    other = write_readable(tmp_path / "other", "orion", num_hidden_layers=3, seed=7)
    assert first(other, orion, corpus, tmp_path / "out") > 0.1


def test_layers_are_followed_through_all_that_was_done(orion: Path, exact: Path, tmp_path: Path) -> None:
    """The model is converted, expanded and shrunk, and paired with each model on the way."""
    grown = kept.expand(exact, tmp_path / "grown", at=(1, 3), verify_tokens=0).path
    assert read_json(grown / "kept.json")["layers"] == {
        "of_source": 4,
        "origins": [0, "expand-blocks", 1, "expand-blocks", 2, 3],
    }
    assert pairs(grown, exact) == [(1, 2), (2, 4), (3, 5), (4, 6)]
    assert pairs(grown, orion) == [(1, 2), (2, 4), (3, 5)]
    assert pairs(grown, grown) == [(n, n) for n in range(1, 7)]
    less = kept.convert(
        grown, tmp_path / "less", to="same", verify_tokens=0, passes=[{"name": "drop-layers", "layers": [0]}]
    ).path
    assert pairs(less, grown) == [(2, 1), (3, 2), (4, 3), (5, 4), (6, 5)]
    assert pairs(less, orion) == [(1, 1), (2, 3), (3, 4)]


def test_healing_again_does_not_count_a_conversion_twice(orion: Path, corpus: Path, tmp_path: Path) -> None:
    grown = kept.expand(orion, tmp_path / "grown", at=(1,), verify_tokens=0).path
    for name, before in (("one", "grown"), ("two", "one")):
        run_heal(settings((orion, tmp_path / before), corpus, tmp_path / name, tokens=128))
    assert pairs(tmp_path / "two", orion) == pairs(grown, orion) == [(1, 2), (2, 3), (3, 4)]


def test_of_two_models_with_as_many_layers_the_files_tell(orion: Path, tmp_path: Path) -> None:
    """One layer is dropped and one inserted: the depth is equal, the layers differ."""
    passes: list[dict[str, Any]] = [{"name": "drop-layers", "layers": [0]}, {"name": "expand-blocks", "at": [2]}]
    moved = kept.convert(orion, tmp_path / "moved", to="same", verify_tokens=0, passes=passes).path
    assert pairs(moved, orion) == [(2, 1), (3, 3)]
    assert pairs(moved, moved) == [(1, 1), (2, 2), (3, 3)]
    other = write_readable(tmp_path / "other", "orion", num_hidden_layers=3, seed=7)
    with pytest.raises(InputError, match="and no record tells which are which; leave out --hidden, or name the model"):
        pairs(moved, other)


def test_a_record_of_an_earlier_version_tells_by_its_expansions(orion: Path, exact: Path, tmp_path: Path) -> None:
    grown = kept.expand(orion, tmp_path / "grown", at=(1, 4), verify_tokens=0).path
    for student in (grown, exact):
        wanted = pairs(student, orion)
        record = read_json(student / "kept.json")
        layers = record.pop("layers")
        (student / "kept.json").unlink()
        change_json(student / "kept.json", **record)
        assert pairs(student, orion) == wanted
        change_json(student / "kept.json", layers=layers)


@pytest.mark.parametrize("layers", [{"of_source": 3, "origins": [0, 1, 3, 2]}, {"of_source": 3}, [], {"origins": None}])
def test_a_damaged_record_is_one_line(orion: Path, tmp_path: Path, layers: object) -> None:
    grown = kept.expand(orion, tmp_path / "grown", at=(1,), verify_tokens=0).path
    change_json(grown / "kept.json", layers=layers)
    with pytest.raises(CheckpointError, match=r"kept\.json: the record is not as kept writes it"):
        pairs(grown, orion)


def test_what_cannot_be_compared_is_refused_before_anything_is_read(orion: Path, corpus: Path, tmp_path: Path) -> None:
    wide = write_readable(tmp_path / "wide", "llama", hidden_size=128)
    deep = write_readable(tmp_path / "deep", "orion", num_hidden_layers=4)
    for student, words in (
        (wide, "hidden: the residual stream of .*wide is 128 wide"),
        (deep, "deep has 4 layers, its teacher"),
    ):
        with pytest.raises(InputError, match=words):
            run_heal(settings((orion, student), corpus, tmp_path / "out", **STREAMS))
    assert not [*tmp_path.glob(".out*")]
