"""Local files become the documents that lm-eval's descriptions read."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from kept.errors import InputError
from kept.evaluation import documents
from support.shared_data import DATA, needs_data

if TYPE_CHECKING:
    from pathlib import Path

EVALS = DATA / "evals"

COUNTS = {
    "allenai/ai2_arc/ARC-Challenge": 1172,
    "allenai/ai2_arc/ARC-Easy": 2376,
    "Rowan/hellaswag": 1000,
    "baber/piqa": 1838,
    "truthfulqa/truthful_qa/multiple_choice": 790,
    "allenai/winogrande/winogrande_xl": 1267,
    "EleutherAI/lambada_openai/default": 5153,
    "openai/openai_humaneval": 164,
    "skt/kobest_v1/boolq": 1404,
    "skt/kobest_v1/copa": 1000,
    "skt/kobest_v1/hellaswag": 500,
    "skt/kobest_v1/sentineg": 397,
    "skt/kobest_v1/wic": 1260,
}


@needs_data
@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_every_published_file_has_its_documents(name: str, count: int) -> None:
    found = documents.published(name, None, EVALS)
    assert found is not None
    assert len(found[1](found[0])) == count


def test_every_published_format_is_counted() -> None:
    assert {*COUNTS} == {*documents.PUBLISHED}


@needs_data
def test_preprocessed_texts_of_hellaswag_do_not_change() -> None:
    from lm_eval.tasks.hellaswag.utils import preprocess

    file, read = documents.published("Rowan/hellaswag", None, EVALS) or pytest.fail("is missing")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        published = {doc["ind"]: doc for doc in (json.loads(line)["doc"] for line in lines)}
    for doc in read(file):
        wanted = published[doc["ind"]]
        assert preprocess(f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b'].capitalize()}") == wanted["query"]
        assert [preprocess(ending) for ending in doc["endings"]] == wanted["choices"]


def test_a_packed_file_that_unpacks_to_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LARGEST", 1 << 20)
    for content in (b'"' + b"x" * (1 << 24), b'{"a": 1}\n' * (1 << 20)):
        (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(content))
        with pytest.raises(InputError, match=r"bomb\.jsonl\.gz: is not a JSON lines file \(it has more than 1 MB"):
            list(documents.json_lines(tmp_path / "bomb.jsonl.gz"))


PACKED = gzip.compress(b"[]", mtime=0)[:-9] + b"\0" * 9
"""A fixed mtime, because the bytes are part of the test's id."""


@pytest.mark.parametrize("content", [b"[" * 100_000, PACKED, b"9" * 5000, b"\xff"])
def test_lines_that_are_not_json(tmp_path: Path, content: bytes) -> None:
    for name in ("a.jsonl", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="is not a JSON lines file"):
            list(documents.json_lines(tmp_path / name))


def write_lines(file: Path, *rows: object) -> Path:
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


def test_arc(tmp_path: Path) -> None:
    row = {"query": "Question: Why?", "choices": ["a", "b", "c"], "gold": 2}
    (found,) = documents.arc(write_lines(tmp_path / "x.jsonl", row))
    assert found["question"] == "Why?"
    assert found["choices"] == {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}
    assert found["answerKey"] == "C"


def test_winogrande(tmp_path: Path) -> None:
    row = {"context_options": ["So Sarah", "So Sam"], "continuation": "won.", "gold": 1}
    (found,) = documents.winogrande(write_lines(tmp_path / "x.jsonl", row))
    at = found["sentence"].index("_")
    assert [found["sentence"][:at] + found[f"option{n}"] for n in (1, 2)] == row["context_options"]
    assert found["sentence"][at + 1 :].strip() == "won."
    assert found["answer"] == "2"


def test_hellaswag_has_each_document_once(tmp_path: Path) -> None:
    doc = {"ind": 7, "query": "q: r", "choices": ["a", "b"], "gold": 1}
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps({"doc": doc, "idx": n}) for n in range(2)))
    wanted = {"ind": 7, "activity_label": "q", "ctx_a": "r", "ctx_b": "", "endings": ["[]a", "[]b"], "label": "1"}
    assert documents.hellaswag(tmp_path / "x.jsonl.gz") == [wanted]


def test_piqa(tmp_path: Path) -> None:
    row = {"query": "Question: How?\n", "choices": ["a", "b"], "gold": 1}
    assert documents.piqa(write_lines(tmp_path / "x.jsonl", row)) == [
        {"goal": "How?", "sol1": "a", "sol2": "b", "label": 1}
    ]


def test_a_published_file_in_another_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "piqa").mkdir()
    write_lines(tmp_path / "piqa/piqa.jsonl", {"goal": "How?"})
    _, read = documents.published("baber/piqa", None, tmp_path) or pytest.fail("is missing")
    with pytest.raises(InputError, match=r"piqa\.jsonl: does not have the format of baber/piqa"):
        read(tmp_path / "piqa/piqa.jsonl")


def test_truthfulqa(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text(
        'Question,Best Answer,Correct Answers,Incorrect Answers\nWhy?,a,"a; b","c; d; "\n', encoding="utf-8"
    )
    (found,) = documents.truthfulqa(file)
    assert found["mc1_targets"] == {"choices": ["a", "c", "d"], "labels": [1, 0, 0]}
    assert found["mc2_targets"] == {"choices": ["a", "b", "c", "d"], "labels": [1, 1, 0, 0]}


def test_lambada(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "x.jsonl", {"context": "the last", "continuation": "word"})
    assert documents.lambada(file) == [{"text": "the last word"}]


def test_kobest_s_truth_is_spelled_in_two_ways(tmp_path: Path) -> None:
    file = tmp_path / "x.tsv"
    file.write_text("ID\tText\tQuestion\tAnswer\n1\ta\tb\tTRUE\n2\ta\tb\tFalse\n", encoding="utf-8")
    assert [one["label"] for one in documents.kobest_boolq(file)] == [1, 0]


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"gone\.jsonl: missing; give the directory of the tasks' files with --data DIR"
    ):
        documents.lambada(tmp_path / "gone.jsonl")
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"bad\.jsonl: is not a JSON lines file"):
        documents.lambada(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl.gz").write_text("{")
    with pytest.raises(InputError, match=r"bad\.jsonl\.gz: is not a JSON lines file"):
        documents.lambada(tmp_path / "bad.jsonl.gz")
    with pytest.raises(InputError, match=r"gone\.tsv: missing"):
        documents.kobest_boolq(tmp_path / "gone.tsv")
