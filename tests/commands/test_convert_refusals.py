"""Conversions that are refused, and results that break their promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import kept
from kept.errors import CheckpointError, InputError, OutputError, PromiseError
from kept.output import export
from kept.passes.fold_norm_bias import FoldNormBias
from support.models import write_checkpoint
from support.stored import (
    all_bytes,
    read_json,
    write_readable,
)

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.program import Program


@pytest.fixture
def orion(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "orion", "orion")


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("sources") / "my-orion", "orion")


def hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.kept-partial")


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("place", ["", "out", "deep/down/out", "../orion/out"])
def test_an_output_inside_the_source_is_refused(orion: Path, place: str) -> None:
    before = all_bytes(orion)
    with pytest.raises(OutputError, match=r"exists already|lies inside the source; choose a place outside of it"):
        kept.convert(orion, orion / place)
    assert all_bytes(orion) == before


def test_so_is_one_inside_it_by_way_of_a_link(orion: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(orion)
    with pytest.raises(OutputError, match="lies inside the source"):
        kept.convert(orion, tmp_path / "link" / "out")


def test_an_existing_output_is_refused_before_the_source_is_opened(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="out: exists already"):
        kept.convert(tmp_path / "nowhere", tmp_path / "out")


def test_a_bad_source_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: is not a directory"):
        kept.convert(tmp_path / "nowhere", tmp_path / "out")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("content", [None, b"\xff", b"a"])
def test_a_bad_text_is_found_before_anything_is_written(readable: Path, tmp_path: Path, content: bytes | None) -> None:
    text = tmp_path / "my.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(InputError, match=r"my\.txt: (is not UTF-8 text|has 1 tokens|cannot be read)"):
        kept.convert(readable, tmp_path / "out", text=str(text))
    assert not hidden(tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------ broken promises


@pytest.fixture
def broken_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """fold-norm-bias as it is known to be done wrong elsewhere: it folds into up and forgets the gate."""
    original = FoldNormBias.run

    def forgets_the_gate(self: FoldNormBias, program: Program) -> Program:
        from kept.ir.tensors import zeros

        right = original(self, program)
        gates = {name: t for name, t in right.weights.items() if name.endswith("mlp.gate.bias")}
        return right.updated(right.spec, {name: zeros(gate.shape, gate.dtype) for name, gate in gates.items()})

    monkeypatch.setattr(FoldNormBias, "run", forgets_the_gate)


@pytest.mark.usefixtures("broken_pass")
def test_a_broken_promise_is_not_published(orion: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(PromiseError, match=r"not written; in float64 the logits differ .* not exact; .*out\.unkept"):
        kept.convert(orion, target)
    assert not target.exists()
    assert not hidden(target).exists()
    aside = tmp_path / "out.unkept"
    record = read_json(aside / "kept.json")["verification"]
    assert record["kept"] is False
    assert "the map is not exact" in record["failure"]
    assert "Promise exact: broken: " in (aside / "README.md").read_text(encoding="utf-8")
    assert PromiseError.exit_code == 1


@pytest.mark.usefixtures("broken_pass")
def test_a_promise_broken_twice_states_it_twice(orion: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(PromiseError, match=r"not exact"):
            kept.convert(orion, tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"orion", "out.unkept"}


@pytest.mark.usefixtures("broken_pass")
def test_a_folder_of_that_name_that_is_not_ours_is_unchanged(orion: Path, tmp_path: Path) -> None:
    (tmp_path / "out.unkept").mkdir()
    (tmp_path / "out.unkept" / "mine").write_text("precious", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(PromiseError, match=r"the result is in .*out\.unkept-2 for a look"):
            kept.convert(orion, tmp_path / "out")
    assert (tmp_path / "out.unkept" / "mine").read_text(encoding="utf-8") == "precious"
    assert {file.name for file in tmp_path.iterdir()} == {"orion", "out.unkept", "out.unkept-2"} | {orion.name}


@pytest.mark.usefixtures("broken_pass")
def test_nobody_checks_what_nobody_asked_to_check(orion: Path, tmp_path: Path) -> None:
    assert kept.convert(orion, tmp_path / "out", verify_tokens=0).verification is None


def test_a_mended_pass_publishes_beside_the_broken_result(
    orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(export, "verify_staged", _says_no(export.verify_staged))
        with pytest.raises(PromiseError):
            kept.convert(orion, tmp_path / "out")
    kept.convert(orion, tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"orion", "out", "out.unkept"}


def _says_no(original: Any) -> Any:
    from dataclasses import replace

    def measured(*args: Any) -> Any:
        found = original(*args)
        return replace(found, same=replace(found.same, kl=float("nan"), perplexity=float("inf")))

    return measured


def test_nan_is_null_in_the_record(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "verify_staged", _says_no(export.verify_staged))
    with pytest.raises(PromiseError, match="not finite"):
        kept.convert(orion, tmp_path / "out")
    text = (tmp_path / "out.unkept" / "kept.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    same = read_json(tmp_path / "out.unkept" / "kept.json")["verification"]["same"]
    assert same["kl"] is same["perplexity"] is None
