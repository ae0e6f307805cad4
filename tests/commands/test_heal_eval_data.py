"""Losses of single texts: sources weighted by the mixture, and texts that are measured and not trained on."""

from __future__ import annotations

import math
import signal
from typing import TYPE_CHECKING, Any

import pytest

import kept
from kept.cli.display import heal_progress
from kept.cli.display.healing import healed
from kept.commands.heal import run_heal
from kept.errors import InputError, RecipeError
from kept.output import heal_summary as words
from kept.output.record import read_record
from support.heal_data import write_lines
from support.heal_runs import finish, folder_of, noted, settings, start
from support.stored import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from kept.commands.heal_run import HealResult
    from kept.distillation.settings import HealSettings

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.slow]


def write_texts(file: Path, words: list[str], count: int) -> Path:
    """Lines of the same thirty words in different orders."""
    lines = [f"{i} " + " ".join(words[(i * k) % len(words)] for k in range(30)) for i in range(count)]
    return write_lines(file, *({"text": line} for line in lines))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus: all that is held out of it is measured, again and again."""
    return write_texts(tmp_path_factory.mktemp("corpus") / "lines.jsonl", ["once", "upon", "a", "time", "there"], 60)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of other words, and twice as many of them."""
    return write_texts(tmp_path_factory.mktemp("old") / "old.jsonl", ["seven", "ships", "sailed"], 120)


def asked(pair: tuple[Path, Path], corpus: Path, old: Path, out: Path, **changes: Any) -> HealSettings:
    """A run on new lines with old ones among them, without a teacher."""
    texts = {"data": (f"new={corpus}", f"replay={old}"), "mixture": "new=0.8,replay=0.2", "eval_data": (f"old={old}",)}
    return settings(pair, corpus, out, **{"teacher": None, "kl": 0.0, "ce": 1.0, **texts, **changes})


@pytest.fixture(scope="module")
def done(pair: tuple[Path, Path], corpus: Path, old: Path, tmp_path_factory: pytest.TempPathFactory) -> HealResult:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return run_heal(asked(pair, corpus, old, tmp_path_factory.mktemp("done") / "out"))


def test_sources_decide_as_the_mixture_weighs_them(done: HealResult) -> None:
    """By tokens the old lines, of which more are held out, would decide."""
    counts = done.record["healed"]["sources"]
    assert counts["replay"]["held_out_tokens"] > counts["new"]["held_out_tokens"]
    for one in done.history:
        assert set(one.sources) == {"new", "replay"}
        parts = [one.sources[name]["ce"] for name in ("new", "replay")]
        assert one.losses["ce"] == 0.8 * parts[0] + 0.2 * parts[1]
        assert one.losses["loss"] == one.losses["ce"]
        assert abs(parts[0] - parts[1]) > 0.01, "or the weights would not be seen"


def test_evaluation_texts_are_measured_and_recorded(done: HealResult) -> None:
    held = noted(done.path, "held-out")
    assert [line["step"] for line in held] == [one.step for one in done.history]
    for line, one in zip(held, done.history, strict=True):
        assert (line["eval_data"], line["sources"]) == (one.eval_data, one.sources)
        assert set(one.eval_data["old"]) == {"ce"}
        assert 0 < one.eval_data["old"]["ce"] < math.inf
    assert done.record["healed"]["groups"]["student"]["held_out"][-1]["eval_data"] == done.history[-1].eval_data
    assert noted(done.path, "run")[0]["eval_data"] == ["old"]


def test_watching_changes_nothing(
    done: HealResult, pair: tuple[Path, Path], corpus: Path, old: Path, tmp_path: Path
) -> None:
    alone = run_heal(asked(pair, corpus, old, tmp_path / "out", eval_data=()))
    assert [one.losses for one in alone.history] == [one.losses for one in done.history]
    name = "model.safetensors"
    assert (alone.path / name).read_bytes() == (done.path / name).read_bytes()
    assert "eval_data" not in alone.record["healed"]["read"]
    assert not alone.history[0].eval_data


def test_on_two_ranks_and_then_on_one_the_same_is_measured(
    done: HealResult, pair: tuple[Path, Path], corpus: Path, old: Path, tmp_path: Path
) -> None:
    given = asked(pair, corpus, old, tmp_path / "out")
    assert -signal.SIGKILL in finish(start(given, "named 10", ranks=2))
    again = run_heal(given)
    for one, other in zip(again.history, done.history, strict=True):
        assert one.eval_data["old"] == pytest.approx(other.eval_data["old"], rel=1e-4)
        for name, found in one.sources.items():
            assert found == pytest.approx(other.sources[name], rel=1e-4)


def test_other_evaluation_texts_are_another_run(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    file = tmp_path / "eval_data.txt"
    file.write_text("seven ships sailed\n")
    given = settings(pair, corpus, tmp_path / "out", eval_data=(f"old={file}",))
    assert finish(start(given, "named 10")) != [0]
    file.write_text("seven ships sank\n")
    with pytest.raises(InputError, match="is a run that read other contents of eval_data"):
        run_heal(given)


def test_the_card_and_the_report_tell_both(done: HealResult) -> None:
    record = read_record(done.path)
    assert record is not None
    assert record.healed is not None
    _, rows = words.held_out(record.healed)
    named = [row[0] for row in rows]
    assert "cross-entropy with replay, nats per token" in named
    assert "cross-entropy with old (evaluation data), nats per token" in named
    assert "(evaluation data)" in (done.path / "README.md").read_text()
    page = kept.report(done.path).path.read_text(encoding="utf-8")
    assert "Each text by itself, against trained tokens." in page
    assert "old (evaluation data) from " in page


def test_the_live_table_has_a_column_for_it(done: HealResult, capsys: pytest.CaptureFixture[str]) -> None:
    begin, held = (noted(done.path, kind)[0] for kind in ("run", "held-out"))
    with heal_progress.HealProgress() as watch:
        watch({**begin, "groups": ["student"]})
        watch({"kind": "held-out", "step": 0, "groups": {"student": {**held, "agreement": math.nan}}})
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"step 0/12, held-out loss {held['loss']:.4f}, old ce {held['eval_data']['old']['ce']:.4f}")
    assert "nan" not in said


def test_tensorboard_has_a_point_for_each(done: HealResult) -> None:
    written = b"".join(file.read_bytes() for file in (folder_of(done.path) / "tensorboard").iterdir())
    assert b"held-out/student/eval_data/old/ce" in written
    assert b"held-out/student/sources/replay/ce" in written


def test_wrong_evaluation_texts_are_refused(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    for watch, message in (
        (("old=nowhere.txt",), "nowhere.txt: does not exist"),
        (("a=x", "a=y"), "eval_data: x and y are both named 'a'"),
        (("old=",), "eval_data: 'old=' names no file"),
    ):
        with pytest.raises((InputError, RecipeError), match=message):
            run_heal(settings(pair, corpus, tmp_path / "out", eval_data=watch))
    assert not (tmp_path / "out").exists()


def test_the_record_is_what_was_asked(done: HealResult) -> None:
    record = read_json(done.path / "kept.json")["healed"]
    assert [text.split("=")[0] for text in record["settings"]["eval_data"]] == ["old"]
    assert set(record["read"]) == {"student", "data", "eval_data"}


def test_the_end_of_a_run_is_in_words(done: HealResult, capsys: pytest.CaptureFixture[str]) -> None:
    healed(done)
    said = capsys.readouterr().out
    before, after = (one.eval_data["old"]["ce"] for one in (done.history[0], done.best))
    assert [f"{before:.4g}", f"{after:.4g}"] == next(x for x in said.splitlines() if "(evaluation data)" in x).split()[
        -2:
    ]
    assert "top-1 agreement" not in said, "there is no teacher"
