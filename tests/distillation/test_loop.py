"""The loop: it heals, it goes on where it was killed, one rank or two, and it stops where something is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import kept
from heal_runs import STEPS, curve, killed_at, on_ranks, settings
from kept.distillation.loop import Diverged
from kept.errors import InputError, RecipeError
from kept.healing import heal
from models import write_checkpoint
from stored import all_bytes, read_json

if TYPE_CHECKING:
    from pathlib import Path


def test_norms_learn_and_the_rest_stays(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    done = heal(settings(pair, corpus, tmp_path / "out", tokens=60 * 128))
    losses = [one.losses["loss"] for one in done.history]
    assert min(losses) < 0.7 * losses[0]
    before, after = (kept.open_model(path).program for path in (pair[1], done.path))
    changed = {n for n, t in after.weights.items() if not torch.equal(t.read(), before.weights[n].read())}
    assert changed == set(done.learned.slots) == {name for name in before.weights if "norm." in name}
    record = read_json(done.path / "kept.json")
    assert record["healed"]["held_out"][0]["loss"] == pytest.approx(losses[0])
    assert kept.verify(pair[0], done.path, tokens=16).altered == ()


@pytest.mark.parametrize("step", [1, 5, 7, 11])
def test_killed_and_started_again_it_is_the_same_run(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    whole, broken = (settings(pair, corpus, tmp_path / name) for name in ("whole", "broken"))
    heal(whole)
    killed_at(step, monkeypatch, broken)
    heal(broken)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert curve(tmp_path / ".broken.kept-healing") == curve(tmp_path / ".whole.kept-healing")


def test_two_ranks_are_one(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    one, two = (settings(pair, corpus, tmp_path / name) for name in ("one", "two"))
    heal(one)
    on_ranks(2, two, tmp_path)
    found, wanted = curve(tmp_path / ".two.kept-healing"), curve(tmp_path / ".one.kept-healing")
    assert found.keys() == wanted.keys() == set(range(1, STEPS + 1))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_spike_stops_the_run_with_its_documents(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Diverged, match=r"step \d+: the loss is (nan|inf|[\d.e+]+), .*lines.jsonl:\d+.*; the last good"):
        heal(settings(pair, corpus, tmp_path / "out", rate=1e9, train="all", clip=1e9))
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_go_on(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(pair, corpus, tmp_path / "out")
    killed_at(6, monkeypatch, given)
    with pytest.raises(InputError, match=r"is a run with other settings \(rate\)"):
        heal(replace(given, rate=1e-4))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"length": 1000}, InputError, "length: is 1000, .* has 128 positions"),
        ({"rate": -1.0}, RecipeError, "rate: is -1.0, it must be above 0"),
        ({"kl": 0.0}, RecipeError, "kl: is 0.0, it must be above 0 where no other loss is"),
        ({"teacher": None}, RecipeError, "teacher: is None, it must be a checkpoint"),
        ({"train": "nrms"}, InputError, "names no weight"),
        ({"data": ("nowhere",)}, InputError, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        heal(settings(pair, corpus, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_is_no_teacher(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "llama", vocab_size=50)
    with pytest.raises(InputError, match=r"tokens, its teacher .*other has 50"):
        heal(settings(pair, corpus, tmp_path / "out", teacher=str(other)))


def test_two_runs_write_the_same_bytes(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        heal(settings(pair, corpus, tmp_path / name))
    assert all_bytes(tmp_path / "one") == all_bytes(tmp_path / "two")


@pytest.mark.parametrize("error", ["mse", "cosine"])
def test_streams_are_matched_too(pair: tuple[Path, Path], corpus: Path, tmp_path: Path, error: str) -> None:
    given = settings(pair, corpus, tmp_path / "out", kl=0.0, hidden=1.0, hidden_error=error, train="all", rate=1e-3)
    losses = [one.losses["hidden"] for one in heal(replace(given, tokens=30 * 128)).history]
    assert min(losses) < 0.7 * losses[0]
    assert losses[0] < (2 if error == "cosine" else 100)
