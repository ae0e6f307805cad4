"""Metrics in Weights & Biases and Trackio: what they receive, a resumed run, and trackers that fail."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kept.commands.heal import run_heal
from kept.distillation.train import tracker
from kept.distillation.train.metrics import Metrics
from kept.distillation.train.tracker import TrackedRun, tracked_values
from kept.distillation.train.trainer import Trainer
from kept.errors import InputError, RecipeError
from support.heal_runs import STEPS, folder_of, noted, settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("cache")


@dataclass
class Stub:
    """A tracker that records its calls, disturbs random generators and stdout, and raises in a given call."""

    fails_in: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def module(self, name: str) -> ModuleType:
        made = ModuleType(name)
        made.__spec__ = ModuleSpec(name, None)
        vars(made).update(init=self._init, Settings=SimpleNamespace)
        return made

    def called(self, kind: str) -> list[dict[str, Any]]:
        return [given for name, given in self.calls if name == kind]

    def _init(self, **given: Any) -> SimpleNamespace:
        self._note("init", given)
        return SimpleNamespace(
            log=lambda values, **rest: self._note("log", {**rest, "values": values}),
            define_metric=lambda name, **rest: self._note("define_metric", {"name": name, **rest}),
            finish=lambda **rest: self._note("finish", rest),
        )

    def _note(self, kind: str, given: dict[str, Any]) -> None:
        print(f"* stub: {kind}")  # noqa: T201 - as trackio does
        torch.rand(1)
        random.random()
        self.calls.append((kind, json.loads(json.dumps(given, default=vars))))
        if kind == self.fails_in and len(self.called(kind)) == 2:
            raise ConnectionError("no route\nto the host")


def installed(monkeypatch: pytest.MonkeyPatch, name: str, fails_in: str = "") -> Stub:
    for variable in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID", "TRACKIO_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    stub = Stub(fails_in)
    monkeypatch.setitem(sys.modules, name, stub.module(name))
    return stub


@pytest.fixture(scope="module")
def untracked(pair: tuple[Path, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        return run_heal(settings(pair, corpus, tmp_path_factory.mktemp("untracked") / "out")).path


def test_a_resumed_run_continues_the_same_run_of_wandb(
    untracked: Path, pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = installed(monkeypatch, "wandb")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    given = settings(pair, corpus, tmp_path / "out", report_to="wandb")
    original = Trainer._update

    def stops(self: Trainer) -> Any:
        if self.step == 8:
            self.checkpoints.settle()
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Trainer, "_update", stops)
    with pytest.raises(KeyboardInterrupt):
        run_heal(given)
    monkeypatch.setattr(Trainer, "_update", original)
    run_heal(given)
    first, second = stub.called("init")
    assert (first["project"], first["name"], first["resume"], first["settings"]) == (
        "mine",
        "out",
        "allow",
        {"console": "off"},
    )
    assert first["id"] == second["id"]
    assert first["config"]["learning_rate"] == given.learning_rate
    assert first["config"]["steps"] == STEPS
    assert [one["exit_code"] for one in stub.called("finish")] == [1, 0]
    assert {"name": "*", "step_metric": "train/global_step", "step_sync": True} in stub.called("define_metric")
    values = [one["values"] for one in stub.called("log")]
    steps = [one["train/global_step"] for one in values if "train/loss" in one]
    assert steps == [*range(1, 9), *range(6, STEPS + 1)], "the checkpoint has five steps"
    newest = {one["train/global_step"]: one["train/loss"] for one in values if "train/loss" in one}
    assert [*newest.values()] == [line["loss"] for line in noted(untracked)]
    held = {one["train/global_step"]: one["eval/loss"] for one in values if "eval/loss" in one}
    assert held == {line["step"]: line["loss"] for line in noted(untracked, "held-out")}
    assert (tmp_path / "out/model.safetensors").read_bytes() == (untracked / "model.safetensors").read_bytes()


@pytest.mark.parametrize("fails_in", ["", "log"])
def test_a_tracker_changes_neither_the_run_nor_stdout(
    untracked: Path,
    pair: tuple[Path, Path],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fails_in: str,
) -> None:
    stub = installed(monkeypatch, "trackio", fails_in)
    run_heal(settings(pair, corpus, tmp_path / "out", report_to="trackio"))
    assert noted(tmp_path / "out") == noted(untracked)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (untracked / "model.safetensors").read_bytes()
    said = capsys.readouterr()
    assert not said.out
    if fails_in:
        assert len(stub.called("log")) == 2, "nothing after the failure"
        assert len(stub.called("finish")) == 1, "the run is ended all the same"
        words = "trackio: ConnectionError: no route to the host; the run goes on, and its metrics are in "
        assert [line.startswith(words) for line in said.err.splitlines() if "host" in line] == [True]
    else:
        assert [one["step"] for one in stub.called("log")].count(STEPS) == 2, "a step and a measurement"
        assert stub.called("finish") == [{}]


def test_a_missing_package_is_refused_before_anything_is_read(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "find_spec", lambda _: None)
    with pytest.raises(
        InputError, match=r"^report_to: trackio is not installed; pip install trackio, or leave it out$"
    ):
        run_heal(settings(pair, corpus, tmp_path / "out", student="nowhere", report_to="trackio"))
    with pytest.raises(RecipeError, match=r"report_to: is 'mlflow'; it must be one of wandb, trackio"):
        settings(pair, corpus, tmp_path / "out", report_to="mlflow")


def test_another_rank_reports_nothing(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = installed(monkeypatch, "wandb")
    watch = TrackedRun("wandb", settings(pair, corpus, tmp_path / "out"), tmp_path, lambda _: None)
    Metrics(tmp_path, watch, quiet=True).note({"kind": "run", "step": 0, "groups": ["student"]})
    watch.finish(failed=False)
    assert not stub.calls
    assert not folder_of(tmp_path / "out").exists()


def test_several_groups_are_named() -> None:
    line = {"kind": "step", "step": 3, "tokens": 384, "groups": {"a": {"loss": 1.5, "gradient_norm": float("nan")}}}
    step = {"train/global_step": 3, "train/num_input_tokens_seen": 384}
    assert tracked_values(line, ("a",)) == {"train/loss": 1.5, **step}
    assert tracked_values(line, ("a", "b")) == {"train/a/loss": 1.5, **step}
    line["groups"]["a"]["gradient_norm"] = 0.5  # type: ignore[index]
    assert tracked_values(line, ("a",))["train/grad_norm"] == 0.5
