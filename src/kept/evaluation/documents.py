"""Local files of benchmarks as the documents that `lm-eval`'s own task descriptions expect.

The files come from repositories with formats of their own. Each function converts one format to that of the hub's
dataset, so that prompts, choices and metrics are lm-eval's. If there is only a test split, few-shot examples are drawn
from it, without the evaluated document.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.formatting import shared_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Document = dict[str, Any]
    Read = Callable[[Path], list[Document]]


LARGEST = 256 << 20
"""Maximum size of a file's documents after decompression, in characters: they are held in memory."""


def require_file(file: Path) -> Path:
    """Return the file. Raises InputError if it is missing."""
    if not file.is_file():
        raise InputError(f"{file}: missing; give the directory of the tasks' files with --data DIR")
    return file


def json_lines(file: Path) -> Iterator[Any]:
    """Yield the values of a JSON lines file, plain or gzip. Raises InputError naming the file."""
    opening = gzip.open if file.suffix == ".gz" else open
    left = LARGEST
    try:
        with opening(require_file(file), "rt", encoding="utf-8") as lines:
            while line := lines.readline(left + 1):
                left -= len(line)
                if left < 0:
                    raise ValueError(f"it has more than {LARGEST >> 20} MB of text")  # noqa: TRY301 - reported like the other errors
                yield json.loads(line)
    except (ValueError, OSError, EOFError, RecursionError, zlib.error) as error:
        raise InputError(f"{file}: is not a JSON lines file ({error}); fetch it again") from None


def table(file: Path, delimiter: str) -> list[dict[str, str]]:
    """Return the rows of a CSV or TSV file by column name. Raises InputError naming the file."""
    try:
        with require_file(file).open(encoding="utf-8-sig", newline="") as lines:
            return [*csv.DictReader(lines, delimiter=delimiter)]
    except (ValueError, csv.Error) as error:
        raise InputError(f"{file}: is not a CSV or TSV file ({error}); fetch it again") from None


def arc(file: Path) -> list[Document]:
    """Return the documents of ARC: question, labelled choices, and the label of the correct one."""
    return [
        {
            "id": str(n),
            "question": row["query"].removeprefix("Question: "),
            "choices": {"text": row["choices"], "label": [chr(ord("A") + i) for i in range(len(row["choices"]))]},
            "answerKey": chr(ord("A") + row["gold"]),
        }
        for n, row in enumerate(json_lines(file))
    ]


def hellaswag(file: Path) -> list[Document]:
    """Return the documents of HellaSwag from a file of requests, several per document.

    Its texts are preprocessed, which lm-eval does again. Empty brackets, which it removes, keep a space at the start.
    """
    found = {row["doc"]["ind"]: row["doc"] for row in json_lines(file)}
    return [
        {
            "ind": doc["ind"],
            "activity_label": doc["query"].partition(": ")[0],
            "ctx_a": doc["query"].partition(": ")[2],
            "ctx_b": "",
            "endings": [f"[]{ending}" for ending in doc["choices"]],
            "label": str(doc["gold"]),
        }
        for doc in found.values()
    ]


def piqa(file: Path) -> list[Document]:
    """Return the documents of PIQA: a goal, and two solutions."""
    return [
        {
            "goal": row["query"].removeprefix("Question: ").removesuffix("\n"),
            "sol1": row["choices"][0],
            "sol2": row["choices"][1],
            "label": row["gold"],
        }
        for row in json_lines(file)
    ]


def winogrande(file: Path) -> list[Document]:
    """Return the documents of WinoGrande: a sentence with a gap, and two options for it."""
    return [{"id": str(n), **_gap(row)} for n, row in enumerate(json_lines(file))]


def _gap(row: Document) -> Document:
    first, second = row["context_options"]
    start = shared_prefix(first, second)
    sentence = f"{first[:start]}_ {row['continuation']}"
    return {"sentence": sentence, "option1": first[start:], "option2": second[start:], "answer": str(row["gold"] + 1)}


def truthfulqa(file: Path) -> list[Document]:
    """Return the documents of TruthfulQA: best and false answers (mc1), and all true and false answers (mc2)."""
    return [{"question": row["Question"], **_truths(row)} for row in table(file, ",")]


def _truths(row: dict[str, str]) -> Document:
    true, false = _listed(row["Correct Answers"]), _listed(row["Incorrect Answers"])
    return {
        "mc1_targets": {"choices": [row["Best Answer"], *false], "labels": [1] + [0] * len(false)},
        "mc2_targets": {"choices": true + false, "labels": [1] * len(true) + [0] * len(false)},
    }


def _listed(answers: str) -> list[str]:
    return [one for one in (part.strip() for part in answers.split(";")) if one]


def lambada(file: Path) -> list[Document]:
    """Return the documents of LAMBADA: the text with its last word."""
    return [{"text": f"{row['context']} {row['continuation']}"} for row in json_lines(file)]


def kobest_boolq(file: Path) -> list[Document]:
    """Return the documents of KoBEST BoolQ."""
    rows = table(file, "\t")
    return [{"paragraph": r["Text"], "question": r["Question"], "label": _truth(r["Answer"])} for r in rows]


def kobest_copa(file: Path) -> list[Document]:
    """Return the documents of KoBEST COPA."""
    return [
        {
            "premise": row["sentence"],
            "question": row["question"],
            "alternative_1": row["1"],
            "alternative_2": row["2"],
            "label": int(row["Answer"]) - 1,
        }
        for row in table(file, "\t")
    ]


def kobest_hellaswag(file: Path) -> list[Document]:
    """Return the documents of KoBEST HellaSwag."""
    return [
        {
            "context": row["context"],
            **{f"ending_{n}": row[f"choice{n}"] for n in range(1, 5)},
            "label": int(row["label"]),
        }
        for row in table(file, "\t")
    ]


def kobest_sentineg(file: Path) -> list[Document]:
    """Return the documents of KoBEST SentiNeg: negated sentences."""
    return [{"sentence": row["Text"], "label": int(row["Label"])} for row in table(file, "\t")]


def kobest_wic(file: Path) -> list[Document]:
    """Return the documents of KoBEST WiC."""
    return [
        {
            "word": row["Target"],
            "context_1": row["SENTENCE1"],
            "context_2": row["SENTENCE2"],
            "label": _truth(row["ANSWER"]),
        }
        for row in table(file, "\t")
    ]


def _truth(word: str) -> int:
    return int(word.lower() == "true")


PUBLISHED: Mapping[str, tuple[str, Read]] = {
    "allenai/ai2_arc/ARC-Challenge": ("arc/arc_challenge.jsonl", arc),
    "allenai/ai2_arc/ARC-Easy": ("arc/arc_easy.jsonl", arc),
    "Rowan/hellaswag": ("hellaswag/hellaswag__rc_5shot.jsonl.gz", hellaswag),
    "baber/piqa": ("piqa/piqa.jsonl", piqa),
    "truthfulqa/truthful_qa/multiple_choice": ("truthfulqa/TruthfulQA.csv", truthfulqa),
    "allenai/winogrande/winogrande_xl": ("winogrande/winogrande.jsonl", winogrande),
    "EleutherAI/lambada_openai/default": ("lambada/lambada_openai.jsonl", lambada),
    "openai/openai_humaneval": ("humaneval/HumanEval.jsonl.gz", lambda file: [*json_lines(file)]),
    "skt/kobest_v1/boolq": ("kobest/BoolQ/test.tsv", kobest_boolq),
    "skt/kobest_v1/copa": ("kobest/COPA/test.tsv", kobest_copa),
    "skt/kobest_v1/hellaswag": ("kobest/HellaSwag/test.tsv", kobest_hellaswag),
    "skt/kobest_v1/sentineg": ("kobest/SentiNeg/test.tsv", kobest_sentineg),
    "skt/kobest_v1/wic": ("kobest/WiC/test.tsv", kobest_wic),
}
"""Datasets, each with its configuration, whose published files have a format of their own."""


def published(dataset: str, config: str | None, data: Path) -> tuple[Path, Read] | None:
    """Return the published file of a dataset in a directory, and the function that reads it; None without one."""
    name, read = PUBLISHED.get(f"{dataset}/{config}" if config else dataset, (None, None))
    return (data / name, _checked(read, dataset)) if name and read and (data / name).is_file() else None


def _checked(read: Read, dataset: str) -> Read:
    """Return a function that raises InputError for a file in another format."""

    def checked(file: Path) -> list[Document]:
        try:
            return read(file)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"{file}: does not have the format of {dataset} ({error!r}); fetch it again") from None

    return checked
