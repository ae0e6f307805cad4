"""`kept cache-teacher`, and `kept heal` with the cache."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.command_line import complains, data, succeeds

if TYPE_CHECKING:
    from pathlib import Path


def test_a_teacher_is_cached_and_read(orion: Path, out: Path, tmp_path: Path) -> None:
    lines = (json.dumps({"text": f"{i} foxes met {i * i} hens."}) for i in range(200))
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    sizes = ("--data", tmp_path / "text.jsonl", "--tokens", 256, "--sequence-length", 16, "--batch-size", 4)
    made = ("cache-teacher", orion, *sizes, "--top-k", 3, "--out", tmp_path / "teacher")
    shown = succeeds(*made).stdout
    assert "top 3 tokens per position" in shown
    assert "against the teacher without its last layer" in shown
    found = data(*made)
    assert [one["k"] for one in found["bias"]["by_k"]] == [1, 3, 12]
    healed = data("heal", out, "--teacher-cache", tmp_path / "teacher", *sizes, "--out", tmp_path / "healed")
    about = {key: value for key, value in found.items() if key not in {"out", "bytes"}}
    assert healed["healed"]["teacher_cache"] == about
    other = (
        "heal",
        out,
        "--teacher-cache",
        tmp_path / "teacher",
        *sizes[:-4],
        "--sequence-length",
        8,
        "--out",
        tmp_path / "no",
    )
    assert complains(*other).endswith("ask for the same, or make a cache under another name")
