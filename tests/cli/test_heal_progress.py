"""Output of `kept heal`: before the run, during it, and on errors."""

from __future__ import annotations

import math
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from kept.cli.display import console, heal_progress, healing
from kept.cli.root import main
from kept.distillation.train.measurement import GroupHistory, Measurement
from kept.formatting import duration
from support.heal_runs import STEPS, finish, folder_of, losses, settings, start
from support.small_disk import mounted, small_file_system
from support.stored import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.usefixtures("cache")

SMALL = [
    "--batch-size",
    "4",
    "--sequence-length",
    "32",
    "--learning-rate",
    "1e-2",
    "--eval-every",
    "4",
    "--save-every",
    "5",
]


def arguments(pair: tuple[Path, Path], corpus: Path, out: Path, *more: object) -> list[str]:
    """The command line of the documentation, for a small model."""
    named = {"--teacher": pair[0], "--data": corpus, "--train": "norms", "--tokens": "1.536K", "--out": out}
    options = [str(word) for option in named.items() for word in option]
    return ["heal", str(pair[1]), *options, *SMALL, *map(str, more)]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_line_of_the_documentation(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    result = run(*arguments(pair, corpus.parent, tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert f"{tmp_path}/out: written" in result.stdout
    lines = [line for line in result.stderr.splitlines() if not line.startswith("tokenise: ")]
    assert lines[:3] == [
        "448 of 134 K parameters are trainable (norms); with gradients and AdamW states they take 7.17 KB",
        lines[1],
        f"{STEPS} steps of 128 tokens, on 1 process",
    ]
    assert re.fullmatch(r"corpus\d+: \d+ documents, [\d.]+ K tokens; held out \d+ documents?, \d+ tokens", lines[1])
    measured = [re.match(r"step (\d+)/12, .*held-out kl \d+\.\d{4}, top-1 agreement \d+\.\d\d %", x) for x in lines]
    assert [found[1] for found in measured if found] == ["0", "4", "8", "12"]
    assert re.search(r"step 4/12, loss [\d.]+, .*, tokens/s \d+, time left \d+ s", result.stderr)


def test_flags_win_over_a_recipe(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    rows = {"student": pair[1], "teacher": pair[0], "data": corpus, "out": tmp_path / "out", "tokens": "1K"}
    recipe.write_text(
        "".join(f"{k} = '{v}'\n" for k, v in rows.items()) + "batch_size = 4\nsequence_length = 32\ncompile = true\n"
    )
    result = run("heal", recipe, "--tokens", "512", "--no-compile", "--json")
    assert result.exit_code == 0, result.output
    asked = read_json(tmp_path / "out" / "kept.json")["healed"]["settings"]
    assert (asked["tokens"], asked["batch_size"], asked["compile"]) == (512, 4, False)


def test_where_it_goes_on_is_said(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    assert finish(start(settings(pair, corpus, tmp_path / "out"), "named 10")) != [0]
    result = run(*arguments(pair, corpus, tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "resumes after step 5\n" in result.stderr
    assert len(losses(tmp_path / "out")) == STEPS


# --------------------------------------------------------------------------------------------------- the live table

BEGIN: dict[str, Any] = {
    "kind": "run",
    "step": 0,
    "steps": 100,
    "tokens_a_step": 2048,
    "tokens_asked": 205_000,
    "teacher_cache": None,
    "ranks": 2,
    "train": "norms",
    "groups": ["student"],
    "parameters": 1_000,
    "of": 14_000_000_000,
    "optimiser_bytes": 16_000,
    "sources": {"en": {"documents": 5, "tokens": 7_000, "held_out_documents": 1, "held_out_tokens": 90}},
    "tensorboard": False,
}

STEP: dict[str, Any] = {
    "kind": "step",
    "step": 50,
    "tokens_per_second": 4321.0,
    "groups": {"student": {"loss": 0.5, "kl": 0.5, "ce": 2.0}},
}

HELD: dict[str, Any] = {
    "kind": "held-out",
    "step": 50,
    "groups": {"student": {"loss": 0.7, "kl": 0.25, "ce": 2.0, "agreement": 0.9}},
}


def test_what_is_said_before_a_run() -> None:
    assert heal_progress.about(BEGIN) == [
        "1 K of 14 B parameters are trainable (norms); with gradients and AdamW states they take 16 KB",
        "en: 5 documents, 7 K tokens; held out 1 document, 90 tokens",
        "100 steps of 2,048 tokens: 204,800 of 205,000 requested tokens, on 2 processes",
        "no TensorBoard files are written; to get them: pip install 'kept[heal]'",
    ]


def test_a_teacher_that_is_read_is_said() -> None:
    cached = {**BEGIN, "teacher_cache": {"path": "out/teacher", "k": 16, "tail": 0.347}}
    assert "teacher: out/teacher, top 16 tokens per position, 35 % of the probability left out" in heal_progress.about(
        cached
    )


def step(number: int, speed: float) -> dict[str, Any]:
    return {**STEP, "step": number, "tokens_per_second": speed}


def test_without_a_terminal_a_step_is_said_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step, which is slow, is left out of the rate and of the time that is left."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with heal_progress.HealProgress() as watch:
        watch(BEGIN)
        capsys.readouterr()
        for at, number, speed in ((20.0, 1, 100.0), (25.0, 2, 400.0), (31.0, 3, 200.0), (36.0, 4, 1.0)):
            now = at
            watch(step(number, speed))
    assert capsys.readouterr().err == "step 3/100, loss 0.5000, tokens/s 267, time left 9 min\n"


def test_several_groups_have_a_median_a_worst_and_a_number_that_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    groups = {f"layer {n}": {"loss": loss} for n, loss in enumerate([0.5, 0.25, 3.0, math.nan])}
    with heal_progress.HealProgress() as watch:
        watch({**BEGIN, "groups": [*groups]})
        capsys.readouterr()
        watch({**STEP, "groups": groups})
        watch({"kind": "stopped", "step": 50, "group": "layer 3", "why": "its loss is nan"})
        del groups["layer 3"]
        watch({**HELD, "groups": groups})
    assert capsys.readouterr().err.splitlines() == [
        "layer 3 is stopped: its loss is nan",
        "step 50/100, loss 0.5000 (worst 3.0000), held-out loss 0.5000 (worst 3.0000), stopped 1, tokens/s 4321",
    ]


def test_a_layerwise_run_shows_each_branch_before_and_now(capsys: pytest.CaptureFixture[str]) -> None:
    """The table below the measurements; the branches are in columns."""
    with heal_progress.HealProgress() as watch:
        watch({**BEGIN, "groups": [f"layers.{n}.mixer" for n in range(4)]})
        for loss in (0.5, 0.25):
            watch({**HELD, "groups": {f"layers.{n}.mixer": {"loss": loss + n} for n in range(4)}})
            watch({"kind": "refit", "step": 0, "moved": 4, "kept": ["layers.0.mixer"]})
        watch({"kind": "stopped", "step": 3, "group": "layers.2.mixer", "why": "NaN"})
        console.printer(stderr=True).print(watch._display())
    shown = capsys.readouterr().err
    assert "least-squares refit: kept for 1 of 4 branches, whose held-out error fell" in shown
    first, second = shown.splitlines()[-2:]
    assert re.fullmatch(r"layers.0.mixer 0.5 -> 0.25 +layers.2.mixer 2.5 -> 2.25 stopped *", first)
    assert re.fullmatch(r"layers.1.mixer 1.5 -> 1.25 +layers.3.mixer 3.5 -> 3.25 *", second)


def test_the_result_of_several_groups_is_a_row_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    """The group that was stopped has the reason."""
    measured = [Measurement(step, 10 * step, {"loss": loss}, math.nan) for step, loss in ((0, 2.0), (5, 1.0), (9, 3.0))]
    groups = {"a": GroupHistory(tuple(measured)), "b": GroupHistory(tuple(measured[:1]), "step 3: its loss is nan")}
    console.printer().print(healing.of_groups(groups))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["a", "2", "1", "5"] in rows
    assert ["b", "2", "2", "0", "step", "3:", "its", "loss", "is", "nan"] in rows


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stderr, as it is now, pass for one."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for name, value in {"TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)


def test_a_terminal_has_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with heal_progress.HealProgress() as watch:
        for at, line in ((0.0, BEGIN), (5.0, step(1, 9.0)), (54.0, STEP), (54.0, HELD), (60.0, {"kind": "end"})):
            now = at
            watch(line)
    captured = capsys.readouterr()
    assert captured.out == ""
    last = [line.strip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", captured.err).splitlines() if line.strip()]
    assert "50/100  0.5000  kl 0.2500  90.00 %          4321      50 s" in last
    assert {"step", "loss", "held-out", "top-1 agreement", "tokens/s", "time left"} <= {*last}


def test_an_interrupted_live_table_restores_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch)
    with heal_progress.HealProgress() as watch:
        watch(BEGIN)  # and no end
    assert capsys.readouterr().err.rstrip().endswith("\x1b[?25h"), "the cursor is back"


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (600, "10 min"), (36_000, "10.0 h")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_another_rank_shows_nothing(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kept import reporting

    monkeypatch.setenv("RANK", "1")
    assert not reporting.shows()
    monkeypatch.setenv("RANK", "0")
    assert reporting.shows()


# ------------------------------------------------------------------------------------------- what is wrong, in a line

WRONG = [
    (["--tokens", "many"], "tokens: is 'many', write it as 2M, 500K or 2000000"),
    (
        ["--train", "new"],
        "train: 'new' is what kept expand or a conversion made, and the student's kept.json lists nothing",
    ),
    (["--sequence-length", "129"], "sequence_length: is 129, .*plain has 128 positions; make sequences shorter"),
    (["--teacher", "/nowhere/teacher"], "/nowhere/teacher: is not a directory"),
    (["--data", "/nowhere/data"], "/nowhere/data: does not exist; name a file or a directory of documents"),
    (["--mixture", "english=0.7"], "mixture: weighs english, but data has lines; name the same"),
    (["--out", "/"], "/: exists already; choose another output, or --force"),
]


@pytest.mark.parametrize(("more", "words"), WRONG, ids=[words[0] for words, _ in WRONG])
def test_what_is_wrong_is_one_line(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, more: list[str], words: str
) -> None:
    given = [word for word in arguments(pair, corpus, tmp_path / "out") if word != str(corpus) or more[0] != "--data"]
    given = [word for word in given if word != "--data"] if more[0] == "--data" else given
    result = run(*given, *more)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert re.match(f"kept: .*{words}", line)
    assert not [*tmp_path.iterdir()], "nothing was begun"


def test_a_model_that_does_not_exist_is_named_by_its_key(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"student = '{tmp_path}/no'\nteacher = 't'\nout = '{tmp_path}/out'\n")
    for words in (["heal", recipe], ["plan", recipe, "--cluster", "h100"]):
        result = run(*words)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"kept: {recipe}: student: {tmp_path}/no")


def test_without_an_output_there_is_nowhere_to_write() -> None:
    result = run("heal", "student", "--teacher", "teacher")
    assert (result.exit_code, result.stderr) == (2, "kept: out: is missing; say where it is\n")


# ------------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    with small_file_system(tmp_path / "disk", "64k") as place:
        yield place


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    pair: tuple[Path, Path], corpus: Path, small_disk: Path
) -> None:
    out = small_disk / "out"
    given = arguments(pair, corpus, out, "--train", "all")
    result = run(*given)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("kept: ")]
    what = r"(/step-00000005\.partial: a checkpoint|: metrics) cannot be written"
    why = r"\((No space left on device|a file was cut short)\)"
    assert re.match(f"kept: {folder_of(out)}{what} {why}; free space or permissions\\?", line)
    assert "Traceback" not in result.stderr
    assert not out.exists()
    assert not [*folder_of(out).glob("step-*[0-9]")]
    assert mounted("-o", "remount,size=32m", small_disk)
    result = run(*given)
    assert result.exit_code == 0, result.output
    assert len(losses(out)) == STEPS


@pytest.mark.parametrize(
    ("train", "limit", "where"),
    [
        ("all", 100_000, ".out.kept-healing/step-00000005.partial: a checkpoint"),
        ("norms", 100_000, "out:"),
        ("norms", 2_000, ".out.kept-healing: metrics"),
        ("norms", 500, ".out.kept-healing:"),
    ],
)
def test_a_file_without_room_is_one_line(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, train: str, limit: int, where: str
) -> None:
    """Each kind of file in turn is the first that is too large."""
    given = settings(pair, corpus, tmp_path / "out", train=train, save_every=5 if train == "all" else 100)
    assert finish(start(given, limit=limit)) == [2]
    said = (tmp_path / "out.error").read_text()
    why = r"\((File too large|a file was cut short)\)"
    assert re.fullmatch(f"{tmp_path}/{where} cannot be written {why}; free space or permissions\\?", said)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.kept-partial").exists(), "no shard was finished"
    assert not [*folder_of(tmp_path / "out").glob("*.partial")], "what was begun is removed"
    assert finish(start(given)) == [0]
    assert len(losses(tmp_path / "out")) == STEPS
