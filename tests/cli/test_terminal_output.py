"""Terminal output: escaped control characters, and closed or full streams."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import kept
from kept import progress_bars as progress
from kept.cli.display import console
from kept.cli.root import main
from kept.errors import UNSHOWN, WAYS_OUT, cause, shown
from kept.output.model_card import plain
from support.stored import write_readable

NASTY = "\x1b[31mred\x07\x9b2J\u202egnp\rkept: all is well"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("source") / "model", "llama")


def shell(line: str, **environment: str) -> tuple[int, str]:
    """Run a line of bash in which `kept` is the command; return its exit code and standard error."""
    kept_ = f'kept() {{ "{sys.executable}" -m kept "$@"; }}; set -o pipefail; {line}'
    done = subprocess.run(
        ["/bin/bash", "-c", kept_], stderr=subprocess.PIPE, text=True, check=False, env={**os.environ, **environment}
    )
    return done.returncode, done.stderr


FULL = "kept: standard output: cannot be written (No space left on device)\n"

REFUSED = "kept plan PATH --to TARGET, or --verbose, says where and what to do instead\n"
"""The hint about the targets that are refused."""


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("kept inspect {source} --json | true", 141, ""),
        ("kept --help | true", 141, ""),
        ("kept inspect {source} > /dev/full", 2, FULL),
        ("kept --help > /dev/full", 2, FULL),
        ("kept --version > /dev/full", 2, FULL),
        ("kept inspect {source} >&-", 2, "kept: standard output is closed; send it to a file, or to /dev/null\n"),
        ("kept inspect {source} <&- > /dev/null", 0, REFUSED),
        ("kept inspect {source} 2>&- > /dev/null", 0, ""),
        ("kept inspect /nowhere 2> /dev/full", 2, ""),
        ("kept inspect /nowhere <&- >&- 2>&-", 2, ""),
    ],
)
def test_streams_that_are_closed_or_full(source: Path, line: str, code: int, said: str) -> None:
    if "/dev/full" in line and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    assert shell(line.format(source=source)) == (code, said)


def test_an_output_is_not_taken_for_a_stream(source: Path, tmp_path: Path) -> None:
    """With descriptors 0 to 2 closed, the first opened file would get one of their numbers."""
    code, _ = shell(f"kept convert {source} {tmp_path}/out --verify-tokens 0 > {tmp_path}/said <&- 2>&-")
    assert code == 0
    assert not (tmp_path / "said").read_text().startswith("kept:")
    assert CliRunner().invoke(main, ["check", str(tmp_path / "out")]).exit_code == 0


def test_another_locale(source: Path) -> None:
    plain_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code, said = shell(f"kept generate {source} --prompt é --max-new-tokens 1", **plain_locale)
    assert (code, said) == (
        2,
        "kept: prompt: has bytes that are no text here; set LANG to a UTF-8 locale, as C.UTF-8\n",
    )
    code, said = shell("kept inspect /nowhere-é-$'\\xff'", **plain_locale)
    assert code == 2
    assert said.isascii()
    assert len(said.splitlines()) == 1


def test_an_interruption_while_it_is_imported() -> None:
    # A shell starts background jobs with SIGINT ignored, and children inherit that.
    late = "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    late += "sys.modules['kept.cli.root'] = None\nfrom kept.cli import start\n"
    hang = "import builtins; real = builtins.__import__\ndef slow(name, *a):\n if name == 'kept.cli.root': "
    hang += "print('now', flush=True); time.sleep(30)\n return real(name, *a)\nbuiltins.__import__ = slow\nstart.main()"
    command = [sys.executable, "-c", late + hang]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "kept: interrupted\n")


STOPS = """
from kept.cli.root import main

@main.command()
def stop():
    exec("raise KeyboardInterrupt")  # as in the middle of an import that makes a dataclass

main(["stop"])
"""


def test_an_interruption_of_an_import_has_its_exit_code_too(tmp_path: Path) -> None:
    (tmp_path / "stops.py").write_text(STOPS)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command, given = ["bash", "-c", f"'{sys.executable}' -m stops; echo $?"], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    assert (done.stdout, done.stderr) == ("130\n", "kept: interrupted; the same command continues\n")


# --------------------------------------------------------------------------------------------------- unexpected errors


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory; free some, or take smaller inputs"),
        (MemoryError("Unable to allocate 8 GiB"), "out of memory (Unable to allocate 8 GiB); free some"),
        (RecursionError("maximum recursion depth exceeded"), "the input is nested too deeply"),
        (OSError(errno.EMFILE, "Too many open files", "a/config.json"), "a/config.json: Too many open files"),
        (PermissionError(errno.EACCES, "Permission denied", "a", None, "b"), "a and b: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (ValueError("embedded null byte"), "ValueError: embedded null byte"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "UnicodeDecodeError: 'utf-8' codec"),
    ],
)
def test_what_nobody_expected_is_a_line(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    assert cause(error).startswith(said)
    monkeypatch.setattr("kept.commands.inspect.inspect", fail)
    result = CliRunner().invoke(main, ["inspect", "x"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"kept: {said}")
    way_out = WAYS_OUT.get(error.errno or 0) if isinstance(error, OSError) else None
    assert line.endswith(way_out or "(KEPT_DEBUG=1 shows where)")


def test_a_file_that_may_not_be_read(source: Path, tmp_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may read anything")
    copied = write_readable(tmp_path / "model", "llama")
    (copied / "config.json").chmod(0)
    result = CliRunner().invoke(main, ["inspect", str(copied)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "config.json: cannot be read" in result.stderr


@pytest.mark.parametrize(
    "path", ["a\0b", "\udcff", "x" * 5000, "/dev/null/x", ""], ids=["NUL", "bytes", "long", "below", "empty"]
)
def test_invalid_paths_are_refused(path: str) -> None:
    with pytest.raises(kept.KeptError) as raised:
        kept.inspect(path)
    assert str(raised.value).isprintable()


# ------------------------------------------------------------------------------------------------------- escaped output


@pytest.mark.parametrize("text", [NASTY, "\x00", "\x7f", "\x80", "\u2028", "\u2066", "\udcff"])
def test_what_acts_on_a_terminal_is_spelled_out(text: str) -> None:
    assert UNSHOWN.search(shown(text)) is None
    assert UNSHOWN.search(text) is not None


def test_what_is_text_stays() -> None:
    text = "한국어\u3000中文\tא é 🙂\u200d\n"
    assert shown(text) == text


def test_tables_lines_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    table = console.make_table("name", NASTY)
    table.add_row(NASTY, "x")
    console.printer().print(table)
    console.printer().print(f"out/{NASTY}: finished")
    console.hint(NASTY)
    console.out_json({NASTY: [NASTY]})
    found = capsys.readouterr()
    assert UNSHOWN.search(found.out + found.err) is None
    assert json.loads(found.out[found.out.index("\n{") :]) == {NASTY: [NASTY]}


def test_a_stage_on_a_terminal_shows_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress._bar(f"[/red] {NASTY}", 3, "items"):
        pass
    assert "\x1b[31m" not in capsys.readouterr().err


def test_what_a_model_says_draws_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kept.commands.generate import GeneratedText

    monkeypatch.setattr("kept.commands.generate.generate", lambda *_, **__: [GeneratedText("a", NASTY)])
    for options in ([], ["--json"]):
        result = CliRunner().invoke(main, ["generate", str(source), *options])
        assert result.exit_code == 0, result.stderr
        assert UNSHOWN.search(result.stdout) is None


def test_names_mark_nothing_up_in_a_card(tmp_path: Path) -> None:
    name = "a`b|c<script>[x](http:) *d* \\ &amp; ![i] # ~"
    assert plain(name) == "a_b_c_script__x_(http:) _d_ _ _amp; __i_ _ _"
    assert plain("org/my_model-7B.v1 (base)") == "org/my_model-7B.v1 (base)"
    folder = write_readable(tmp_path / "a`b|c<b>", "llama")
    kept.convert(folder, tmp_path / "out", "llama", verify_tokens=0)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "a_b_c_b_" in card
    assert "<b>" not in card
