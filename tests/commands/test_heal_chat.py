"""Healing on conversations: a run, its result, what is counted and said, and a teacher that is read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

import kept
from kept.cli.display import heal_progress
from kept.cli.root import main
from kept.commands.cache_teacher import run_cache_teacher
from kept.commands.heal import run_heal
from kept.commands.heal_inputs import chat_date
from kept.commands.teacher_student import TeacherStudent
from kept.distillation.settings import HealSettings
from kept.distillation.train.run_directory import begin_run, previous_settings
from kept.errors import InputError, RecipeError
from support.chats import CHATML, DATED, INST, MARKED, TALKS, talk, write_chat_tokenizer
from support.heal_data import write_lines
from support.heal_runs import finish, noted, start
from support.models import write_checkpoint
from support.stored import read_json

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("cache")

SIZE = 320


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expanded Llama whose tokenizer has special tokens of a chat, and no template."""
    folder = tmp_path_factory.mktemp("chat")
    write_chat_tokenizer(write_checkpoint(folder / "llama", "llama", vocab_size=SIZE), SIZE)
    return kept.expand(folder / "llama", folder / "pro", groups=1, verify_tokens=0).path


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    more = [talk(f"{i} ships", "seven" if i % 3 else "once upon a time") for i in range(60)]
    lines = [*TALKS, *more, talk("nobody answers"), talk("long", "seven ships " * 40)]
    return write_lines(tmp_path_factory.mktemp("talks") / "talks.jsonl", *({"messages": one} for one in lines))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "chatml.jinja"
    file.write_text(CHATML, encoding="utf-8")
    return file


def asked(student: Path, talks: Path, template: Path | None, out: Path, **changes: Any) -> HealSettings:
    sizes = {
        "batch_size": 2,
        "sequence_length": 64,
        "tokens": 12 * 128,
        "eval_every": 4,
        "save_every": 5,
        "learning_rate": 1e-2,
    }
    given = {"kl": 0.0, "ce": 1.0, "train": "new", "chat": True, "hold_out": 0.1, **sizes}
    named = {"student": str(student), "out": str(out), "data": (f"chat={talks}",)}
    return HealSettings(**{**given, **named, "chat_template": None if template is None else str(template), **changes})


def test_a_student_is_trained_on_answers(student: Path, talks: Path, template: Path, tmp_path: Path) -> None:
    done = run_heal(asked(student, talks, template, tmp_path / "out"))
    assert done.history[-1].losses["ce"] < done.history[0].losses["ce"] - 0.3
    sources = done.record["healed"]["sources"]["chat"]
    assert (sources["without_answer"], sources["documents"] + sources["held_out_documents"]) == (1, len(TALKS) + 61)
    assert sources["cut"] >= 1
    assert 0 < sources["answer_tokens"] < sources["tokens"] + sources["held_out_tokens"]
    said = next(line for line in heal_progress.about(noted(done.path, "run")[0]) if line.startswith("chat: "))
    assert f"; {sources['answer_tokens']} tokens are answers; 1 without an answer are skipped; " in said
    assert "are longer than a row and are truncated" in said
    card = (done.path / "README.md").read_text(encoding="utf-8")
    assert "Of conversations, only the assistant's messages are trained on." in card


def test_the_result_has_the_template_that_it_learned_by(
    student: Path, talks: Path, template: Path, tmp_path: Path
) -> None:
    done = run_heal(asked(student, talks, template, tmp_path / "out", tokens=128))
    assert (done.path / "chat_template.jinja").read_text() == CHATML
    record = read_json(done.path / "kept.json")
    assert "chat_template.jinja" in record["files"]
    assert record["healed"]["settings"]["chat_template"] == "chatml.jinja"
    stock = AutoTokenizer.from_pretrained(done.path)
    text = stock.apply_chat_template(TALKS[0], tokenize=False, add_generation_prompt=True)
    assert (
        text
        == "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\nfive<|im_end|>\n<|im_start|>assistant\n"
    )
    again = run_heal(asked(done.path, talks, None, tmp_path / "again", tokens=128, train="all"))
    assert (again.path / "chat_template.jinja").read_text() == CHATML, "and goes on with it"


def test_a_killed_run_continues_as_if_it_had_not_been_killed(
    student: Path, talks: Path, template: Path, tmp_path: Path
) -> None:
    given = asked(student, talks, template, tmp_path / "out")
    assert finish(start(given, "named 10")) != [0]
    done, whole = run_heal(given), run_heal(replace(given, out=str(tmp_path / "whole")))
    assert repr(done.history) == repr(whole.history)
    for name in ("model.safetensors", "chat_template.jinja"):
        assert (done.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_the_loss_is_that_of_the_answers_alone(student: Path, talks: Path, tmp_path: Path) -> None:
    """The loss equals that of transformers' model on the tokens that its tokenizer marks as the assistant's."""
    marked = tmp_path / "marked.jinja"
    marked.write_text(MARKED, encoding="utf-8")
    mine = write_lines(tmp_path / "mine.jsonl", *({"messages": one} for one in TALKS))
    done = run_heal(
        asked(student, talks, marked, tmp_path / "out", tokens=1, sequence_length=128, eval_data=(f"mine={mine}",))
    )
    tokenizer, model = AutoTokenizer.from_pretrained(done.path), AutoModelForCausalLM.from_pretrained(student)
    nats: list[float] = []
    for one in TALKS:
        found = tokenizer.apply_chat_template(one, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = (torch.tensor(found[key]) for key in ("input_ids", "assistant_masks"))  # type: ignore[call-overload, index]
        assert len(ids) <= 128, "or its end is not measured"
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1].double()
        every = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        nats += every[mask[1:] == 1].tolist()
    assert done.history[0].eval_data["mine"]["ce"] == pytest.approx(sum(nats) / len(nats), abs=1e-5)


def test_replayed_texts_stay_texts(student: Path, talks: Path, template: Path, tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("".join(f"{i} seven ships sailed, once upon a time\n\n" for i in range(2000)))
    both = {"data": (f"chat={talks}", f"old={tmp_path}/old.txt"), "mixture": "chat=0.8,old=0.2"}
    done = run_heal(
        asked(student, talks, template, tmp_path / "out", tokens=128, eval_data=(f"was={tmp_path}/old.txt",), **both)
    )
    sources = done.record["healed"]["sources"]
    assert "answer_tokens" in sources["chat"]
    assert "answer_tokens" not in sources["old"]
    assert set(done.history[0].sources) == {"chat", "old"}
    assert "was" in done.history[0].eval_data


def test_a_teacher_may_be_read(student: Path, talks: Path, template: Path, tmp_path: Path) -> None:
    """A cached teacher has the same distributions on the answers of a conversation as a live one."""
    given = asked(student, talks, template, tmp_path / "cache", teacher=str(student.parent / "llama"), kl=1.0)
    run_cache_teacher(given, top_k=SIZE)
    cached = run_heal(replace(given, out=str(tmp_path / "out"), teacher_cache=str(tmp_path / "cache"), tokens=256))
    live_one = run_heal(replace(given, out=str(tmp_path / "live"), tokens=256))
    first = [one.history[0].losses for one in (cached, live_one)]
    assert first[0]["kl"] == pytest.approx(first[1]["kl"], abs=1e-5)
    assert first[0]["ce"] == pytest.approx(first[1]["ce"], rel=1e-5)
    other = tmp_path / "inst.jinja"
    other.write_text(INST)
    with pytest.raises(InputError, match="was made with another data"):
        run_heal(
            replace(given, out=str(tmp_path / "x"), teacher_cache=str(tmp_path / "cache"), chat_template=str(other))
        )


def test_a_run_records_the_date_that_its_template_used(
    student: Path, talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A continued run uses the date on which it began; a run from a teacher cache uses that of the cache."""
    monkeypatch.setattr("kept.commands.heal_inputs.today", lambda: "2024-02-28")
    (tmp_path / "dated.jinja").write_text(DATED, encoding="utf-8")
    given = asked(student, talks, tmp_path / "dated.jinja", tmp_path / "out", tokens=128)
    done = run_heal(given)
    assert done.record["healed"]["settings"]["chat_date"] == "2024-02-28"
    pair = TeacherStudent.open(given)
    assert chat_date(given, pair, {}) == "2024-02-28"
    assert chat_date(given, pair, {"chat_date": "2024-02-27"}) == "2024-02-27"
    assert chat_date(replace(given, chat_date="2024-02-26"), pair, {"chat_date": "2024-02-27"}) == "2024-02-26"
    with_teacher = replace(given, out=str(tmp_path / "cache"), teacher=str(student.parent / "llama"), kl=1.0)
    with pytest.raises(
        InputError, match=r"its chat template contains the date, .*; set it with --chat-date 2024-02-28"
    ):
        run_cache_teacher(with_teacher, top_k=4)
    run_cache_teacher(replace(with_teacher, chat_date="2024-02-25"), top_k=4)
    read = replace(with_teacher, out=str(tmp_path / "read"), teacher_cache=str(tmp_path / "cache"))
    assert chat_date(read, TeacherStudent.open(read), {}) == "2024-02-25"


def test_a_run_that_is_continued_keeps_its_settings(tmp_path: Path) -> None:
    begin_run(tmp_path, {"chat_date": "2024-02-27"}, {})
    assert previous_settings(tmp_path) == {}, "without a checkpoint it never began"
    (tmp_path / "step-00000001").mkdir()
    assert previous_settings(tmp_path) == {"chat_date": "2024-02-27"}


def test_without_a_date_in_the_template_no_date_is_recorded(
    student: Path, talks: Path, template: Path, tmp_path: Path
) -> None:
    given = asked(student, talks, template, tmp_path / "out")
    assert chat_date(given, TeacherStudent.open(given), {}) is None


# ------------------------------------------------------------------------------------------------------ what is wrong


def test_without_a_template_the_way_out_is_said(student: Path, talks: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no chat template; give one with --chat-template FILE$"):
        run_heal(asked(student, talks, None, tmp_path / "out"))


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_template_that_cannot_be_read(student: Path, talks: Path, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.jinja").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.jinja: .*; name a file with a chat template"):
        run_heal(asked(student, talks, tmp_path / "x.jinja", tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chat_template": "x"}, "chat_template: is 'x', it must be left out without chat"),
        ({"chat_date": "2024-01-31"}, "chat_date: is '2024-01-31', it must be left out without chat"),
        (
            {"chat": True, "data": ("x",), "chat_date": "31.1.24"},
            "chat_date: is '31.1.24', it must be a date such as 2026-01-31",
        ),
        ({"chat": True, "teacher": "t"}, "chat: is True, it must be left out where data is self, which are texts"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        HealSettings(student="s", out="o", **{"teacher": "t", **changes})


def test_the_command_line(student: Path, talks: Path, template: Path, tmp_path: Path) -> None:
    words = ["heal", student, "--train", "new", "--loss", "ce", "--data", f"chat={talks}", "--tokens", "128"]
    more = ["--chat", "--batch-size", "2", "--sequence-length", "64", "--out", tmp_path / "out"]
    result = CliRunner().invoke(main, [str(word) for word in (*words, *more)])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith("has no chat template; give one with --chat-template FILE")
    result = CliRunner().invoke(main, [str(word) for word in (*words, *more, "--chat-template", template)])
    assert result.exit_code == 0, result.output
    assert "tokens are answers" in result.stderr
