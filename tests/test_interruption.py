"""SIGTERM ends a command as Ctrl-C does: one line, no partial output, and the same command continues."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from kept.cli.root import main
from kept.evaluation import scoring
from kept.interruption import Terminated, held, terminable
from support.stored import PROSE, all_bytes, split_into_shards, write_readable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAID = "kept: interrupted; the same command continues\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_into_shards(write_readable(tmp_path_factory.mktemp("source") / "orion", "orion"), 3)


def after(calls: int, original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that SIGTERM is sent before one of its calls."""
    made = iter(range(calls))

    def call(*given: Any, **options: Any) -> Any:
        if next(made, None) is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*given, **options)

    return call


def ended(words: list[str], exit_code: int) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == exit_code, result.output
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    return result.stderr


def test_a_conversion(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def words(name: str) -> list[str]:
        return ["convert", str(source), str(tmp_path / name), "--max-shard-size", "40KB", "--verify-tokens", "0"]

    ended(words("whole"), 0)
    with monkeypatch.context() as patched:
        from kept.checkpoint import staging

        patched.setattr(staging, "_write", after(2, staging._write))
        assert ended(words("out"), 143).endswith(SAID)
    hidden = tmp_path / ".out.kept-partial"
    assert sorted(file.suffix for file in hidden.glob("*.*")).count(".safetensors") == 2
    assert not [*hidden.glob("*.part")]
    ended(words("out"), 0)
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "whole"]


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", bytes(500), b'{"a": 1}\nnonsense\n'])
def test_a_damaged_journal_of_a_conversion_begins_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    from kept.checkpoint import staging

    words = ["convert", str(source), str(tmp_path / "out"), "--max-shard-size", "40KB", "--verify-tokens", "0"]
    with monkeypatch.context() as patched:
        patched.setattr(staging, "_write", after(2, staging._write))
        ended(words, 143)
    (tmp_path / ".out.kept-partial" / staging.JOURNAL).write_bytes(damage)
    ended(words, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_an_evaluation(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished steps are written before the command ends."""
    (tmp_path / "text").write_text(PROSE, encoding="utf-8")
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 1)
    words = ["eval", str(source), "--text", f"a={tmp_path}/text", "--window", "64", "--results"]
    ended([*words, str(tmp_path / "whole")], 0)
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "score_rows", after(3, scoring.score_rows))
        assert ended([*words, str(tmp_path / "results")], 143).endswith(SAID)
    (begun,) = (tmp_path / "results").iterdir()
    assert len(begun.read_bytes().splitlines()) == 1 + 3
    ended([*words, str(tmp_path / "results")], 0)
    assert all_bytes(tmp_path / "results") == all_bytes(tmp_path / "whole")


def test_a_handler_of_somebody_else_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that uses the library may install its own handler."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with terminable(), held() as interrupted:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not interrupted
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_the_first_is_noted_and_the_second_raised() -> None:
    with terminable(), held() as interrupted:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted
        assert interrupted.error is Terminated
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)


def test_ranks_are_patient() -> None:
    """torchrun forwards signals that the terminal has already sent."""
    with held(patient=True) as interrupted:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert interrupted.number == signal.SIGTERM
