"""Arguments that cannot work: one line on stderr and exit code 2."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from kept.cli.display import console
from support.command_line import complains, run

if TYPE_CHECKING:
    from pathlib import Path


WRONG = [
    ("inspect {new}/nowhere", "nowhere: is not a directory"),
    ("plan {new}/nowhere", "nowhere: is not a directory"),
    ("plan {orion} --to lama", "to: is 'lama'; did you mean llama?"),
    ("plan {orion} --norm omp", "norm: is 'omp'; did you mean opm?"),
    ("plan {orion} --dtype fp8", "dtype: is 'fp8'"),
    ("plan {orion} --context 0", "context: is 0"),
    ("plan {orion} --context 9999", "context: has 128 positions, 9999 were asked"),
    ("plan {orion} --dtype float16", "float16 overflows in the tail"),
    ("convert --recipe {new}/gone.toml", "gone.toml: there is no such recipe"),
    ("convert {orion} {out}", "out: exists already"),
    ("convert {orion} {orion}/out", "lies inside the source"),
    ("convert {orion} {orion}/config.json/x", "config.json is not a directory; choose another place"),
    ("heal {out} --loss ce --data {new} --out {new}/" + 300 * "x", "cannot be written (File name too long)"),
    ("cache-teacher {orion} --data {new} --out /proc/x", "/proc/x: cannot be written"),
    ("cache-teacher {orion} --data {orion}/config.json --sequence-length 64 --out {new}", "is not a teacher cache"),
    ("demo --out " + 300 * "x", "cannot be written (File name too long)"),
    ("report {out} --out /proc/x/report.html", "/proc/x/report.html: cannot be written"),
    ("export {out} {new}/model-00001-of-00002.gguf", "is the name of one of several parts"),
    ("convert {orion} {new}/o --text gone.txt", "gone.txt: cannot be read"),
    ("convert {orion} {new}/o --norm calibrated", "give --text FILE"),
    ("convert {orion} {new}/o --max-shard-size big", "max_shard_size: is 'big'"),
    ("convert {orion} {new}/o --verify-tokens 1", "verify_tokens: is 1"),
    ("verify {orion} {new}/nowhere", "nowhere: is not a directory"),
    ("verify {orion} {out} --text gone.txt", "gone.txt: cannot be read"),
    ("generate {new}/nowhere", "nowhere: is not a directory"),
    ("generate {out} --prompt ''", "the prompt is empty"),
    ("generate {out} --max-new-tokens 0", "max_new_tokens: is 0, it must be at least 1"),
    ("generate {out} --max-new-tokens 9999", "pass the model's 128 positions"),
]
"""Arguments that cannot work, and a part of the line that says so."""


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_what_is_wrong_is_one_line(orion: Path, out: Path, tmp_path: Path, arguments: str, words: str) -> None:
    assert words in complains(*shlex.split(arguments.format(orion=orion, out=out, new=tmp_path)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan"], "Missing argument 'SOURCE' (or --recipe)."),
        (["convert", "a"], "Missing argument 'OUT' (or --recipe)."),
        (["inspect"], "Missing argument 'PATH'."),
        (["convrt"], "No such command 'convrt'"),
        (["plan", "a", "--nrom", "opm"], "No such option"),
        (["plan", "a", "--context", "many"], "is not a valid integer"),
    ],
)
def test_a_command_that_is_not_one_is_click_s_kind_of_error(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(13, "Permission denied", "a"),
            "a: Permission denied; change its permissions, or choose another",
        ),
        (FileNotFoundError(2, "No such file", "a"), "a: No such file; it was there before; did another process move"),
        (OSError(5, "Input/output error", "a"), "a: Input/output error (KEPT_DEBUG=1 shows where)"),
        (ValueError("no"), "ValueError: no (KEPT_DEBUG=1 shows where)"),
    ],
)
def test_an_error_that_nobody_foresaw_is_one_line_too(
    orion: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("kept.commands.inspect.inspect", fails)
    assert complains("inspect", orion).startswith(line)


def test_a_line_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    console.complain("a\nb   c")
    assert capsys.readouterr().err == "kept: a b c\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("convert a b --shard-size 5GB", "--shard-size is now --max-shard-size."),
        ("eval a --suite h6", "--suite is now --tasks."),
        ("eval a --task piqa", "--task is now --tasks."),
        ("heal a --rate 1", "--rate is now --learning-rate."),
        ("shrink-expanded a b --below 1", "--below is now --max-kl."),
    ],
)
def test_the_error_for_a_former_option_gives_its_new_name(arguments: str, message: str) -> None:
    result = run(*arguments.split())
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith(message)


@pytest.mark.parametrize("file", ["/proc/x/e.json", "/dev/null/e.json", 300 * "x"])
def test_an_evaluation_that_cannot_be_written_is_not_measured(orion: Path, tmp_path: Path, file: str) -> None:
    results = tmp_path / "results"
    assert "cannot be written" in complains("eval", orion, "--results", results, "--out", file)
    assert not results.exists()
