"""The command line: data on stdout, everything else on stderr, one line and exit code 2 for what is wrong."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import shlex
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
import click.shell_completion
import pytest
from click.testing import CliRunner

import kept
from kept import formatting
from kept.cli.display import console, progress
from kept.cli.display.forecast import _hours, _price
from kept.cli.root import main
from kept.families import TARGETS
from kept.ir.serialise import from_json
from kept.ir.tensors import TORCH_NAMES, Stored
from kept.passes.fold_norm_bias import FoldNormBias
from support.golden import check_golden
from support.models import TINY, write_checkpoint
from support.stored import all_bytes, read_json, write_readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result


def below(path: str, command: click.Command) -> Iterator[str]:
    """The words that call a command, and all below it."""
    yield path
    context = click.Context(command)
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        inner = command.get_command(context, name)  # type: ignore[attr-defined]
        assert inner is not None
        yield from below(f"{path} {name}".strip(), inner)


COMMANDS = sorted(below("", main))

ANSI = re.compile("\x1b")


@pytest.fixture(scope="module")
def orion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("sources") / "orion", "orion")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, orion: Path) -> Path:
    return kept.convert(orion, tmp_path_factory.mktemp("made") / "out", verify_tokens=0).path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeeds(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert not ANSI.search(result.output)
    return result


def data(*arguments: object) -> Any:
    """Return the JSON that a command prints: stdout contains nothing else."""
    return json.loads(succeeds(*arguments, "--json").stdout)


def complains(*arguments: object, code: int = 2) -> str:
    """The one line on stderr of a command that fails; stdout is empty."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("kept: ")
    assert not ANSI.search(line)
    return line.removeprefix("kept: ")


# ----------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str) -> None:
    result = CliRunner().invoke(main, [*name.split(), "--help"], prog_name="kept", terminal_width=100)
    assert result.exit_code == 0
    check_golden(f"help-{name.replace(' ', '-') or 'kept'}.txt", result.stdout)


def test_the_package_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "kept", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ")
    assert "kept convert path/to/orion out/llama" in done.stdout
    assert done.stderr == ""


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


def test_the_installed_command_says_its_version() -> None:
    command = os.path.join(os.path.dirname(sys.executable), "kept")  # noqa: PTH118, PTH120 - beside the interpreter
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"kept, version \d+\.\d+\.\d+\n", done.stdout)


def test_what_needs_no_torch_does_not_wait_for_it(orion: Path) -> None:
    finished = ["heal", str(orion), "--teacher", str(orion), "--out", str(orion)]
    for arguments in (["--help"], ["plan", str(orion)], finished):
        code = f"import kept.cli.root; CliRunner().invoke(kept.cli.root.main, {arguments!r})"
        asks = (
            f"import sys; from click.testing import CliRunner; {code}; print('torch' in sys.modules, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
        assert done.stderr == "False\n"


# ----------------------------------------------------------------------------------------------------------------- plan


def test_plan_in_words(orion: Path) -> None:
    lines = [line.rstrip() for line in succeeds("plan", orion).stdout.splitlines()]
    check_golden("plan-orion.txt", "\n".join(lines) + "\n")


def test_plan_as_data(orion: Path) -> None:
    check_golden("plan-orion.json", succeeds("plan", orion, "--json").stdout)


@pytest.mark.parametrize(
    ("options", "promise", "last"),
    [
        (["--norm", "opm"], "lossy", "layernorm-to-rmsnorm"),
        (["--norm", "calibrated"], "lossy", "layernorm-to-rmsnorm"),
        (["--norm", "carried"], "lossy", "carry-norm-bias"),
        (["--final-bias", "drop"], "approximate", "fill-biases"),
        (["--dtype", "bfloat16", "--context", "64"], "approximate", "fill-biases"),
        (["--to", "llama"], "exact", "fill-biases"),
    ],
)
def test_plan_s_options(orion: Path, options: list[str], promise: str, last: str) -> None:
    found = data("plan", orion, *options)
    assert found["promise"] == promise
    assert found["passes"][-1]["name"] == last


def test_plan_from_a_recipe(orion: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'source = "{orion}"\nout = "unused"\nnorm = "opm"', encoding="utf-8")
    assert data("plan", "--recipe", recipe)["promise"] == "lossy"
    assert data("plan", "--recipe", recipe, "--norm", "exact")["promise"] == "exact", "flags win"


def test_a_plan_of_nothing_says_so(tmp_path: Path) -> None:
    result = succeeds("plan", write_checkpoint(tmp_path, "llama"))
    assert result.stdout.splitlines()[0] == "llama to llama: exact"
    assert len(result.stdout.splitlines()) == 2


def healing_recipe(folder: Path, **lines: object) -> Path:
    """A recipe whose models are config files alone."""
    for name, family in (("student", "llama"), ("teacher", "orion")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"model_type": family, **TINY[family]}), encoding="utf-8")
    said = {
        "student": str(folder / "student"),
        "teacher": str(folder / "teacher"),
        "out": "unused",
        "sequence_length": 64,
        **lines,
    }
    recipe = folder / "heal.toml"
    recipe.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items()), encoding="utf-8")
    return recipe


def test_plan_of_healing_in_words(tmp_path: Path) -> None:
    shown = succeeds("plan", healing_recipe(tmp_path, tokens="2B"), "--cluster", "8xh100", "--price", "2.5")
    check_golden("plan-heal.txt", "".join(f"{line.rstrip()}\n" for line in shown.stdout.splitlines()))


def test_plan_of_healing_as_data(tmp_path: Path) -> None:
    cluster = tmp_path / "small.toml"
    cluster.write_text('device = "h100"\nmemory_gb = 0.0001\n', encoding="utf-8")
    found = data("plan", healing_recipe(tmp_path), "--cluster", cluster)
    assert found["bytes_per_rank"] == pytest.approx(sum(found["memory"].values()))
    assert not found["fits"]
    assert "--gradient-checkpointing" in [one["change"] for one in found["remedies"]]


def test_plan_of_healing_does_not_wait_for_torch(tmp_path: Path) -> None:
    arguments = ["plan", str(healing_recipe(tmp_path)), "--cluster", "h100"]
    code = f"import sys; from kept.cli.root import main; main({arguments!r}, standalone_mode=False)"
    asks = f"{code}; print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"


def test_plan_of_healing_complains(tmp_path: Path, orion: Path) -> None:
    recipe = healing_recipe(tmp_path, sequence_length=4096)
    assert "sequence_length: is 4096" in complains("plan", recipe, "--cluster", "h100")
    assert "no known device" in complains("plan", recipe, "--cluster", "h10")
    for arguments in (["plan", recipe, "--norm", "opm"], ["plan", orion, "--cluster", "h100"]):
        assert "recipe for kept heal" in run(*arguments).stderr


# -------------------------------------------------------------------------------------------------------------- inspect


def test_inspect_in_words(orion: Path) -> None:
    text = succeeds("inspect", orion).stdout
    assert text.startswith(f"{orion}: orion, ")
    assert "LayerNorm with bias, attention 4 / 2 key-value heads x 16" in text
    assert "to llama: exact: centre, layernorm-to-rmsnorm, fold-norm-bias, affine-tail, fill-biases" in text


def test_inspect_as_data(orion: Path) -> None:
    found = data("inspect", orion)
    assert found["family"] == "orion"
    assert from_json(found["spec"]) == kept.open_model(orion).program.spec
    assert found["targets"][0]["promise"] == "exact"


def test_inspect_says_why_not(tmp_path: Path) -> None:
    text = succeeds("inspect", write_checkpoint(tmp_path, "gpt2")).stdout
    assert "to llama: refused: positions: positions are learned" in text


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    odd = write_checkpoint(tmp_path / "[red]a[/red]:smile:", "llama")
    assert succeeds("inspect", odd).stdout.startswith(f"{odd}: llama")
    result = succeeds("convert", odd, tmp_path / "[bold]out:warning:", "--verify-tokens", 16)
    assert f"{tmp_path}/[bold]out:warning:: written" in result.stdout


# -------------------------------------------------------------------------------------------------------------- convert


def test_convert_in_words(orion: Path, tmp_path: Path) -> None:
    result = succeeds("convert", orion, tmp_path / "out", "--verify-tokens", 64)
    assert f"{tmp_path}/out: written (centre, layernorm-to-rmsnorm" in result.stdout
    assert "the map, in float64" in result.stdout
    assert result.stdout.endswith("promise exact: kept\n")
    assert (tmp_path / "out" / "kept.json").is_file()


def test_convert_as_data(orion: Path, tmp_path: Path) -> None:
    found = data("convert", orion, tmp_path / "out", "--verify-tokens", 64)
    assert found == read_json(tmp_path / "out" / "kept.json")


def test_convert_takes_every_option(orion: Path, tmp_path: Path) -> None:
    text = tmp_path / "my.txt"
    text.write_text("seven ships, and one of them was late", encoding="utf-8")
    options = {
        "--to": "llama",
        "--norm": "calibrated",
        "--final-bias": "drop",
        "--rope": "proportional",
        "--context": 64,
        "--dtype": "float32",
        "--shard-size": "100KB",
        "--text": text,
        "--verify-tokens": 16,
    }
    found = data("convert", orion, tmp_path / "out", *(part for option in options.items() for part in option))
    assert found["recipe"] == {
        "to": "llama",
        "norm": "calibrated",
        "final_bias": "drop",
        "rope": "proportional",
        "context": 64,
        "dtype": "float32",
        "shard_size": "100KB",
        "text": str(text),
        "verify_tokens": 16,
    }
    assert found["verification"]["text"] == str(text)
    assert len([*(tmp_path / "out").glob("*.safetensors")]) > 3


def test_convert_from_a_recipe(orion: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'source = "{orion}"\nout = "{tmp_path}/from-file"\nverify_tokens = 0', encoding="utf-8")
    data("convert", "--recipe", recipe)
    data("convert", orion, tmp_path / "from-flags", "--verify-tokens", 0)
    data("convert", orion, tmp_path / "from-both", "--recipe", recipe)
    made = [all_bytes(tmp_path / name) for name in ("from-file", "from-flags", "from-both")]
    assert made[0] == made[1] == made[2]


def test_a_broken_promise_is_exit_code_one(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FoldNormBias, "run", _drops_the_biases)
    line = complains("convert", orion, tmp_path / "out", "--verify-tokens", 64, code=1)
    assert re.search(r"out: not written; in float64 the logits differ by up to .*: the map is not exact", line)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.unkept").is_dir()


def _drops_the_biases(self: FoldNormBias, program: Any) -> Any:
    from dataclasses import replace

    from kept.passes.map_spec import map_norms

    return program.updated(map_norms(program.spec, lambda norm: replace(norm, bias=False)), {})


# --------------------------------------------------------------------------------------------------------------- verify


def test_verify_in_words(orion: Path, out: Path) -> None:
    result = succeeds("verify", orion, out, "--tokens", 64)
    assert result.stdout.endswith("promise exact: kept\n")
    assert "'Once upon a time' -> " in result.stdout
    assert "(both)" in result.stdout
    assert "64 tokens of the built-in sample" in result.stdout


def test_verify_as_data(orion: Path, out: Path) -> None:
    found = data("verify", orion, out, "--tokens", 64, "--streamed")
    assert (found["kept"], found["promise"], found["continuations"]) == (True, "exact", [])
    assert found["output"]["tokens"] == 64


def test_verify_of_another_model_is_exit_code_one_with_data(orion: Path, out: Path, tmp_path: Path) -> None:
    other = write_readable(tmp_path / "other", "orion", seed=1)
    result = run("verify", other, out, "--tokens", 64, "--json", "--streamed")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["kept"] is False
    (line,) = result.stderr.splitlines()
    assert re.match(r"kept: .*out: the promise \(exact\) is broken: the mean logit error is", line)


def test_a_hint_goes_to_stderr(orion: Path, out: Path) -> None:
    result = succeeds("verify", orion, out, "--tokens", 16, "--streamed")
    assert result.stderr == "greedy continuations need both models in memory and were left out\n"


# ------------------------------------------------------------------------------------------------------------- generate


def test_generate_in_words(out: Path) -> None:
    found = kept.generate(out, ["The keeper", "seven"], tokens=8)
    result = succeeds("generate", out, "--prompt", "The keeper", "--prompt", "seven", "--tokens", 8)
    assert result.stdout == "\n\n".join(one.prompt + one.text for one in found) + "\n"
    assert result.stderr == ""


def test_generate_as_data(out: Path) -> None:
    options = ["--tokens", 8, "--temperature", 0.8, "--top-p", 0.9, "--seed", 3]
    (found,) = data("generate", out, *options)
    assert found["prompt"] == "Once upon a time"
    (same,) = data("generate", out, *options)
    assert found == same


# ------------------------------------------------------------------------------------------------------ what is wrong


WRONG = [
    ("inspect {new}/nowhere", "nowhere: is no directory"),
    ("plan {new}/nowhere", "nowhere: is no directory"),
    ("plan {orion} --to lama", "to: is 'lama'; did you mean llama?"),
    ("plan {orion} --norm omp", "norm: is 'omp'; did you mean opm?"),
    ("plan {orion} --dtype fp8", "dtype: is 'fp8'"),
    ("plan {orion} --context 0", "context: is 0"),
    ("plan {orion} --context 9999", "context: has 128 positions, 9999 were asked"),
    ("plan {orion} --dtype float16", "float16 overflows in the tail"),
    ("convert --recipe {new}/gone.toml", "gone.toml: there is no such recipe"),
    ("convert {orion} {out}", "out: exists already"),
    ("convert {orion} {orion}/out", "lies inside the source"),
    ("convert {orion} {orion}/config.json/x", "lies inside the source"),
    ("convert {orion} {new}/o --text gone.txt", "gone.txt: cannot be read"),
    ("convert {orion} {new}/o --norm calibrated", "give --text FILE"),
    ("convert {orion} {new}/o --shard-size big", "shard_size: is 'big'"),
    ("convert {orion} {new}/o --verify-tokens 1", "verify_tokens: is 1"),
    ("verify {orion} {new}/nowhere", "nowhere: is no directory"),
    ("verify {orion} {out} --text gone.txt", "gone.txt: cannot be read"),
    ("generate {new}/nowhere", "nowhere: is no directory"),
    ("generate {out} --prompt ''", "an empty prompt has nothing to continue"),
    ("generate {out} --tokens 0", "tokens must be positive"),
    ("generate {out} --tokens 9999", "pass the model's 128 positions"),
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


def test_an_error_that_nobody_foresaw_is_one_line_too(orion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "config.json")

    monkeypatch.setattr("kept.commands.inspect.inspect", fails)
    assert complains("inspect", orion) == ("config.json: Permission denied (KEPT_DEBUG=1 shows where)")


def test_a_line_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    console.complain("a\nb   c")
    assert capsys.readouterr().err == "kept: a b c\n"


# ---------------------------------------------------------------------------------------------- pipes and terminals


def on_a_terminal(*arguments: object, **environment: str) -> str:
    """Return the output of a command on a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kept", *map(str, arguments)]
    kept_environment = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
    variables = {**kept_environment, "TERM": "xterm", "COLUMNS": "100", **environment}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=variables) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                block = os.read(ours, 4096)
            except OSError:
                break
            if not block:
                break
            written += block
        process.wait()
    os.close(ours)
    return written.decode()


def test_an_error_is_red_on_a_terminal_and_not_where_colour_is_unwanted() -> None:
    assert "\x1b[31mkept: /nowhere" in on_a_terminal("inspect", "/nowhere")
    assert "\x1b" not in on_a_terminal("inspect", "/nowhere", NO_COLOR="1")


def test_a_table_has_no_colour_where_it_is_unwanted(orion: Path) -> None:
    assert not re.search("\x1b\\[[0-9;]*3[0-9]", on_a_terminal("plan", orion, NO_COLOR="1"))


def test_a_pipe_gets_no_escapes(orion: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "kept", "plan", str(orion)], capture_output=True, check=True)
    assert b"\x1b" not in done.stdout + done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(orion: Path) -> None:
    shell = f"{sys.executable} -m kept plan {orion} --json | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)  # noqa: S607 - found by the shell
    assert done.stderr == ""


def test_json_is_not_ascii_only(out: Path) -> None:
    (found,) = data("generate", out, "--prompt", "한국어", "--tokens", 1)
    assert found["prompt"] == "한국어"


# -------------------------------------------------------------------------------------------------------------- display


@pytest.mark.parametrize(
    ("count", "unit", "wanted"),
    [
        (0, "bytes", "0 B"),
        (999, "bytes", "999 B"),
        (1000, "bytes", "1 KB"),
        (123456, "bytes", "123 KB"),
        (5 * 10**9, "bytes", "5 GB"),
        (28 * 10**12, "bytes", "28000 GB"),
        (12, "layers", "12 layers"),
    ],
)
def test_amounts(count: int, unit: str, wanted: str) -> None:
    assert formatting.amount(count, unit) == wanted


@pytest.mark.parametrize(
    ("count", "wanted"), [(0, "0"), (999, "999"), (1234, "1.23 K"), (8_920_000, "8.92 M"), (14_500_000_000, "14.5 B")]
)
def test_numbers_of_parameters(count: int, wanted: str) -> None:
    assert formatting.parameters(count) == wanted


def test_slow_stages_say_where_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress.ProgressBars().stage("write", 4_000_000, "bytes") as advance:
        for _ in range(4):
            advance(1_000_000)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert re.fullmatch(r"write: 2 MB of 4 MB, \S+ KB per second, \d+ s left", lines[0])
    assert re.fullmatch(r"write: 4 MB in \d+\.0 s", lines[-1])


def test_one_item_tells_no_rate_and_slow_ones_tell_their_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 25.0, 50.0, 75.0, 75.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress.ProgressBars().stage("sample", 3, "texts") as advance:
        for _ in range(3):
            advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "sample: 1 of 3 texts",
        "sample: 2 of 3 texts, 25.0 s for each, 25 s left",
        "sample: 3 texts in 75.0 s",
    ]


@pytest.mark.parametrize(
    ("hours", "price", "words"),
    [
        (2.0 / 3600, 0.001, ("2 s", "under 0.01")),
        (1e-6, 0.014, ("1 s", "0.01")),
        (0.5, 2.345, ("30.0 minutes", "2.35")),
        (3.0, 12.3, ("3.0 hours", "12.30")),
    ],
)
def test_short_runs_and_small_prices_are_told(hours: float, price: float, words: tuple[str, str]) -> None:
    assert (_hours(hours), _price(price)) == words


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [(0.98, 0.011, "98.0 ± 1.1 %"), (1.0, 0.0, "100 ± - %"), (0.5, math.nan, "50 ± - %")],
)
def test_how_far_two_models_agree_is_in_percent(value: float, error: float, words: str) -> None:
    assert formatting.percent(value, error) == words


def test_quick_stages_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.ProgressBars().stage("write", 4, "layers") as advance:
        advance(4)
    assert capsys.readouterr() == ("", "")


def test_a_teacher_is_cached_and_read(orion: Path, out: Path, tmp_path: Path) -> None:
    lines = (json.dumps({"text": f"{i} foxes met {i * i} hens."}) for i in range(200))
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    sizes = ("--data", tmp_path / "text.jsonl", "--tokens", 256, "--sequence-length", 16, "--batch-size", 4)
    made = ("cache-teacher", orion, *sizes, "--k", 3, "--out", tmp_path / "teacher")
    shown = succeeds(*made).stdout
    assert "the 3 likeliest tokens at each place" in shown
    assert "against the teacher without its last layer" in shown
    found = data(*made)
    assert [one["k"] for one in found["bias"]["by_k"]] == [1, 3, 12]
    healed = data("heal", out, "--teacher-cache", tmp_path / "teacher", *sizes, "--out", tmp_path / "healed")
    about = {key: value for key, value in found.items() if key not in {"out", "bytes"}}
    assert healed["healed"]["teacher_cache"] == about
    other = (
        "heal",
        out,
        "--teacher-cache",
        tmp_path / "teacher",
        *sizes[:-4],
        "--sequence-length",
        8,
        "--out",
        tmp_path / "no",
    )
    assert complains(*other).endswith("ask for the same, or make a cache under another name")


def test_every_command_is_tested_here() -> None:
    assert isinstance(main, click.Group)
    known = "cache-teacher check completion convert demo eval expand generate heal inspect plan report run schema"
    of_tokenizers = ["tokenizer", "tokenizer merge", "tokenizer train"]
    assert sorted(["", *known.split(), "shrink-expanded", "verify", *of_tokenizers]) == COMMANDS


# -------------------------------------------------------------------------------------------------- completion, dry run


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("kept plan --norm op", {"opm", "opm-centred"}),
        ("kept convert --final-bias ", {"block", "drop"}),
        ("kept convert --dtype int", set()),
        ("kept convert --dtype b", {"bfloat16"}),
        ("kept plan --rope ", {"llama3", "proportional"}),
        ("kept comp", {"completion"}),
    ],
)
def test_the_shell_completes(words: str, found: set[str]) -> None:
    *before, last = words.split(" ")
    completer = click.shell_completion.ShellComplete(main, {}, "kept", "_KEPT_COMPLETE")
    assert {item.value for item in completer.get_completions(before[1:], last)} == found


def test_targets_and_folders_complete() -> None:
    completer = click.shell_completion.ShellComplete(main, {}, "kept", "_KEPT_COMPLETE")
    assert {item.value for item in completer.get_completions(["plan", "--to"], "")} == {*TARGETS, "same"}
    assert [item.type for item in completer.get_completions(["convert"], "any")] == ["dir"]
    assert [item.type for item in completer.get_completions(["convert", "--text"], "any")] == ["file"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script(shell: str) -> None:
    script = succeeds("completion", shell).stdout
    assert f"_KEPT_COMPLETE={shell}_complete" in script
    assert "%(" not in script


def test_bash_itself_completes() -> None:
    """The script is sourced by a real bash; completing asks the installed command."""
    asks = 'eval "$(python -m kept completion bash)"; COMP_WORDS=(kept plan --norm cal); COMP_CWORD=3; '
    folder = os.path.dirname(sys.executable)  # noqa: PTH120 - beside the interpreter
    given = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", "-c", asks + '_kept_completion kept; echo "${COMPREPLY[@]}"']
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    assert done.stdout == "calibrated\n", done.stderr


def test_completing_does_not_wait_for_torch() -> None:
    given = {**os.environ, "_KEPT_COMPLETE": "bash_complete", "COMP_WORDS": "kept plan --norm ", "COMP_CWORD": "3"}
    code = "import sys; from kept.cli.root import main; main(prog_name='kept', standalone_mode=False)"
    wraps = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); {code}"
    done = subprocess.run([sys.executable, "-c", wraps], capture_output=True, text=True, check=False, env=given)
    assert (done.stdout.split(), done.stderr) == (
        ["plain,exact", "plain,opm", "plain,opm-centred", "plain,calibrated", "plain,carried"],
        "False\n",
    )


@pytest.mark.parametrize("options", [[], ["--shard-size", "50KB"], ["--dtype", "bfloat16"], ["--norm", "opm"]])
def test_a_dry_run_says_what_is_then_written(orion: Path, tmp_path: Path, options: list[str]) -> None:
    target = tmp_path / "made" / "out"
    said = data("convert", orion, target, *options, "--dry-run")
    assert [*tmp_path.iterdir()] == []
    record = data("convert", orion, target, *options, "--verify-tokens", "0")
    sizes = {file.name: file.stat().st_size for file in target.iterdir()}
    assert said["files"] == {name: size for name, size in sizes.items() if name not in {"README.md", "kept.json"}}
    assert said["bytes"] == sum(said["files"].values()) < said["free"]
    assert (said["promise"], said["out"]) == (record["promise"], str(target))
    assert "nothing was written" in succeeds("convert", orion, tmp_path / "other", "--dry-run").stdout


def test_a_dry_run_finds_what_is_wrong(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "exists already" in complains("convert", orion, tmp_path, "--dry-run")
    assert "lies inside the source" in complains("convert", orion, orion / "out", "--dry-run")
    assert "needs text" in complains("convert", orion, tmp_path / "out", "--norm", "calibrated", "--dry-run")
    monkeypatch.setattr("kept.commands.convert.disk_usage", lambda _: SimpleNamespace(free=1000))
    said = complains("convert", orion, tmp_path / "out", "--dry-run")
    assert re.fullmatch(rf"{tmp_path}/out: needs \d+ bytes, {tmp_path} has 1000 free", said)
    assert [*tmp_path.iterdir()] == []


def test_dtype_and_shard_size_hold_for_every_tensor_and_file(orion: Path, tmp_path: Path) -> None:
    for dtype in ("bfloat16", "float64"):
        out = tmp_path / dtype
        data("convert", orion, out, "--dtype", dtype, "--shard-size", "60KB", "--verify-tokens", "0")
        tensors = kept.open_model(out).checkpoint.tensors
        assert {TORCH_NAMES[tensor.dtype] for tensor in tensors.values()} == {dtype}
        files = [*out.glob("*.safetensors")]
        assert len(files) > 3
        for file in files:
            held = [tensor.nbytes for tensor in tensors.values() if isinstance(tensor, Stored) and tensor.file == file]
            assert sum(held) <= 60_000 or len(held) == 1
