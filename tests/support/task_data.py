"""Small data sets in the layouts that tasks read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

WORDS = ["light", "ship", "bread", "stone", "river", "winter", "garden", "letter"]


def write_lines(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write a JSON lines file and the directories above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def arc(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Questions of ARC in the hub's form."""
    return [
        {
            "id": str(n),
            "question": f"Which of these does keeper number {n} carry to the {WORDS[n % 8]}?",
            "choices": {
                "text": [f"the {WORDS[(n + i) % 8]}" + " of the sea" * (i % 2) for i in range(4)],
                "label": ["A", "B", "C", "D"],
            },
            "answerKey": "ABCD"[n % 4],
        }
        for n in range(first, first + count)
    ]


def write_tasks(data: Path) -> Path:
    """Write documents of ARC-Easy, PIQA, LAMBADA, BLiMP, GSM8K, KoBEST COPA and WikiText, a few each."""
    write_lines(data / "allenai/ai2_arc/ARC-Easy/test.jsonl", arc(6))
    write_lines(data / "allenai/ai2_arc/ARC-Easy/train.jsonl", arc(8, first=100))
    piqa = [
        {"goal": f"Carry the {word}", "sol1": "with both hands", "sol2": f"with a {word} of bread", "label": n % 2}
        for n, word in enumerate(WORDS)
    ]
    write_lines(data / "piqa/validation.jsonl", piqa)
    lambada = [{"text": f"The keeper of the {word} counted seven ships and one {word}"} for word in WORDS]
    write_lines(data / "lambada_openai/test.jsonl", lambada)
    blimp = [{"sentence_good": f"The {word} is here.", "sentence_bad": f"The {word} are here."} for word in WORDS]
    write_lines(data / "blimp/adjunct_island.jsonl", blimp)
    gsm8k = [{"question": f"{n} and {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(6)]
    write_lines(data / "openai/gsm8k/main/test.jsonl", gsm8k)
    copa = [
        {
            "premise": f"{n}번 배가 왔다.",
            "question": "결과",
            "alternative_1": "빵을 샀다.",
            "alternative_2": "등불을 켰다.",
            "label": n % 2,
        }
        for n in range(6)
    ]
    write_lines(data / "skt/kobest_v1/copa/test.jsonl", copa)
    return data
