"""Generated code in its fences: what is right passes, and nothing else does anything."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from kept.evaluation.documents import json_lines
from kept.evaluation.humaneval import judged, program
from kept.evaluation.sandbox import fences, passes
from models import DATA, needs_data

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "code", ["x = 1", "assert sorted([2, 1]) == [1, 2]", "print('passed', flush=True)", "import math"]
)
def test_code_that_runs_passes(code: str) -> None:
    assert passes(code)


@pytest.mark.parametrize(
    "code",
    [
        "assert False",
        "1 / 0",
        "def broken(",
        "import sys; sys.exit(0)",
        "import os; os.write(1, b'passed'); os._exit(0)",
        "print('passed'); raise SystemExit",
        "x = [0] * (1 << 40)",
        "import os; os.kill(os.getpid(), 9)",
        "x = '\\ud800'; assert False",
    ],
)
def test_code_that_does_not_end_well_fails(code: str) -> None:
    assert not passes(code)


def test_code_without_end_is_ended() -> None:
    begun = time.monotonic()
    assert not passes("while True: pass", seconds=1)
    assert not passes("import time; time.sleep(60)", seconds=1)
    assert time.monotonic() - begun < 8


def test_memory_is_bounded() -> None:
    assert passes("x = bytearray(100 << 20)")
    assert not passes("x = bytearray(2000 << 20)")


def test_nothing_is_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert not passes(f"with open({str(file)!r}, 'w') as f: f.write('x' * 10)\n")
    assert not file.exists() or file.read_text() == ""


def test_children_do_not_stay() -> None:
    begun = time.monotonic()
    passes("import os, time\nif not os.fork(): time.sleep(60)", seconds=1)
    assert time.monotonic() - begun < 8


def test_the_fences_that_this_system_has(tmp_path: Path) -> None:
    found = fences()
    assert set(found) == {"network", "files"}
    if not found["files"]:
        pytest.skip("this system has no Landlock")
    file = tmp_path / "file"
    file.write_text("mine")
    for harm in ("os.remove({0})", "os.rename({0}, {0} + '2')", "os.mkdir({0} + 'd')", "os.truncate({0}, 0)"):
        assert not passes(f"import os; {harm.format(repr(str(file)))}")
    assert [file.read_text(), *tmp_path.iterdir()] == ["mine", file]


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    assert passes("import os; assert 'A_SECRET' not in os.environ")


@needs_data
def test_humaneval_s_own_solutions_pass() -> None:
    problems = [*json_lines(DATA / "evals" / "humaneval" / "HumanEval.jsonl.gz")]
    assert len(problems) == 164
    for problem in problems[:12]:
        assert judged(problem, [problem["canonical_solution"]]) == {"pass@1": 1.0}
        assert judged(problem, ["    return None\n"]) == {"pass@1": 0.0}


def test_a_program_is_prompt_answer_and_tests() -> None:
    document = {"prompt": "def f():\n", "test": "def check(g):\n    assert g() == 3\n", "entry_point": "f"}
    assert passes(program(document, "    return 3"))
    assert not passes(program(document, "    return 4"))
