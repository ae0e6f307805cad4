"""Killed at any moment, the same command ends with the losses and the bytes of a run that nothing interrupted."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kept.commands.heal import run_heal
from kept.distillation.train.trainer import Trainer
from kept.errors import CheckpointError, OutputError
from kept.interruption import Terminated
from support.heal_runs import STEPS, finish, folder_of, losses, noted, settings, start
from support.stored import all_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kept.distillation.settings import HealSettings

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.slow]

KILLED = [-signal.SIGKILL]


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C raises, as in a shell's foreground: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


KINDS: list[dict[str, Any]] = [{}, {"batch_size": 2, "gradient_accumulation": 2}, {"dtype": "bfloat16"}]


def same_run(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    assert noted(one, "held-out") == noted(other, "held-out")
    assert all_bytes(one) == all_bytes(other)


def kill_and_finish(given: HealSettings, moment: str) -> None:
    assert finish(start(given, moment)) == KILLED
    assert finish(start(given)) == [0]


def lines(out: Path) -> int:
    """How much a run has noted."""
    file = folder_of(out) / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


@pytest.mark.parametrize("changes", KINDS, ids=["plain", "accumulated", "bfloat16"])
def test_killed_at_random_moments(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """At random steps, twice; a checkpoint is written most of the time."""
    many = {"save_every": 2, "tokens": 2 * STEPS * 128, **changes}
    whole, broken = (settings(pair, corpus, tmp_path / name, **many) for name in ("whole", "broken"))
    run_heal(whole)
    chance = random.Random(str(changes))
    for moment in sorted(chance.sample(range(2, 2 * STEPS), 2)):
        (run,) = start(broken)
        while lines(tmp_path / "broken") < moment:
            assert run.is_alive()
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.01))
        run.kill()
        assert finish([run]) == KILLED
    assert finish(start(broken)) == [0]
    same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("moment", ["step 1", "step 7", "writing 5", "named 10"])
def test_killed_at_a_moment(pair: tuple[Path, Path], corpus: Path, tmp_path: Path, moment: str) -> None:
    """At a step, while a checkpoint is written, and when it is written and has no name yet."""
    whole, broken = (settings(pair, corpus, tmp_path / name) for name in ("whole", "broken"))
    run_heal(whole)
    kill_and_finish(broken, moment)
    same_run(tmp_path / "whole", tmp_path / "broken")


def interrupt_at(
    step: int, *, again: bool, monkeypatch: pytest.MonkeyPatch, number: signal.Signals = signal.SIGINT
) -> None:
    """Send SIGINT, or another signal, during a step, once or twice."""
    original = Trainer._update

    def update(self: Trainer) -> Any:
        if self.step == step:
            os.kill(os.getpid(), number)
            if again:
                os.kill(os.getpid(), number)
        return original(self)

    monkeypatch.setattr(Trainer, "_update", update)


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupted_run_saves_its_step(
    pair: tuple[Path, Path],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    raised: type[KeyboardInterrupt],
) -> None:
    whole, broken = (settings(pair, corpus, tmp_path / name) for name in ("whole", "broken"))
    run_heal(whole)
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        interrupt_at(2, again=False, monkeypatch=patched, number=number)
        with pytest.raises(
            KeyboardInterrupt, match="after step 3; the same command continues from the checkpoint of step 3"
        ) as found:
            run_heal(broken)
    assert found.type is raised
    assert signal.getsignal(number) is before
    run_heal(broken)
    same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize(
    ("step", "words"),
    [
        (2, "after step 2, before the first checkpoint; the same command starts over"),
        (7, "after step 7; the same command continues from the checkpoint of step 5"),
    ],
)
def test_a_second_interruption_saves_nothing_more(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, words: str
) -> None:
    interrupt_at(step, again=True, monkeypatch=monkeypatch)
    with pytest.raises(KeyboardInterrupt, match=words):
        run_heal(settings(pair, corpus, tmp_path / "out"))


def test_a_run_saves_after_minutes_too(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    """The output does not depend on when checkpoints are written, and the interval may change on continuation."""
    whole, broken = (settings(pair, corpus, tmp_path / name, save_every=100) for name in ("whole", "broken"))
    run_heal(whole)
    kill_and_finish(broken, "step 7")
    assert [line["step"] for line in noted(tmp_path / "broken", "run")] == [0], "ten minutes had not passed"
    shutil.rmtree(folder_of(tmp_path / "broken"))
    shutil.rmtree(tmp_path / "broken")
    assert finish(start(replace(broken, save_minutes=1e-9), "step 7")) == KILLED
    assert finish(start(broken)) == [0]
    assert [line["step"] for line in noted(tmp_path / "broken", "run")] == [0, 6]
    same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_checkpoint_without_a_name_is_never_picked_up(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    given = settings(pair, corpus, tmp_path / "out")
    assert finish(start(given, "writing 10")) == KILLED
    folder = folder_of(tmp_path / "out")
    half = folder / "step-00000010.partial"  # it may or may not have been begun
    shutil.copytree(folder / "step-00000005", half, dirs_exist_ok=True)
    for file in half.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert finish(start(given)) == [0]
    assert [line["step"] for line in noted(tmp_path / "out", "run")] == [0, 5]
    assert not [*folder.glob("*.partial")]
    assert len(losses(tmp_path / "out")) == STEPS


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def linked(file: Path) -> None:
    file.symlink_to(file.rename(file.parent.parent / "elsewhere"))


def piped(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


RANK = r"rank-00000-of-00001\.safetensors"

DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "cut": ("rank-*", lambda file: file.write_bytes(file.read_bytes()[:500]), rf"{RANK}: not as written"),
    "a bit": ("rank-*", flip, rf"{RANK}: not as written"),
    "a link": ("rank-*", linked, rf"{RANK}: not as written"),
    "a pipe": ("rank-*", piped, rf"{RANK}: not as written"),
    "zeros": ("state.json", lambda file: file.write_bytes(bytes(99)), r"state\.json: not as written"),
    "lost": ("state.json", lambda file: file.unlink(), r"state\.json: not as written"),
    "no sums": ("sums.json", lambda file: file.unlink(), r".*sums\.json: missing.*"),
    "no JSON": ("sums.json", lambda file: file.write_bytes(b"{"), r".*sums\.json: cannot be read as JSON .*"),
    "no texts": (
        "sums.json",
        lambda file: file.write_bytes(b'{"a": 1}'),
        r"sums\.json: a: is 1, it should be a valid string",
    ),
}


def test_a_damaged_checkpoint_is_one_line(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """However it was damaged; without it the run begins anew, though a file has the name of another."""
    given = settings(pair, corpus, tmp_path / "out")
    assert finish(start(given, "named 10")) == KILLED
    place = folder_of(tmp_path / "out") / "step-00000005"
    shutil.copytree(place, tmp_path / "whole")
    for pattern, damage, said in DAMAGES.values():
        (file,) = place.glob(pattern)
        damage(file)
        capfd.readouterr()
        with pytest.raises(CheckpointError, match=rf"step-00000005: is damaged \({said}\); remove it to resume"):
            run_heal(given)
        assert "Traceback" not in capfd.readouterr().err
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "whole", place)
    (place.parent / "step-00000009.partial").touch()
    run_heal(given)
    assert [line["step"] for line in noted(tmp_path / "out", "run")] == [0, 5]


def test_killed_when_the_result_has_its_name_the_checkpoints_go_with_the_next_call(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, folder = settings(pair, corpus, tmp_path / "out"), folder_of(tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr("kept.commands.heal_run.remove_checkpoints", lambda *_: None)
        run_heal(given)
    assert [*folder.glob("step-*")]
    with pytest.raises(OutputError, match="exists already"):
        run_heal(replace(given, learning_rate=1.0))
    assert [*folder.glob("step-*")], "they are another command's"
    with pytest.raises(OutputError, match="exists already"):
        run_heal(given)
    assert not [*folder.glob("step-*")]


def test_a_torn_line_of_metrics_is_written_again(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    given = settings(pair, corpus, tmp_path / "out")
    assert finish(start(given, "step 8")) == KILLED
    with (folder_of(tmp_path / "out") / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    run_heal(given)
    assert len(losses(tmp_path / "out")) == STEPS
