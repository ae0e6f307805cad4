"""One rank or two: the same losses, and each goes on from the other's checkpoint."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kept.commands.heal import run_heal
from kept.loaded import open_model
from support.forks import torchrun
from support.heal_runs import STEPS, finish, folder_of, losses, noted, settings, start, start_meeting

if TYPE_CHECKING:
    from pathlib import Path

    from kept.distillation.settings import HealSettings

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.slow]


@pytest.fixture(scope="module")
def wanted(pair: tuple[Path, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run on one rank that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run_heal(settings(pair, corpus, out))
    return losses(out)


def toml(given: HealSettings) -> str:
    """A recipe; JSON's texts, numbers and lists are TOML's too."""
    table = {key: value for key, value in given.to_dict().items() if value is not None}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def test_torchrun_of_a_recipe_is_the_same_run(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, wanted: list[float]
) -> None:
    """The command line as it is documented, on two ranks; one of them shows."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml(settings(pair, corpus, tmp_path / "out")))
    done = torchrun(2, "heal", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "out") == pytest.approx(wanted, rel=1e-4)
    assert done.stdout.count("written") == 1
    assert done.stderr.count(f"{STEPS} steps of 128 tokens, on 2 processes") == 1
    assert done.stderr.count("held-out kl") == 4


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_checkpoint_is_for_any_number_of_ranks(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, wanted: list[float], before: int, after: int
) -> None:
    given = settings(pair, corpus, tmp_path / "out")
    assert -signal.SIGKILL in finish(start(given, "named 10", ranks=before))
    assert [*folder_of(tmp_path / "out").glob("step-*5")]
    assert finish(start(given, ranks=after)) == [0] * after
    assert losses(tmp_path / "out") == pytest.approx(wanted, rel=1e-4)


def test_ranks_end_together_and_save_when_one_is_told_to(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    """SIGTERM is sent to one rank; the save interval is measured on rank 0."""
    many = settings(pair, corpus, tmp_path / "out", tokens=100 * STEPS * 128, save_every=10**6, eval_every=10**6)
    processes = start(many, ranks=2)
    while not (folder_of(tmp_path / "out") / "metrics.jsonl").is_file() or not noted(tmp_path / "out"):
        assert all(process.is_alive() for process in processes)
        time.sleep(0.01)
    processes[1].terminate()
    for process in processes:
        process.join()
    (saved,) = folder_of(tmp_path / "out").glob("step-*")
    assert int(saved.name.removeprefix("step-")) == len(losses(tmp_path / "out"))


def test_ranks_save_after_minutes(pair: tuple[Path, Path], corpus: Path, tmp_path: Path, wanted: list[float]) -> None:
    given = settings(pair, corpus, tmp_path / "out", save_every=10**6, save_minutes=1e-9)
    assert -signal.SIGKILL in finish(start(given, "named 9", ranks=2))
    assert finish(start(given)) == [0]
    assert noted(tmp_path / "out", "run")[1]["step"] == 8
    assert losses(tmp_path / "out") == pytest.approx(wanted, rel=1e-4)


CHANGES: list[dict[str, Any]] = [
    {"batch_size": 1},
    {"batch_size": 3, "gradient_accumulation": 2, "dtype": "bfloat16", "gradient_checkpointing": True},
]


@pytest.mark.parametrize("changes", CHANGES, ids=["a row for two", "rows that do not divide"])
def test_ranks_without_a_row_of_their_own(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    one, two = (settings(pair, corpus, tmp_path / name, tokens=6 * 192, **changes) for name in ("one", "two"))
    run_heal(one)
    assert finish(start(two, ranks=2)) == [0, 0]
    tolerance = 1e-4 if one.dtype == "float32" else 1e-2  # sums of bfloat16 in another order
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=tolerance)
    gain = open_model(tmp_path / "two").program.weights["final_norm.gain"].read()
    assert not torch.equal(gain, gain.bfloat16().float()), "what learned is float32, whatever the arithmetic"


def test_ranks_wait_while_one_of_them_writes() -> None:
    assert finish(start_meeting()) == [0, 0]
