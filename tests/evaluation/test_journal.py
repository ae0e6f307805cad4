"""An interrupted evaluation continues after its last step, with the result of an uninterrupted one."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import kept
from kept.errors import OutputError
from kept.evaluation import journal
from kept.evaluation.journal import Journal
from support.shared_data import DATA, needs_data
from support.stored import PROSE, all_bytes, write_readable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVALS = DATA / "evals"


@pytest.fixture
def _each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write each step immediately, and make steps as small as possible."""
    monkeypatch.setattr(journal, "SECONDS", 0.0)
    for module in ("scoring", "answering"):
        monkeypatch.setattr(f"kept.evaluation.{module}.BATCH_TOKENS", 1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("llama") / "llama", "llama", max_position_embeddings=256)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "prose.txt"
    file.write_text(PROSE, encoding="utf-8")
    return file


class Counting:
    """Counts computed steps and interrupts the evaluation before a given one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: float = math.inf) -> None:
        self.computed, self.stop = 0, stop
        original = Journal.take

        def take(mine: Journal, step: Callable[[], Any]) -> Any:
            return original(mine, partial(self.step, step))

        monkeypatch.setattr(Journal, "take", take)

    def step(self, step: Callable[[], Any]) -> Any:
        if self.computed == self.stop:
            raise KeyboardInterrupt
        self.computed += 1
        return step()


ASKED: dict[str, dict[str, Any]] = {
    "text": {"window": 64, "stride": 32},
    "positions": {"tasks": ("positions",), "max_length": 128},
    "passkey": {"tasks": ("passkey",), "max_length": 256, "limit": 1},
    "agreement": {"tasks": ("agreement",), "limit": 4},
    "winogrande": {"tasks": ("winogrande",), "limit": 6, "data": EVALS},
    "gsm8k": {"tasks": ("gsm8k",), "limit": 3, "data": EVALS},
}


@needs_data
@pytest.mark.usefixtures("_each_step")
@pytest.mark.parametrize("name", ASKED)
def test_interrupted_in_the_middle_it_continues_with_the_next_step(
    llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The result is byte-identical, no step is computed twice, and no journal is left."""
    asked = ASKED[name] if name in {"winogrande", "gsm8k"} else {"texts": {"prose": text}, **ASKED[name]}
    models = (llama, f"again={llama}") if name == "agreement" else (llama,)
    with monkeypatch.context() as patched:
        whole = Counting(patched)
        kept.evaluate(*models, results=tmp_path / "whole", **asked)
    assert whole.computed >= 3
    computed = 0
    for stop in (whole.computed // 2, 1):
        with monkeypatch.context() as patched:
            part = Counting(patched, stop)
            with pytest.raises(KeyboardInterrupt):
                kept.evaluate(*models, results=tmp_path / "broken", **asked)
        computed += part.computed
    with monkeypatch.context() as patched:
        rest = Counting(patched)
        kept.evaluate(*models, results=tmp_path / "broken", **asked)
    assert computed + rest.computed == whole.computed
    assert all_bytes(tmp_path / "broken") == all_bytes(tmp_path / "whole")


# --------------------------------------------------------------------------------------------------------- journal file


def taken(file: Path, count: int, key: str = "key", stop: int | None = None) -> list[Any]:
    """Take `count` steps, check their values, and return the numbers of those that were computed."""
    mine, out = Journal(), []

    def step(number: int) -> dict[str, Any]:
        if number == stop:
            raise KeyboardInterrupt
        out.append(number)
        return {"value": number / 7, "nan": math.nan, "text": "a\n\u2028b"}

    with mine.kept_in(file, key):
        found = [mine.take(partial(step, number)) for number in range(count)]
    assert [one["value"] for one in found] == [number / 7 for number in range(count)]
    return out


def interrupted(file: Path, stop: int, key: str = "key") -> None:
    with pytest.raises(KeyboardInterrupt):
        taken(file, stop + 1, key, stop)


def test_steps_are_written_when_the_measurement_is_interrupted(tmp_path: Path) -> None:
    """Otherwise steps are written every five seconds, and a short evaluation writes no journal."""
    file = tmp_path / "begun"
    interrupted(file, 3)
    assert len(file.read_bytes().splitlines()) == 4
    interrupted(file, 3)
    interrupted(file, 5)
    assert taken(file, 7) == [5, 6]


def test_before_the_first_step_there_is_no_file(tmp_path: Path) -> None:
    interrupted(tmp_path / "begun", 0)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda content: content[:-1], 3),
        (lambda content: content[:-5], 3),
        (lambda content: content + b"0000", 4),
        (lambda content: content[:30] + b"#" + content[31:], 0),
        (lambda content: content[:3], 0),
        (lambda _: b"", 0),
        (lambda _: bytes(1000), 0),
        (lambda _: b"\xff" * 1000, 0),
    ],
)
def test_what_is_damaged_is_computed_again(tmp_path: Path, damage: Callable[[bytes], bytes], left: int) -> None:
    file = tmp_path / "begun"
    interrupted(file, 4)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert taken(file, 5) == [*range(left, 5)]
    file.write_bytes(damage(whole))
    interrupted(file, 4)
    assert file.read_bytes() == whole


def test_another_measurement_begins_anew(tmp_path: Path) -> None:
    interrupted(tmp_path / "begun", 4)
    assert taken(tmp_path / "begun", 5, "other") == [*range(5)]


def test_two_at_once_do_not_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "begun"
    interrupted(file, 4)
    with Journal().kept_in(file, "key"):
        assert taken(file, 5) == [*range(5)]
    assert taken(file, 5) == [4]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "begun").symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match="cannot be written"):
        taken(tmp_path / "begun", 1)
    assert not (tmp_path / "mine").exists()
