"""Every command that takes a checkpoint directory also takes a GGUF file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import kept
from kept.cli.root import main
from kept.demo import model_path
from kept.gguf.source import LOCK, PREFIX
from kept.loaded import open_model
from kept.output.input_files import fingerprint
from kept.recipe import recipe_from
from support import gguf_vocabularies, ggufs


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the GGUF file of a tiny Llama with the demo's tokenizer."""
    vocabulary = gguf_vocabularies.sentencepiece(model_path() / "tokenizer.model")
    folder = tmp_path_factory.mktemp("commands")
    return ggufs.with_tokenizer(folder / "tiny.gguf", vocabulary, chat_template="{{ messages[0].content }}")


def run(*words: object) -> str:
    """Run a command that must succeed; return its output."""
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


def test_inspect_plan_check_generate(file: Path) -> None:
    said = "".join(run("inspect", file).split())  # long paths are wrapped
    assert f"{file.name}:llama" in said
    assert "thefilestoresF32(" in said
    assert json.loads(run("inspect", file, "--json"))["quantised"].startswith("F32 (")
    assert json.loads(run("plan", file, "--to", "qwen2", "--json"))["promise"] == "exact"
    assert "sound" in run("check", file)
    assert run("generate", file, "--prompt", "Once upon", "--max-new-tokens", "3")


def test_convert_verify_expand(file: Path, tmp_path: Path) -> None:
    assert "would be written" in run("convert", file, tmp_path / "out", "--dry-run")
    run("convert", file, tmp_path / "out", "--verify-tokens", "32")
    assert "promise exact: kept" in run("verify", file, tmp_path / "out", "--tokens", "32")
    run("expand", file, tmp_path / "more", "--groups", "1", "--verify-tokens", "32")
    record = json.loads((tmp_path / "more" / "kept.json").read_text(encoding="utf-8"))
    assert (record["source"]["name"], record["new_layers"]) == ("tiny.gguf", [1])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("README.md", "config.json", "generation_config.json", "kept.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }


def test_eval(file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a small house by the sea. " * 20, encoding="utf-8")
    run("eval", file, "--text", text, "--out", tmp_path / "eval.json")
    assert json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))


def test_heal_from_a_file_with_a_file_for_its_teacher(file: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(40):
        text = f"Once upon a time there were {number} small houses by the sea. " * 8
        (tmp_path / "data" / f"{number}.txt").write_text(text, encoding="utf-8")
    options = (
        "--data",
        tmp_path / "data",
        "--tokens",
        "256",
        "--sequence-length",
        "32",
        "--batch-size",
        "1",
        "--out",
        tmp_path / "healed",
    )
    run("heal", file, "--teacher", file, "--train", "norms", *options)
    record = json.loads((tmp_path / "healed" / "kept.json").read_text(encoding="utf-8"))
    assert record["healed"]["student"]["name"] == "tiny.gguf"
    assert [*record["healed"]["student"]["files"]] == ["tiny.gguf"]


def test_an_interrupted_conversion_of_it_continues(file: Path) -> None:
    """The fingerprint of a run does not depend on the temporary directory."""
    recipe = recipe_from({"source": str(file), "out": "out", "to": "llama"})
    first = fingerprint(open_model(file), recipe)
    os.utime(file)
    assert fingerprint(open_model(file), recipe) != first
    again = open_model(file)
    assert fingerprint(again, recipe) == fingerprint(open_model(file), recipe)
    assert str(again.path) not in json.dumps(fingerprint(again, recipe))


def test_it_may_not_be_where_the_output_goes(file: Path) -> None:
    done = CliRunner().invoke(main, ["convert", str(file), str(file)])
    assert done.exit_code == 2
    assert file.read_bytes()[:4] == b"GGUF"


SCRIPT = """
import os, signal, sys
from kept.loaded import open_model
print(open_model(sys.argv[1]).path.parent, flush=True)
if len(sys.argv) > 2:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def scratch(file: Path, *words: str) -> Path:
    """Open a file in another process; return its scratch directory."""
    command = [sys.executable, "-c", SCRIPT, str(file), *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    return Path(done.stdout.strip())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a separate directory for temporary files, since other processes clean up the system's."""
    made = tmp_path / "temporary"
    made.mkdir()
    monkeypatch.setenv("TMPDIR", str(made))
    return made


def test_scratch_directories_do_not_survive(file: Path, temporary: Path) -> None:
    assert not scratch(file).exists()
    left = scratch(file, "killed")
    assert left.name.startswith(PREFIX)
    assert left.parent == temporary
    assert left.exists()
    scratch(file)
    assert not left.exists()


def test_a_lock_that_others_put_there_is_not_waited_for(file: Path, temporary: Path) -> None:
    planted = temporary / f"{PREFIX}planted"
    planted.mkdir()
    os.mkfifo(planted / LOCK)
    assert scratch(file).parent == temporary
    assert planted.exists(), "what is not ours stays"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a temporary directory, where commands may write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_tokenizers_of_files_grow_and_are_trained_alike(file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("한국어 문장을 나눕니다. 한국어는 재미있다. " * 50, encoding="utf-8")
    kept.train_tokenizer([text], tmp_path / "new", vocab_size=280, like=file)
    made = kept.merge_tokenizers(file, tmp_path / "new", tmp_path / "merged", max_added_tokens=8)
    assert made.after > made.before
