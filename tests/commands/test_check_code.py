"""`kept check` says whose the code is that an output carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import kept
from kept.checkpoint.byte_stream import digest
from kept.commands.check import check
from support.models import write_checkpoint
from support.stored import change_json, read_json

if TYPE_CHECKING:
    from pathlib import Path

OURS = "carried code: the 28 files are those that this version of kept writes"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return kept.convert(
        write_checkpoint(tmp_path / "llama", "llama"), tmp_path / "out", to="kept", verify_tokens=0
    ).path


def code(path: Path) -> tuple[list[str], list[str]]:
    """The findings and the remarks on code."""
    found = check(path)
    return [line for line in found.damage if ".py" in line], [line for line in found.remarks if "code" in line]


def test_ours_with_and_without_a_record(out: Path) -> None:
    assert code(out) == ([], [OURS])
    assert {name for name in read_json(out / "kept.json")["files"] if name.endswith(".py")} == {
        file.name for file in out.glob("*.py")
    }
    (out / "kept.json").unlink()
    assert code(out) == ([], [OURS])


def test_changed_code_is_damage(out: Path) -> None:
    file = out / "kept_nn_rope.py"
    file.write_bytes(file.read_bytes() + b"import os\n")
    damage, _ = code(out)
    assert any(
        line.startswith(f"{out}: kept_nn_rope.py: not code of this kept, nor named in kept.json") for line in damage
    )
    assert any("changed since the conversion wrote it" in line for line in damage)


def test_a_file_that_was_added_is_damage(out: Path) -> None:
    (out / "torch.py").write_text("raise SystemExit\n", encoding="utf-8")
    ((line,), _) = code(out)
    assert line.startswith(f"{out}: torch.py: not code of this kept")


def test_code_of_another_version_is_named_by_its_record(out: Path) -> None:
    file = out / "kept_nn_rope.py"
    file.write_bytes(file.read_bytes() + b"# as it was\n")
    files = read_json(out / "kept.json")["files"]
    change_json(out / "kept.json", files={**files, file.name: digest(file)})
    assert code(out)[0] == []
    (line,) = code(out)[1]
    assert line.startswith("carried code: kept_nn_rope.py: as kept.json says, not as this kept writes it")


def test_a_missing_file(out: Path) -> None:
    (out / "kept.json").unlink()
    (out / "kept_nn_rope.py").unlink()
    assert code(out) == ([], ["carried code: kept_nn_rope.py: missing; kept convert --to same writes all files"])


def test_an_output_without_code(out: Path) -> None:
    (out / "kept.json").unlink()
    for file in out.glob("*.py"):
        file.unlink()
    assert code(out) == ([], ["carries no code: transformers loads it after import kept only"])


def test_the_code_is_never_run(out: Path, tmp_path: Path) -> None:
    """Not to read, convert, check or generate."""
    (out / "modeling_kept.py").write_text("raise SystemExit('run')", encoding="utf-8")
    check(out)
    assert kept.open_model(out).family.name == "kept"
    again = kept.convert(out, tmp_path / "again", to="same", verify_tokens=0).path
    assert code(again) == ([], [OURS])
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert read_json(again / "config.json") == read_json(out / "config.json")
