"""MT-Bench (arXiv 2306.05685): 80 questions of two turns in eight categories, answered greedily.

The agreement of two models' answers is always measured, scores only if a judge is given.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import MinLen

from kept.checkpoint.chat_template import Conversation
from kept.checkpoint.json_model import JsonModel
from kept.errors import InputError
from kept.evaluation import plain_prompt
from kept.evaluation.agreement import text_agreement
from kept.evaluation.answering import answers
from kept.evaluation.documents import json_lines
from kept.evaluation.estimate import Estimate, mean
from kept.evaluation.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kept.checkpoint.chat_template import Template
    from kept.evaluation.judge import Judge
    from kept.evaluation.subject import Subject
    from kept.reporting import Reporter

    Question = dict[str, Any]

NAME = "mt-bench"

QUESTIONS, REFERENCES = "mt_bench/question.jsonl", "mt_bench/reference_gpt-4.jsonl"

NEW_TOKENS = 512


class TwoTurnQuestion(JsonModel):
    """A line of the file of questions."""

    question_id: int | str
    category: str
    turns: tuple[str, str]


class AnswerChoice(JsonModel):
    """The answers to the turns of a question."""

    turns: list[str]


class ReferenceAnswer(JsonModel):
    """A line of the file of reference answers; the first choice counts."""

    question_id: int | str
    choices: Annotated[list[AnswerChoice], MinLen(1)]


def questions(data: Path, limit: int | None) -> dict[str, list[Question]]:
    """Return the questions by category, at most `limit` of each, with their reference answers if any.

    Raises InputError if a file is missing or has another form.
    """
    try:
        return _questions(data, limit)
    except ValueError as error:
        raise InputError(f"{data / QUESTIONS}: is not a file of {NAME} questions ({error}); fetch it again") from None


def _questions(data: Path, limit: int | None) -> dict[str, list[Question]]:
    answers = map(ReferenceAnswer.checked, json_lines(data / REFERENCES))
    references = {answer.question_id: answer.choices[0].turns for answer in answers}
    found: dict[str, list[Question]] = {}
    for asked in map(TwoTurnQuestion.checked, json_lines(data / QUESTIONS)):
        one = {"turns": [*asked.turns], "references": references.get(asked.question_id)}
        found.setdefault(asked.category, []).append(one)
    return {category: rows[:limit] for category, rows in found.items()}


def measure_answers(subject: Subject, asked: Sequence[Question], template: Template | None = None) -> dict[str, Any]:
    """Return the model's answers to both turns of each question. Without a template, prompts have a plain form."""
    talks: list[list[dict[str, str]]] = [[] for _ in asked]
    for turn in range(2):
        for talk, question in zip(talks, asked, strict=True):
            talk.append({"role": "user", "content": question["turns"][turn]})
        for talk, said in zip(talks, _answers(subject, talks, template), strict=True):
            talk.append({"role": "assistant", "content": said})
    return {"answers": [[message["content"] for message in talk[1::2]] for talk in talks]}


def agreement_of_answers(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Estimate]:
    """Return the agreement of two models' answers to one category."""
    both = [[answer for turns in found["answers"] for answer in turns] for found in (first, other)]
    return text_agreement(both[0], both[1])


def measure_scores(
    judge: Judge,
    asked: Sequence[Question],
    found: Mapping[str, Any],
    reporter: Reporter,
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Return a judge's scores, from 1 to 10, two per question."""
    scores, journal = [], journal or Journal()
    with reporter.stage("judge", len(asked), "questions") as advance:
        for question, turns in zip(asked, found["answers"], strict=True):
            scores.append([journal.take(partial(judge.score, question, turns, turn)) for turn in range(2)])
            advance(1)
    return {"scores": scores}


def score_estimates(found: Mapping[str, Any]) -> dict[str, Estimate]:
    """Return the mean score over questions, of both turns together and of each."""
    turns = [mean(column) for column in zip(*found["scores"], strict=True)]
    both = mean([sum(scores) / len(scores) for scores in found["scores"]])
    return {"score": both, **{f"score of turn {n}": one for n, one in enumerate(turns, 1)}}


def _answers(subject: Subject, talks: Sequence[Sequence[dict[str, str]]], template: Template | None) -> list[str]:
    if template is not None:
        prompts = [subject.encode(template.render(Conversation(talk)), special=False) for talk in talks]
        return [text.strip() for text in answers(subject, prompts, NEW_TOKENS)]
    prompts = [subject.encode(plain_prompt.plain(talk)) for talk in talks]
    return [text.strip() for text in answers(subject, prompts, NEW_TOKENS, plain_prompt.STOPS)]
