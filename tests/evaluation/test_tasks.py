"""Tasks on local files: the numbers of lm-eval's own evaluation of the stock model, document by document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from kept.errors import InputError
from kept.evaluation.catalog import TaskCatalog
from kept.evaluation.tasks import build_task, measure_task, prepared, task_estimates
from support.subjects import subject, tiny
from support.task_data import arc, write_lines, write_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from kept.evaluation.subject import Subject
    from kept.evaluation.tasks import TaskRun


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return subject(tiny(tmp_path_factory.mktemp("llama"), max_position_embeddings=2048).loaded.path, torch.float32)


@pytest.fixture(scope="module")
def theirs(llama: Subject) -> Any:
    return HFLM(pretrained=str(llama.loaded.path), dtype="float32", device="cpu", batch_size=1)


@pytest.fixture(scope="module")
def catalog() -> TaskCatalog:
    return TaskCatalog.installed()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("data"))


def run_of(catalog: TaskCatalog, name: str, data: Path, **options: Any) -> TaskRun:
    (task,) = catalog.tasks(name)
    return prepared(task, data, **options)


ASKED = (
    ("arc_easy", 0),
    ("arc_easy", 2),
    ("piqa", 0),
    ("piqa", 2),
    ("lambada_openai", 0),
    ("blimp_adjunct_island", 0),
    ("kobest_copa", 1),
    ("gsm8k", 1),
)


@pytest.mark.parametrize(("name", "shots"), ASKED)
def test_answers_and_figures_are_lm_eval_s_own(
    llama: Subject, theirs: Any, catalog: TaskCatalog, data: Path, tmp_path: Path, name: str, shots: int
) -> None:
    run = run_of(catalog, name, data, limit=4, shots=shots)
    asked = build_task(run)
    asked.config.generation_kwargs = {**(asked.config.generation_kwargs or {}), "max_gen_toks": 16}
    wanted = evaluate(theirs, {"tasks": {name: asked}, "groups": {}}, limit=4, bootstrap_iters=0)
    if name == "gsm8k":
        run = run_of(catalog, name, data, limit=4, shots=shots)
        run.config["generation_kwargs"]["max_gen_toks"] = 16
    found = task_estimates(measure_task(llama, run, tmp_path / "samples.jsonl"))
    for metric, estimate in found.items():
        key = metric if "," in metric else f"{metric},none"
        assert estimate.value == pytest.approx(wanted["results"][name][key], rel=1e-4), metric
        assert len(estimate.influences) == 4
    ours = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    for mine, other in zip(ours, wanted["samples"][name], strict=True):
        assert mine["prompt_hash"] == other["prompt_hash"]
        for one, answer in zip(mine["resps"], other["resps"], strict=True):
            assert_equal(one[0], answer[0])


def assert_equal(found: Any, wanted: Any) -> None:
    """Equal texts, or log-likelihoods within 1e-4 relative and the same greedy flag."""
    if isinstance(wanted, str):
        assert found == wanted
    else:
        assert found[1] == wanted[1]
        assert found[0] == pytest.approx(wanted[0], rel=1e-4)


def test_few_shot_examples_come_from_their_split(catalog: TaskCatalog, data: Path) -> None:
    asked = build_task(run_of(catalog, "arc_easy", data, shots=3))
    asked.build_all_requests(limit=1)
    examples = asked.instances[0].args[0].split("\n\n")
    assert all("number 10" in example for example in examples[:3])
    assert "number 0" in examples[3]


def test_a_single_split_gives_examples_but_not_the_asked_document(catalog: TaskCatalog, tmp_path: Path) -> None:
    write_lines(tmp_path / "arc_easy/test.jsonl", arc(5))
    asked = build_task(run_of(catalog, "arc_easy", tmp_path, shots=4))
    asked.build_all_requests()
    for instance in asked.instances:
        assert instance.args[0].count(instance.doc["question"]) == 1
        assert instance.args[0].count("Question: ") == 5


def test_documents_that_are_nowhere(catalog: TaskCatalog, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"openbookqa: its documents .* hf download allenai/openbookqa --repo-type"):
        run_of(catalog, "openbookqa", tmp_path)


def test_documents_without_the_split_to_evaluate(catalog: TaskCatalog, tmp_path: Path) -> None:
    write_lines(tmp_path / "arc_easy/train.jsonl", arc(2))
    with pytest.raises(InputError, match="arc_easy: its documents have the splits train and no 'test'"):
        build_task(run_of(catalog, "arc_easy", tmp_path))


def test_a_task_that_runs_generated_code(catalog: TaskCatalog, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mbpp: lm-eval would run generated code in this process"):
        run_of(catalog, "mbpp", tmp_path)
