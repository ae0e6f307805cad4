"""Tasks on local files: the numbers of lm-eval's own evaluation of the stock model, document by document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from kept.errors import InputError
from kept.evaluation.tasks import PLAIN, SEED, TASKS, build_task, measure_task, members, task_estimates
from support.shared_data import DATA, needs_data
from support.subjects import subject, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from kept.evaluation.subject import Subject

EVALS = DATA / "evals"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return subject(tiny(tmp_path_factory.mktemp("llama"), max_position_embeddings=2048).loaded.path, torch.float32)


@pytest.fixture(scope="module")
def theirs(llama: Subject) -> Any:
    return HFLM(pretrained=str(llama.loaded.path), dtype="float32", device="cpu", batch_size=1)


ASKED = ("arc_challenge", "winogrande", "truthfulqa_mc2", "lambada_openai", "kobest_copa", "gsm8k")


@needs_data
@pytest.mark.parametrize("name", ASKED)
def test_figures_are_lm_eval_s_own(llama: Subject, theirs: Any, name: str) -> None:
    task, limit = TASKS[name], 2 if name == "gsm8k" else 4
    asked = build_task(task, EVALS)
    asked.set_fewshot_seed(SEED)
    wanted = evaluate(theirs, {"tasks": {name: asked}, "groups": {}}, limit=limit, bootstrap_iters=0)
    found = measure_task(llama, task, EVALS, limit)["metrics"]
    for metric, values in found.items():
        key = metric if "," in metric else f"{metric},none"
        ours = task_estimates({"metrics": {metric: values}})[metric].value
        assert ours == pytest.approx(wanted["results"][name][key], abs=1e-4, rel=1e-4), metric
        assert len(values) == limit


@needs_data
@pytest.mark.parametrize("task", [task for task in PLAIN if task.name not in ASKED], ids=lambda task: task.name)
def test_every_other_task_runs(llama: Subject, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.evaluation.humaneval.NEW_TOKENS", 8)
    found = measure_task(llama, task, EVALS, 2)["metrics"]
    assert all(len(values) == 2 for values in found.values())
    assert task.headline in found


@needs_data
@pytest.mark.parametrize("group", ["mmlu", "blimp"])
def test_members_of_groups_run(llama: Subject, group: str) -> None:
    for task in (members(group, EVALS)[0], members(group, EVALS)[-1]):
        assert len(measure_task(llama, task, EVALS, 2)["metrics"]["acc"]) == 2


@needs_data
def test_prompts_have_their_examples_and_not_their_own_answer() -> None:
    asked = build_task(TASKS["arc_challenge"], EVALS)
    asked.set_fewshot_seed(SEED)
    asked.build_all_requests(limit=3)
    for instance in asked.instances:
        prompt = instance.args[0]
        assert prompt.count("Question: ") == 26
        assert prompt.count(f"Question: {instance.doc['question']}\n") == 1
    mmlu = build_task(members("mmlu", EVALS)[0], EVALS)
    mmlu.build_all_requests(limit=1)
    assert mmlu.instances[0].args[0].count("Answer:") == 6


def test_a_file_of_another_form(tmp_path: Path) -> None:
    (tmp_path / "arc").mkdir()
    (tmp_path / "arc" / "arc_challenge.jsonl").write_text('{"question": "Why?"}')
    with pytest.raises(InputError, match=r"arc_challenge\.jsonl: does not have the format of arc_challenge"):
        build_task(TASKS["arc_challenge"], tmp_path)
