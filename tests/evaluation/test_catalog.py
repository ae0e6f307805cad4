"""Names, groups and tags are those of lm-eval's own index."""

from __future__ import annotations

from pathlib import Path

import lm_eval.tasks
import pytest
from lm_eval.tasks._index import Kind, TaskIndex

from kept.errors import InputError
from kept.evaluation.catalog import TaskCatalog, TaskGroup

OWN = Path(lm_eval.tasks.__file__).parent

SOME = ("arc", "blimp", "kobest", "lambada", "mmlu/continuation", "mmlu/default", "truthfulqa", "glue", "arabicmmlu")


@pytest.fixture(scope="module")
def catalog() -> TaskCatalog:
    return TaskCatalog.installed()


@pytest.mark.parametrize("folder", SOME)
def test_names_and_files_are_lm_eval_s(folder: str) -> None:
    found, wanted = TaskCatalog([OWN / folder]), TaskIndex.build([OWN / folder])
    assert {*found.files, *found.tags} == {*wanted}
    for name, entry in wanted.items():
        if entry.kind is Kind.TAG:
            assert set(found.tags[name]) == entry.tags
        else:
            assert found.files[name] == entry.yaml_path


def test_groups_have_their_tasks(catalog: TaskCatalog) -> None:
    mmlu = catalog.tasks("mmlu")
    assert len(mmlu) == 57
    assert mmlu[0].groups == (TaskGroup("mmlu", (("acc", True),)), TaskGroup("mmlu_stem", (("acc", True),)))
    assert len(catalog.tasks("blimp")) == 67
    assert catalog.tasks("blimp")[0].groups == (TaskGroup("blimp", (("acc", False),)),)
    assert [task.name for task in catalog.tasks("ai2_arc")] == ["arc_challenge", "arc_easy"]


def test_h6_has_the_shots_of_the_leaderboard(catalog: TaskCatalog) -> None:
    shots = {task.name: task.changes["num_fewshot"] for task in catalog.tasks("h6")}
    assert len(shots) == 62
    assert [shots[name] for name in ("arc_challenge", "hellaswag", "mmlu_virology", "gsm8k")] == [25, 10, 5, 5]


def test_an_unknown_name(catalog: TaskCatalog) -> None:
    with pytest.raises(InputError, match=r"no task is called 'hellaswg'; did you mean hellaswag\?; see --list-tasks"):
        catalog.tasks("hellaswg")


def test_inline_members_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("task: one\ndataset_path: x\n")
    (tmp_path / "all.yaml").write_text(
        "group: all\nnum_fewshot: 3\ntask:\n  - one\n  - task: one\n    num_fewshot: 1\n"
        "  - task: other\n    dataset_path: y\n  - group: inner\n    task: [one]\n"
    )
    first, second, other, inner = TaskCatalog([tmp_path]).tasks("all")
    assert (first.name, first.changes) == ("one", {"num_fewshot": 3})
    assert second.changes == {"num_fewshot": 1}
    assert (other.name, other.file, other.changes["dataset_path"]) == ("all::other", None, "y")
    assert [group.name for group in inner.groups] == ["all", "inner"]
