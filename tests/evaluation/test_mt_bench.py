"""MT-Bench: answers in two turns, and a judge that is a server on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from kept.checkpoint import chat_template
from kept.checkpoint.chat_template import Conversation
from kept.errors import CheckpointError, InputError
from kept.evaluation import mt_bench
from kept.evaluation.chat import template_of
from kept.evaluation.judge import KEY, Judge, judge_prompt
from kept.fence import Limits
from kept.reporting import Silent
from support.judge_stub import Stub
from support.shared_data import DATA, needs_data
from support.spies import noting
from support.stored import change_json
from support.stub_server import serving
from support.subjects import tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kept.evaluation.subject import Subject

QUESTION = {"turns": ["What is 2 + 3?", "Twice that?"], "references": ["5", "10"]}


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub()) as server:
        yield server


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return tiny(tmp_path_factory.mktemp("llama"), max_position_embeddings=1024)


# -------------------------------------------------------------------------------------------------------------- answers


def test_the_second_turn_has_the_first_in_view(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []

    def said(_: object, asked: list[list[int]], *__: object) -> list[str]:
        prompts.extend(llama.reader.decode(ids) for ids in asked)
        return [" five "] * len(asked)

    monkeypatch.setattr(mt_bench, "answers", said)
    found = mt_bench.measure_answers(llama, [QUESTION])
    assert found == {"answers": [["five", "five"]]}
    first = "Question: What is 2 + 3?\n\nAnswer:"
    assert prompts == [first, f"{first} five\n\nQuestion: Twice that?\n\nAnswer:"]


def test_answers_are_greedy_and_agree_with_themselves(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mt_bench, "NEW_TOKENS", 12)
    found = mt_bench.measure_answers(llama, [QUESTION, QUESTION])
    assert found["answers"][0] == found["answers"][1]
    assert mt_bench.agreement_of_answers(found, found)["identical text"].value == 1
    other = {"answers": [["x", "y"], ["x", "y"]]}
    assert mt_bench.agreement_of_answers(found, other)["identical text"].value == 0


@needs_data
def test_the_questions() -> None:
    found = mt_bench.questions(DATA / "evals", None)
    assert {category: len(rows) for category, rows in found.items()} == dict.fromkeys(found, 10)
    assert len(found) == 8
    assert all(row["references"] for row in found["math"])
    assert not any(row["references"] for row in found["writing"])
    assert {len(rows) for rows in mt_bench.questions(DATA / "evals", 2).values()} == {2}


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}[assistant]"
)


def test_a_chat_template_is_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_template = tiny(tmp_path, max_position_embeddings=1024)
    change_json(tmp_path / "tokenizer_config.json", chat_template=TEMPLATE)
    prompts: list[list[int]] = []
    monkeypatch.setattr(mt_bench, "answers", noting(lambda *_: ["five"], lambda _, asked, __: prompts.extend(asked)))
    mt_bench.measure_answers(with_template, [QUESTION], template_of(with_template))
    assert prompts[0] == with_template.encode("<s>[user]What is 2 + 3?</s>[assistant]", special=False)
    assert prompts[0][0] == with_template.spec.tokens.bos


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no system here') }}",
        "{% for",
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{% include '/etc/passwd' %}",
        "{{ range(10 ** 9) | list }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ lipsum | tojson }}",
        "{{ [[1]] | tojson(indent=10 ** 10) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_an_error(
    tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "LIMITS", Limits(seconds=2, memory=1 << 28))
    change_json(tmp_path / "tokenizer_config.json", chat_template=template)
    found = chat_template.Template.of(tmp_path)
    assert found is not None
    with pytest.raises(CheckpointError, match="its chat template fails"):
        found.render(Conversation([{"role": "user", "content": "x"}]))


def test_no_template(llama: Subject) -> None:
    with pytest.raises(InputError, match="has no chat template; leave out"):
        template_of(llama)


# ---------------------------------------------------------------------------------------------------------------- judge


def test_a_judge_grades_both_turns(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    stub.replies = [(200, "Good [[9]] at first, but. Grade: [[8]]"), (200, "Grade: [[3.5]]")]
    found = mt_bench.measure_scores(Judge(stub.url, "grader"), [QUESTION], {"answers": [["5", "11"]]}, Silent())
    assert found == {"scores": [[8.0, 3.5]]}
    assert mt_bench.score_estimates(found)["score"].value == 5.75
    first, second = stub.asked
    assert (first["path"], first["model"], first["key"]) == ("/v1/chat/completions", "grader", "Bearer secret")
    assert first["messages"][1]["content"] == judge_prompt(QUESTION, ["5", "11"], 0)
    assert "Twice" not in judge_prompt(QUESTION, ["5", "11"], 0)
    for part in ("What is 2 + 3?", "Twice that?", "[Reference answer 2]\n10", "answer 2]\n11"):
        assert part in second["messages"][1]["content"]


def test_a_busy_judge_is_asked_again(stub: Stub) -> None:
    stub.replies = [(429, "busy"), (503, "busy"), (200, "[[4]]")]
    assert Judge(stub.url, "grader", pause=0.01).score(QUESTION, ["5", "10"], 0) == 4
    assert len(stub.asked) == 3


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((401, "no"), f"answers 401 Unauthorized; is {KEY} set"),
        ((500, "down"), "answers 500 Internal Server Error"),
        ((200, "I cannot say"), "returned no grade from 1 to 10 but 'I cannot say'"),
        ((200, "[[11]]"), "returned no grade from 1 to 10"),
        ((200, {"error": "no such model"}), "is not a chat completions endpoint"),
    ],
)
def test_an_invalid_judge_is_refused(stub: Stub, reply: tuple[int, Any], words: str) -> None:
    stub.replies = [reply]
    with pytest.raises(InputError) as raised:
        Judge(stub.url, "grader", pause=0.01).score(QUESTION, ["5", "10"], 0)
    assert words in str(raised.value)


def test_a_judge_that_sends_elsewhere_does_not_get_the_key_there(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT_JUDGE_KEY", "secret")
    with serving(Stub()) as other:
        stub.replies = [(307, "")]
        stub.location = other.url
        with pytest.raises(InputError, match="answers 307"):
            Judge(stub.url, "x", pause=0).score(QUESTION, ["a", "b"], 0)
        assert other.asked == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([], "should be an object"),
        ({}, "question_id: is missing"),
        ({"question_id": 1, "choices": [{"turns": []}]}, "category: is missing"),
        ({"question_id": 1, "choices": []}, "choices: .*at least 1 item"),
        ({"question_id": 1.5}, "question_id"),
        (5, "is 5, it should be an object"),
    ],
)
def test_questions_of_another_form(tmp_path: Path, row: object, said: str) -> None:
    (tmp_path / "mt_bench").mkdir()
    for name in ("question", "reference_gpt-4"):
        (tmp_path / "mt_bench" / f"{name}.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=rf"is not a file of mt-bench questions \(.*{said}"):
        mt_bench.questions(tmp_path, None)


def test_no_judge_there() -> None:
    with pytest.raises(InputError, match="request failed"):
        Judge("http://127.0.0.1:9/v1", "grader", pause=0.01).score(QUESTION, ["5", "10"], 0)
    with pytest.raises(InputError, match="it must be a URL such as https://host/v1"):
        Judge("file:///etc/passwd", "grader")
