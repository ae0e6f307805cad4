"""`kept run`: steps go on from one another, what is finished is not done again, and what is wrong is found before."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner

import kept
from kept.cli.root import main
from kept.commands.recipe_steps import folder_of, load_steps, steps_from
from kept.commands.run_journal import NOTES
from kept.commands.run_recipe import run_all
from kept.errors import KeptError, OutputError, PromiseError
from support.forks import forks
from support.stored import all_bytes, change_json, read_json, write_readable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.commands.recipe_steps import RecipeStep

EXAMPLE = Path(__file__).parents[2] / "recipes" / "expand-and-teach.toml"

TEACH = {
    "tokens": 24 * 64,
    "batch_size": 4,
    "sequence_length": 16,
    "learning_rate": 2e-3,
    "save_every": 4,
    "eval_every": 8,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, something to learn, and something to measure."""
    folder = tmp_path_factory.mktemp("place")
    write_readable(folder / "orion", "orion")
    lines = (json.dumps({"text": f"def f{i}(x):\n    return x + {i}\n"}) for i in range(200))
    (folder / "code.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "code.txt").write_text("def f(x):\n    return x\n" * 60, encoding="utf-8")
    (folder / "english.txt").write_text("The keeper of the light counted seven ships. " * 40, encoding="utf-8")
    return folder


@pytest.fixture
def example(place: Path, tmp_path: Path) -> dict[str, Any]:
    """The recipe that comes along, at a size for a test."""
    table = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    expand, heal, shrink, convert, verify = table["steps"]
    steps = [
        {**expand, "source": str(place / "orion"), "groups": 3, "verify_tokens": 16},
        {**heal, **TEACH, "data": [str(place / "code.jsonl")], "dtype": "float32", "gradient_checkpointing": False},
        {**shrink, "tokens": 32},
        {**convert, "verify_tokens": 16},
        {**verify, "text": str(place / "english.txt"), "tokens": 32},
    ]
    return {"out": str(tmp_path / "taught"), "steps": steps}


def changed(table: Mapping[str, Any], number: int, **keys: Any) -> dict[str, Any]:
    """The recipe with other keys in one step."""
    steps = [{**step, **keys} if at == number else step for at, step in enumerate(table["steps"], 1)]
    return {**table, "steps": steps}


def written(table: Mapping[str, Any], file: Path) -> Path:
    """The recipe as a file."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if key != "steps"]
    for step in table["steps"]:
        lines += ["[[steps]]", *(f"{key} = {json.dumps(value)}" for key, value in step.items())]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


class Heard:
    """Record of the steps that ran, and of those that were finished before."""

    def __init__(self) -> None:
        self.run: list[int] = []
        self.said: list[str] = []

    def begins(self, step: RecipeStep, count: int) -> None:
        """Nothing."""

    def ends(self, step: RecipeStep, result: object) -> None:
        """Note it."""
        if result is not None:
            self.run.append(step.number)

    def notes(self, message: str) -> None:
        """Record the message."""
        self.said.append(message)


def ran(table: Mapping[str, Any]) -> list[int]:
    heard = Heard()
    run_all(steps_from(table), teller=heard)
    return heard.run


def die_at(table: Mapping[str, Any], step: int) -> None:
    """Code that a child process runs until it is killed after a healing step."""

    def watch(line: Mapping[str, Any]) -> None:
        if line["kind"] == "step" and line["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    run_all(steps_from(table), watch=watch)


# ----------------------------------------------------------------------------------------------------------- end to end


def test_a_killed_run_continues_and_writes_the_same_bytes(example: dict[str, Any], tmp_path: Path) -> None:
    whole = {**example, "out": str(tmp_path / "elsewhere" / "taught")}
    (tmp_path / "elsewhere").mkdir()
    assert ran(whole) == [1, 2, 3, 4, 5]
    child = forks().Process(target=die_at, args=(example, 14))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    out, folder = Path(example["out"]), folder_of(Path(example["out"]))
    assert not out.exists()
    assert [note["done"] for note in read_json(folder / NOTES)["steps"]] == [True, False]
    assert [*(folder / "2-heal").glob(".orion.kept-healing/step-*")], "it has a checkpoint to go on from"
    assert ran(example) == [2, 3, 4, 5]
    assert not folder.exists()
    found, wanted = all_bytes(out), all_bytes(Path(whole["out"]))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    tells_it_all(read_json(out / "kept.json"))
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "Promise of this step, against its own source, `orion` as step 2 left it: **exact**.\n" in card
    assert "Since the first source, `orion`, the weakest promise is: **lossy**." in card
    told = card.split("## Lineage, oldest first\n\n")[1].split("\n\n")[0].splitlines()
    assert told[0] == "1. orion (orion): expanded by layers 1, 3, 5; promise exact"
    assert re.fullmatch(r"2\. healed on .*: new trained, [\d,]+ tokens, from the texts alone; promise lossy", told[1])
    said = r"3\. orion \(orion\): converted to llama \(.*\); promise exact, which holds in bfloat16, .*"
    assert re.fullmatch(said, told[2])
    page = kept.report(out, tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert '<p class="verdict">last step: promise exact: kept; since the first source: lossy</p>' in page
    assert "The last step promises exact against its own source, orion as step 2 left it." in page
    assert "the same function as that." in page
    assert page.index("expanded by layers 1, 3, 5") < page.index("new trained, ") < page.index("converted to llama (")


def tells_it_all(record: dict[str, Any]) -> None:
    """The lineage from the first source on, and the new layers."""
    expanded, shrunk = record["history"][0], record["history"][-1]
    assert expanded["passes"][0]["name"] == "expand-blocks"
    assert expanded["source"]["name"] == "orion"
    assert expanded["healed"]["settings"]["train"] == "new"
    assert [one["healed"] is not None for one in record["history"] if "healed" in one] == [True]
    assert record["recipe"]["to"] == "llama"
    (left,) = record["expansions"]
    assert {*left["layers"]} <= {*record["new_layers"]}
    assert shrunk["recipe"]["to"] == "same"


def test_the_library_and_the_command_line(place: Path, tmp_path: Path) -> None:
    steps = [{"do": "expand", "source": str(place / "orion"), "groups": 1, "verify_tokens": 0}, {"do": "convert"}]
    table = {"out": str(tmp_path / "out"), "steps": [*steps, {"do": "verify", "tokens": 16}]}
    file = written(changed(table, 2, verify_tokens=0), tmp_path / "recipe.toml")
    rehearsed = CliRunner().invoke(main, ["run", str(file), "--dry-run"])
    assert rehearsed.exit_code == 0, rehearsed.output
    assert f"{tmp_path}/out: would be the output of step 2; nothing was written" in rehearsed.stdout
    assert [*tmp_path.iterdir()] == [file]
    done = CliRunner().invoke(main, ["run", str(file)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/out: finished"
    assert "step 3 of 3: verify" in done.stdout
    assert "promise exact: kept" in done.stdout
    record = read_json(tmp_path / "out" / "kept.json")
    assert (record["new_layers"], record["expansions"]) == ([3, 4], [{"layers": [3], "copies_of": [2]}])
    again = kept.run_steps(file, out=tmp_path / "again", keep_intermediate=True)
    assert again.path == tmp_path / "again"
    assert all_bytes(again.path) == all_bytes(tmp_path / "out")
    assert (folder_of(again.path) / "1-expand" / "orion" / "kept.json").is_file()
    said = CliRunner().invoke(main, ["run", str(file), "--out", str(tmp_path / "third"), "--json"])
    assert json.loads(said.stdout)["run"] == [1, 2, 3]


def test_the_others_of_a_family_and_a_page(place: Path, tmp_path: Path) -> None:
    steps = [
        {"do": "convert", "source": str(place / "orion"), "norm": "opm", "verify_tokens": 8, "name": "plain"},
        {"do": "expand", "at": [1], "verify_tokens": 0},
        {
            "do": "eval",
            "against": "plain",
            "old": [f"english={place}/english.txt"],
            "new": [str(place / "code.txt")],
            "out": str(tmp_path / "eval.json"),
        },
        {"do": "report", "evaluations": [str(tmp_path / "eval.json")], "file": str(tmp_path / "page.html")},
        {"do": "verify", "against": "plain", "tokens": 16},
    ]
    assert ran({"out": str(tmp_path / "out"), "steps": steps}) == [1, 2, 3, 4, 5]
    page = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "english" in page
    assert f"vllm serve {tmp_path}/out\n" in page.replace("<", "\n<")
    assert "kept-run" not in page
    found = read_json(tmp_path / "eval.json")
    assert [one["name"] for one in found["models"]] == ["1-convert", "out"]
    assert (found["settings"]["old"], found["settings"]["new"]) == (["english"], ["code"])


def test_a_model_that_is_not_kept_is_loaded_from_nowhere(place: Path, tmp_path: Path) -> None:
    steps = [
        {"do": "convert", "source": str(place / "orion"), "verify_tokens": 0},
        {"do": "report", "file": str(tmp_path / "page.html")},
        {"do": "convert", "verify_tokens": 0},
    ]
    ran({"out": str(tmp_path / "out"), "steps": steps})
    assert "vllm serve" not in (tmp_path / "page.html").read_text(encoding="utf-8")
    ran({"out": str(tmp_path / "other"), "steps": steps, "keep_intermediate": True})
    kept_at = folder_of(tmp_path / "other") / "1-convert" / "orion"
    assert f"vllm serve {kept_at}" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_step_that_drops_no_layer_passes_its_model_on(example: dict[str, Any], tmp_path: Path) -> None:
    steps = [*example["steps"][:2], {"do": "shrink-expanded", "untrained": True}]
    assert ran({"out": str(tmp_path / "out"), "keep_intermediate": True, "steps": steps}) == [1, 2, 3]
    before, out = folder_of(tmp_path / "out") / "2-heal" / "orion", tmp_path / "out"
    assert all_bytes(out) == all_bytes(before)
    assert "history" not in read_json(out / "kept.json")
    assert (out / "model.safetensors").samefile(before / "model.safetensors")
    assert not (out / "config.json").samefile(before / "config.json")
    own = {"out": str(tmp_path / "own"), "steps": [{**steps[2], "source": str(before)}]}
    done = written(own, tmp_path / "recipe.toml")
    said = CliRunner().invoke(main, ["run", str(done)])
    assert "no layer is dropped; the model is passed on unchanged" in said.stdout, said.output
    assert all_bytes(tmp_path / "own") == all_bytes(before)
    assert not (tmp_path / "own" / "model.safetensors").samefile(before / "model.safetensors"), "it is the user's"


# ------------------------------------------------------------------------------------------------------- going on again


def test_what_changed_is_done_again_and_all_behind_it(place: Path, tmp_path: Path) -> None:
    source = shutil.copytree(place / "orion", tmp_path / "orion")
    steps = [
        {"do": "expand", "source": str(source), "groups": 1, "verify_tokens": 0},
        {"do": "expand", "groups": 2, "verify_tokens": 0},
        {"do": "convert", "verify_tokens": 0},
        {"do": "verify", "text": str(place / "english.txt"), "tokens": 16},
    ]
    table = {"out": str(tmp_path / "out"), "steps": steps}
    out, folder = tmp_path / "out", folder_of(tmp_path / "out")

    def again(table: Mapping[str, Any]) -> list[int]:
        if out.exists():  # as if the run had been killed before the result had its name
            out.rename(folder / "3-convert" / "orion")
        return ran(table)

    table["keep_intermediate"] = True  # type: ignore[assignment]
    assert again(table) == [1, 2, 3, 4]
    assert again(table) == []
    assert again(changed(table, 4, tokens=8)) == [4]
    assert again(changed(table, 4, tokens=8)) == []
    assert again(table) == [4]
    assert again(changed(table, 2, groups=3)) == [2, 3, 4]
    assert again(table) == [2, 3, 4]
    made = read_json(folder / "2-expand" / "orion" / "kept.json")
    assert len(made["new_layers"]) == 2
    change_json(folder / "1-expand" / "orion" / "config.json", note="changed")
    assert again(table) == [2, 3, 4]
    weights = source / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert again(table) == [1, 2, 3, 4]
    (folder / NOTES).write_text("no notes")
    assert again(table) == [1, 2, 3, 4]


class KilledError(BaseException):
    """Stands for SIGKILL: no clean-up runs between it and the end of the process."""


def half_removed(folder: Path) -> None:
    for entry in sorted(folder.iterdir())[::2]:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    raise KilledError


def removed(folder: Path) -> None:
    shutil.rmtree(folder)
    raise KilledError


@pytest.mark.parametrize("how", [half_removed, removed])
def test_killed_while_it_cleans_up_the_same_command_ends(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    """The result is published: no step runs again, and no file of the run is left."""
    steps = [{"do": "expand", "source": str(place / "orion"), "groups": n, "verify_tokens": 0} for n in (1, 2)]
    table = {"out": str(tmp_path / "out"), "steps": [steps[0], {"do": "expand", "groups": 2, "verify_tokens": 0}]}
    whole = {**table, "out": str(tmp_path / "whole")}
    assert ran(whole) == [1, 2]
    with monkeypatch.context() as patched:
        patched.setattr("kept.commands.run_recipe.rmtree", how)
        with pytest.raises(KilledError):
            ran(table)
    with pytest.raises(OutputError, match="exists already"):
        ran({**table, "steps": steps})
    heard = Heard()
    run_all(steps_from(table), teller=heard)
    assert heard.run == []
    assert heard.said == ["all steps were finished before; the directory of the run is removed"]
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "whole"]
    with pytest.raises(OutputError, match="exists already"):
        ran(table)


def test_damaged_notes_begin_anew_and_are_named(place: Path, tmp_path: Path) -> None:
    """The origin of the step directories is unknown, whatever the notes contain."""
    step = {"do": "expand", "source": str(place / "orion"), "groups": 1, "verify_tokens": 0}
    table = {"out": str(tmp_path / "out"), "keep_intermediate": True, "steps": [step, {**step, "source": None}]}
    del table["steps"][1]["source"]  # type: ignore[index]
    folder = folder_of(tmp_path / "out")
    assert ran(table) == [1, 2]
    for damage in (b"no notes", b"[" * 10**5, b'{"steps": {}}', bytes(99), b"\xff\xfe"):
        (tmp_path / "out").rename(folder / "2-expand" / "orion")
        (folder / NOTES).write_bytes(damage)
        heard = Heard()
        run_all(steps_from(table), teller=heard)
        assert (heard.run, heard.said) == ([1, 2], [f"{folder / NOTES}: is damaged; the first step begins anew"])


def test_a_broken_promise_gives_no_result(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [{"do": "convert", "source": str(place / "orion"), "verify_tokens": 0}, {"do": "verify", "tokens": 16}]
    table = {"out": str(tmp_path / "out"), "steps": steps}
    monkeypatch.setattr("kept.verification.verify.FLOOR", 1e-9)
    monkeypatch.setattr("kept.verification.verify.PROOF", 1e-30)
    with pytest.raises(PromiseError, match=r"^step 2 \(verify\): .*: the promise \(exact\) is broken"):
        ran(table)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert ran(table) == [2]


def test_two_runs_of_one_recipe(place: Path, tmp_path: Path) -> None:
    from contextlib import ExitStack

    from kept.distillation.train.run_directory import lock_run_directory

    table = {"out": str(tmp_path / "out"), "steps": [{"do": "expand", "source": str(place / "orion"), "groups": 1}]}
    with ExitStack() as held:
        lock_run_directory(folder_of(tmp_path / "out"), held)
        with pytest.raises(OutputError, match="another run is using it"):
            ran(table)


# ------------------------------------------------------------------------------------------------------------ bad input

FIRST = '[[steps]]\ndo = "expand"\nsource = "{place}/orion"\ngroups = 1\n'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "recipe.toml: out: is missing"),
        ('out = "x"\n', "recipe.toml: steps: must be one or more tables: write each under [[steps]]"),
        ('out = "x"\nsteps = 3\n', "recipe.toml:2: steps: must be one or more tables: write each under [[steps]]"),
        (
            'out = "x"\nkeep_intermediate = 1\n' + FIRST,
            "recipe.toml:2: keep_intermediate: is 1, it must be true or false",
        ),
        ('out = "x"\ntidy = 1\n' + FIRST, "recipe.toml:2: tidy: is not a key of a recipe"),
        (
            'out = "x"\n[[steps]]\ngroups = 1\n',
            "recipe.toml:2: step 1: do: is missing; it must be one of expand, convert",
        ),
        ('out = "x"\n[[steps]]\ndo = "expnd"\n', "recipe.toml:3: step 1: do: is 'expnd'; did you mean expand?"),
        ('out = "x"\n[[steps]]\ndo = "expand"\n', "recipe.toml:2: step 1: source: is missing"),
        ('out = "x"\n[[steps]]\ndo = "heal"\n', "recipe.toml:2: step 1: student: is missing"),
        ('out = "x"\n' + FIRST + '[[steps]]\ndo = "heal"\nrat = 1\n', "recipe.toml:8: step 2: rat: is not a key"),
        ('out = "x"\n' + FIRST + '[[steps]]\ndo = "convert"\nto = "lama"\n', "recipe.toml:8: step 2: to: is 'lama'"),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "convert"\nout = "y"\n',
            "recipe.toml:8: step 2: out: belongs above the steps",
        ),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "expand"\nto = "llama"\n',
            "recipe.toml:8: step 2: to: is for a step",
        ),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "verify"\ntokens = "2"\n',
            "recipe.toml:8: step 2: tokens: is '2', it must",
        ),
        ('out = "x"\n' + FIRST + '[[steps]]\ndo = "eval"\n', "recipe.toml:6: step 2: out: is missing"),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "eval"\nout = "e"\nold = ["t"]\n',
            "recipe.toml:9: step 2: old: compares models; say against which",
        ),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "convert"\nname = "expand"\n',
            "recipe.toml:8: step 2: name: another step is called 'expand'",
        ),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "convert"\n[[steps.passes]]\nname = "cntre"\n',
            "recipe.toml:9: step 2: pass 1: name: 'cntre' is not a pass; did you mean centre?",
        ),
        (
            'out = "x"\n[[steps]]\ndo = "verify"\nmodel = "a"\nagainst = "b"\n',
            "recipe.toml: steps: none of them writes a model",
        ),
        # what takes the files
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "verify"\nagainst = "none/such/place"\n',
            "step 2 (verify): against: none/",
        ),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "verify"\ntext = "none.txt"\n',
            "step 2 (verify): text: none.txt does not exist",
        ),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "heal"\ntrain = "new"\nkl = 0\nce = 1\ndata = ["none"]\n',
            "step 2 (heal): text none: none does not exist",
        ),
        (
            'out = "x"\n'
            + FIRST
            + '[[steps]]\ndo = "heal"\nloss = "ce"\ndata = ["recipe.toml"]\neval_data = ["a=none"]\n',
            "step 2 (heal): text eval_data a: none does not exist",
        ),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "heal"\nloss = "ce"\ndata = ["recipe.toml"]\nchat = true\n'
            'chat_template = "none"\n',
            "step 2 (heal): chat_template: none does not exist",
        ),
        ('out = "x"\n' + FIRST + '[[steps]]\ndo = "eval"\nout = "x"\n', "step 2 (eval): x: lies inside the model x"),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "eval"\nout = "recipe.toml/e"\n',
            "step 2 (eval): recipe.toml/e: cannot be written, recipe.toml is not a directory; choose another place",
        ),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "eval"\nagainst = "{place}/orion"\nout = "{place}/orion/e"\n',
            "step 2 (eval): {place}/orion/e: lies inside the model {place}/orion",
        ),
        (
            'out = "x"\n[[steps]]\ndo = "shrink-expanded"\nsource = "{place}/orion"\n',
            "step 1 (shrink-expanded): {place}/orion: its kept.json lists no expanded layers",
        ),
        (
            'out = "x"\n[[steps]]\ndo = "heal"\nstudent = "{place}/orion"\ntrain = "new"\nloss = "ce"\ndata = ["."]\n',
            "step 1 (heal): train: 'new' is what kept expand or a conversion made",
        ),
        ('out = "x"\n' + FIRST.replace("= 1", "= 9"), "step 1 (expand): expand-blocks: groups: are 9, the model has 3"),
        (
            'out = "x"\n'
            + FIRST
            + '[[steps]]\ndo = "convert"\nto = "llama"\n[[steps]]\ndo = "convert"\nto = "olmo2"\n',
            "step 3 (convert): ",
        ),
        (
            'out = "x"\n' + FIRST + '[[steps]]\ndo = "heal"\nteacher = "expand"\nsequence_length = 999\n',
            "step 2 (heal): sequence_length: is 999",
        ),
        (
            'out = "{place}/orion"\n' + FIRST,
            "{place}/orion: exists already; choose another output, or --force",
        ),
        ('out = "{place}/orion/x"\n' + FIRST, "step 1 (expand): {place}/orion/x: lies inside source's model"),
    ],
)
def test_what_is_wrong_is_found_before_the_first_step(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "recipe.toml"
    file.write_text(text.replace("{place}", str(place)), encoding="utf-8")
    result = CliRunner().invoke(main, ["run", "recipe.toml"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"kept: {line.format(place=place)}"), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [*tmp_path.iterdir()] == [file]


def test_the_recipe_that_comes_along_is_understood() -> None:
    steps = load_steps(EXAMPLE).steps
    assert [step.do for step in steps] == ["expand", "heal", "shrink-expanded", "convert", "verify"]
    assert steps[-1].models == {"model": steps[3].out, "against": Path("path/to/orion-14b")}


def test_what_takes_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(KeptError, match="there is no such recipe"):
        kept.run_steps(tmp_path / "none.toml")
    with pytest.raises(KeptError, match=r"cannot be read \(Is a directory\); name a TOML file$"):
        kept.run_steps(tmp_path)


def test_evaluation_texts_and_the_template_are_checked_too(tmp_path: Path) -> None:
    """A step is done again where they changed."""
    heal = {"do": "heal", "student": "s", "loss": "ce", "data": ["c.jsonl"], "chat": True}
    table = {"out": str(tmp_path / "out"), "steps": [{**heal, "chat_template": "t.jinja", "eval_data": ["old=o.txt"]}]}
    (step,) = steps_from(table).steps
    assert {Path("c.jsonl"), Path("t.jinja"), Path("o.txt")} == {*step.files.values()}
