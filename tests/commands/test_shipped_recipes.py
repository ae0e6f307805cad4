"""The recipes that come along: each is understood, planned from config files, and runs at a small size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import kept
from kept.cli.root import main
from kept.commands.heal import run_heal
from kept.distillation.settings import HealSettings
from support.chats import CHATML, talk, write_chat_tokenizer
from support.heal_data import write_lines
from support.models import write_checkpoint
from support.stored import read_json

if TYPE_CHECKING:
    from click.testing import Result

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.slow]

RECIPES = {file.stem: file for file in (Path(__file__).parents[2] / "recipes").glob("*.toml")}

PRO, SFT, PLAIN = (RECIPES[name] for name in ("llama-pro", "llama-pro-sft", "heal-plain-llama"))

SMALL: dict[str, Any] = {
    "tokens": 6 * 2 * 2 * 32,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "sequence_length": 32,
    "eval_every": 3,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return write_chat_tokenizer(write_checkpoint(folder / "llama", "llama", vocab_size=320), 320)


@pytest.fixture
def here(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which everything is where the recipes say that it is."""
    monkeypatch.chdir(tmp_path)
    for name, word in (("new-domain", "seven"), ("old-domain", "once"), ("corpus/en", "ship"), ("corpus/ko", "배")):
        Path(name).mkdir(parents=True)
        write_lines(Path(name, "text.jsonl"), *({"text": f"{i} {word} {i % 7} {word} " * 3} for i in range(600)))
    Path("talks").mkdir()
    write_lines(Path("talks/talks.jsonl"), *({"messages": talk(f"{i} ships", "seven")} for i in range(80)))
    Path("chat.jinja").write_text(CHATML, encoding="utf-8")
    Path("path/to").mkdir(parents=True)
    shutil.copytree(source, "path/to/llama")
    shutil.copytree(source, "path/to/orion-14b")
    return tmp_path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_every_recipe_is_tried_somewhere() -> None:
    """Most of them here; those of several steps where steps are."""
    steps = {"expand-and-teach"}
    assert {*RECIPES} == {"orion-to-llama", "orion-to-plain-llama", PLAIN.stem, PRO.stem, SFT.stem} | steps


def test_llama_pro_is_the_paper_s() -> None:
    """2401.02415: 1,024 rows of 4,096 tokens, 2e-4 along a cosine, 6 % warm-up, decay 0.1, clipped at 1, in bf16."""
    found = HealSettings.load(PRO)
    assert found.tokens_a_step == 1024 * 4096
    assert (found.learning_rate, found.lr_schedule, found.warmup, found.weight_decay, found.max_grad_norm) == (
        2e-4,
        "cosine",
        0.06,
        0.1,
        1,
    )
    assert (found.train, found.dtype, found.ce, found.objective.needs_teacher) == ("new", "bfloat16", 1, False)
    tuned = HealSettings.load(SFT)
    assert (tuned.train, tuned.learning_rate, tuned.chat, tuned.document) == ("all", 2e-5, True, "messages")
    assert tuned.student == found.out


@pytest.mark.parametrize("line", ["# teacher = ", "# kl = ", "# eval_data = "])
def test_what_is_commented_out_is_understood_too(tmp_path: Path, line: str) -> None:
    text = PRO.read_text()
    assert line in text
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text.replace("# teacher = ", "teacher = ").replace(line, line.removeprefix("# ")))
    HealSettings.load(recipe)


def test_expand_train_and_chat(here: Path) -> None:
    """The three commands of the two presets, one after another, with nothing but sizes made small."""
    kept.expand("path/to/llama", "out/pro", groups=1, verify_tokens=0)
    learned = run_heal(HealSettings.load(PRO, **SMALL, hold_out=20, learning_rate=1e-2))
    assert learned.best.step > 0
    assert learned.best.losses["ce"] < learned.history[0].losses["ce"] - 0.3
    assert set(learned.best.sources) == {"new", "old"}
    assert learned.record["new_layers"] == [3]
    tuned = run_heal(HealSettings.load(SFT, **SMALL, learning_rate=1e-2, chat_template="chat.jinja", hold_out=1))
    assert tuned.best.losses["ce"] < tuned.history[0].losses["ce"]
    assert (here / "out/pro-chat/chat_template.jinja").read_text() == CHATML
    assert read_json(Path("out/pro-chat/kept.json"))["new_layers"] == [3]


def test_learning_without_forgetting(here: Path) -> None:
    """With the source as teacher and a large weight on its KL, less is learned and less is forgotten."""
    kept.expand("path/to/llama", "out/pro", groups=1, verify_tokens=0)
    near = {"teacher": "path/to/llama", "kl": 10.0, "out": "out/near"}
    free, held = (
        run_heal(HealSettings.load(PRO, **SMALL, hold_out=20, learning_rate=1e-2, **more))
        for more in ({"teacher": "path/to/llama", "kl": 1e-9}, near)
    )
    assert held.history[-1].losses["kl"] < 0.8 * free.history[-1].losses["kl"]
    assert held.history[-1].losses["ce"] > free.history[-1].losses["ce"]
    assert here.is_dir()


def test_healing_of_the_plain_llama(here: Path) -> None:
    shutil.copytree("path/to/llama", "out/plain-llama")
    done = run_heal(
        HealSettings.load(PLAIN, **{**SMALL, "gradient_accumulation": 1, "sequence_length": 16}, hold_out=10)
    )
    assert (here / "out/healed").samefile(done.path)


def test_it_is_planned_from_configs_alone(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = kept.expand(source, tmp_path / "made", groups=1, verify_tokens=0).path
    monkeypatch.chdir(tmp_path)
    for name in ("pro", "pro-trained"):
        folder = Path("out", name)
        folder.mkdir(parents=True)
        config = {**read_json(made / "config.json"), "max_position_embeddings": 4096}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        shutil.copy(made / "kept.json", folder)
    shares = {}
    for recipe in (PRO, SFT):
        result = run("plan", recipe, "--cluster", "8xh100", "--json")
        assert result.exit_code == 0, result.output
        shares[recipe] = json.loads(result.stdout)["trainable"]["parameters"]
    assert shares[PRO] < shares[SFT], "new blocks are less than all"


@pytest.mark.parametrize("name", ["orion-to-llama", "orion-to-plain-llama"])
def test_conversions(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "orion", "orion")
    result = run("convert", tmp_path / "orion", tmp_path / "out", "--recipe", RECIPES[name])
    assert result.exit_code == 0, result.output
