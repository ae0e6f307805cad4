"""Outputs of healing have all that outputs of conversions have: measurements, card, checksums, verification."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import kept
from kept.cli.display.healing import healed
from kept.commands.cache_teacher import run_cache_teacher
from kept.commands.check import check
from kept.commands.heal import run_heal
from kept.distillation.train.trainer import Trainer
from kept.errors import CheckpointError, PromiseError
from kept.ir.promise import Promise
from kept.loaded import open_model
from kept.output import export
from kept.output.heal_summary import NOTHING_BETTER
from kept.output.write_record import verification_table
from kept.verification.verify import before_and_after
from support.heal_runs import STEPS, folder_of, losses, settings
from support.stored import change_json, read_json, write_readable

if TYPE_CHECKING:
    from pathlib import Path

    from kept.commands.heal_run import HealResult

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def done(pair: tuple[Path, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> HealResult:
    return run_heal(settings(pair, corpus, tmp_path_factory.mktemp("done") / "out", tokens=60 * 128))


def card(path: Path) -> str:
    return (path / "README.md").read_text(encoding="utf-8")


def test_the_record_has_the_verification_of_what_was_written(done: HealResult, pair: tuple[Path, Path]) -> None:
    record = read_json(done.path / "kept.json")
    assert done.verification is not None
    assert record["verification"] == verification_table(done.verification)
    assert record["promise"] == record["verification"]["promise"] == "lossy"
    student = kept.verify(pair[0], pair[1], tokens=512)
    assert student.same is not None
    assert record["verification"]["same"]["kl"] < student.same.kl, "not the conversion's figures"
    assert (record["recipe"], record["passes"]) == tuple(
        read_json(pair[1] / "kept.json")[k] for k in ("recipe", "passes")
    )


def test_the_record_has_texts_of_before_and_after(done: HealResult, pair: tuple[Path, Path]) -> None:
    student, output = open_model(pair[1]), open_model(done.path)
    expected = before_and_after(student, output)
    found = done.record["healed"]["continuations"]
    assert [(one["prompt"], one["source"], one["output"]) for one in found] == [
        (one.prompt, one.source, one.output) for one in expected
    ]
    assert len(found) > 1
    again = before_and_after(student, student)
    assert all(one.source == one.output for one in again), "a model beside itself"
    assert [one.source for one in again] == [one["source"] for one in found]


def test_verified_again_it_is_lossy_and_measures_the_same(done: HealResult, pair: tuple[Path, Path]) -> None:
    again = kept.verify(pair[0], done.path, tokens=512)
    assert (again.promise, again.altered, again.failure, again.proof) == (Promise.LOSSY, (), None, None)
    assert done.verification is not None
    assert (again.same, again.output) == (done.verification.same, done.verification.output)
    assert not [note for note in again.notes if "not the source" in note]


def test_the_output_is_whole(done: HealResult) -> None:
    found = check(done.path)
    assert (found.damage, found.remarks) == ((), ())
    listed = read_json(done.path / "kept.json")["files"]
    assert {*listed, "kept.json"} == {file.name for file in done.path.iterdir()}
    assert "README.md" in listed


def test_the_card_says_what_learned_and_what_that_did(done: HealResult) -> None:
    said, record = card(done.path), read_json(done.path / "kept.json")
    first, best = done.history[0], done.best
    assert "# orion converted to llama, healed\n" in said
    assert "Promise: **lossy**" in said
    assert "| `layernorm-to-rmsnorm` | lossy | LayerNorm becomes RMSNorm |" in said
    assert "Trained: norms, 448 of 134 K parameters, from orion; on: lines (" in said
    assert f"Healing on {best.tokens:,} tokens took the held-out KL from the teacher from" in said
    assert f"| KL from the teacher, nats per token | {first.losses['kl']:.4g} | {best.losses['kl']:.4g} |" in said
    assert f"| {record['verification']['output']['kl']:.2g} |" in said
    assert "All rows are compared with the teacher in float64" in said
    assert re.search(r"the teacher's own rounding is [\d.e-]+\.\*\* Promise lossy: nothing is promised", said)
    assert re.search(r"Perplexity of that text in the teacher: [\d.]+\.", said)
    assert "\n\n\n" not in said


def test_a_record_has_trained_parameters_and_tokens(done: HealResult, pair: tuple[Path, Path]) -> None:
    healed = read_json(done.path / "kept.json")["healed"]
    assert healed["trained"] == {"parameters": 448, "of": done.trained.of}
    assert healed["sources"]["lines"]["documents"] > 390
    assert healed["student"]["name"] == "plain"
    weights = "model.safetensors"
    assert healed["student"]["files"][weights] == read_json(pair[1] / "kept.json")["files"][weights]


def test_the_command_shows_the_verification(done: HealResult, capsys: pytest.CaptureFixture[str]) -> None:
    healed(done)
    shown = capsys.readouterr().out
    assert "largest logit difference " in shown
    assert "the teacher's own rounding" in shown
    assert shown.index("held-out") < shown.index("parameters were trained") < shown.index("promise lossy: nothing")
    assert NOTHING_BETTER not in shown


def test_the_page_of_a_healed_model_shows_it_as_it_is(done: HealResult, tmp_path: Path) -> None:
    page = kept.report(done.path, tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert "before healing" not in page
    assert "promise lossy" in page


# ----------------------------------------------------------------------------------------------- where less is known


def test_a_student_that_kept_did_not_make(corpus: Path, tmp_path: Path) -> None:
    teacher, student = (write_readable(tmp_path / name, "llama", seed=seed) for seed, name in enumerate(("one", "two")))
    change_json(student / "config.json", auto_map={"AutoConfig": "code.Config"})
    (student / "README.md").write_text("---\nlicense: apache-2.0\n---\nThe figures of old.\n", encoding="utf-8")
    made = run_heal(settings((teacher, student), corpus, tmp_path / "out"))
    said = card(made.path)
    assert "# two, healed\n" in said
    assert "## Conversion" not in said
    assert "figures of old" not in said
    assert 'license: "apache-2.0"' in said
    assert "auto_map" not in read_json(made.path / "config.json"), "the code is not copied"
    assert made.record["promise"] == "lossy"
    assert kept.verify(teacher, made.path, tokens=16).promise is Promise.LOSSY
    assert check(made.path).damage == ()
    assert kept.report(made.path).sections == ("parity", "healing", "generations", "load")


def test_without_a_teacher_nothing_is_measured(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    given = settings(pair, corpus, tmp_path / "out")
    cached = run_cache_teacher(replace(given, out=str(tmp_path / "teacher")), top_k=5)
    made = run_heal(replace(given, teacher=None, teacher_cache=str(cached.path)))
    assert made.verification is made.record["verification"] is None
    assert made.record["promise"] == "lossy"
    assert "Nothing: no teacher of its width was at hand." in card(made.path)
    assert "448 of 134 K parameters, from teacher; on: lines" in card(made.path)
    assert check(made.path).damage == ()
    assert kept.verify(pair[0], made.path, tokens=16).promise is Promise.LOSSY


def test_texts_alone_leave_no_number_that_json_lacks(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run_heal(settings(pair, corpus, tmp_path / "out", teacher=None, kl=0.0, ce=1.0))
    assert "NaN" not in (made.path / "kept.json").read_text(encoding="utf-8")
    assert made.record["healed"]["groups"]["student"]["held_out"][0]["agreement"] is None
    said, learned = " ".join(card(made.path).split()), made.best.losses["ce"]
    measured = f"cross-entropy was {made.history[0].losses['ce']:.4g} nats per token before, and is {learned:.4g}."
    assert f"It was trained on texts alone, so there is no teacher to compare it with. Its held-out {measured}" in said
    assert "tokens took the held-out cross-entropy with the text from" in said
    assert re.search(r"448 of 134 K parameters; on: lines \(of [\d,]+ tokens; [\d,]+ more are held out\)\. Rows", said)
    assert "weighted sum" not in said
    page = kept.report(made.path, tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert "promise lossy: trained on texts alone<" in page
    assert "Before and after healing" in page
    assert "<dt>held-out cross-entropy with the text, nats per token</dt>" in page
    healed(made)
    assert [line for line in capsys.readouterr().out.splitlines() if " loss, nats" in line] == []
    assert "top-1 agreement" not in card(made.path).split("## What was measured")[0]
    assert "nan" not in card(made.path)


def test_a_model_that_is_healed_again_tells_of_both(done: HealResult, corpus: Path, tmp_path: Path) -> None:
    given = settings((done.path, done.path), corpus, tmp_path / "tuned", teacher=None, kl=0.0, ce=1.0)
    again = run_heal(replace(given, data=(f"conversations={corpus}",)))
    told = card(again.path).split("## Lineage, oldest first\n\n")[1].split("\n\n")[0].splitlines()
    assert [line.rpartition("; ")[2] for line in told] == ["promise lossy"] * 3
    assert told[0].startswith("1. orion (orion): converted to llama (")
    assert told[1].startswith("2. healed on lines: norms trained, ")
    assert told[1].endswith(" tokens, from orion; promise lossy")
    assert told[2] == (
        f"3. healed on conversations: norms trained, {again.best.tokens:,} tokens, from the texts alone; promise lossy"
    )
    page = kept.report(again.path, tmp_path / "page.html")
    assert "lineage" in page.sections
    assert page.path.read_text(encoding="utf-8").index("healed on lines") > 0


def test_a_teacher_of_another_width_trains_but_no_parity_is_measured(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path
) -> None:
    wide = write_readable(tmp_path / "wide", "llama", hidden_size=128)
    made = run_heal(settings((wide, pair[1]), corpus, tmp_path / "out"))
    assert made.verification is None
    assert made.best.step > 0


# -------------------------------------------------------------------------------------------------- what goes wrong


def test_where_nothing_got_better_that_is_said(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run_heal(settings(pair, corpus, tmp_path / "out", learning_rate=100.0, lr_schedule="constant", patience=1))
    assert made.best.step == 0
    healed(made)
    page = kept.report(made.path, tmp_path / "page.html").path.read_text(encoding="utf-8")
    shown = capsys.readouterr().out
    assert f"{NOTHING_BETTER} A lower --learning-rate or more --tokens may help." in shown
    for told in (shown, card(made.path), page):
        assert NOTHING_BETTER in " ".join(told.split())
    before, after = (kept.open_model(path).files[0].read_bytes() for path in (pair[1], made.path))
    assert before == after


def test_a_result_that_puts_out_no_number_has_another_name(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = export.verify_staged

    def says_no(*given: Any) -> Any:
        found = original(*given)
        assert found.same is not None
        return replace(found, same=replace(found.same, kl=math.nan))

    given = settings(pair, corpus, tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(export, "verify_staged", says_no)
        with pytest.raises(PromiseError, match=r"out: not written; .* not finite; the result is in .*out\.unkept for"):
            run_heal(given)
    assert not (tmp_path / "out").exists()
    assert read_json(tmp_path / "out.unkept" / "kept.json")["verification"]["kept"] is False
    assert run_heal(given).path.is_dir(), "the same command goes on from the last checkpoint"


def test_stopped_while_it_is_measured_it_is_not_written_and_goes_on(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*_: Any) -> None:
        raise KeyboardInterrupt

    given = settings(pair, corpus, tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(export, "verify_staged", stops)
        with pytest.raises(KeyboardInterrupt):
            run_heal(given)
    assert not (tmp_path / "out").exists()
    assert len(losses(tmp_path / "out")) == STEPS
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_update", stops)  # nothing is learned again
        again = run_heal(given)
    whole = run_heal(replace(given, out=str(tmp_path / "whole")))
    assert again.record["files"]["model.safetensors"] == whole.record["files"]["model.safetensors"]
    assert again.record["verification"] == whole.record["verification"]
    assert not [*folder_of(tmp_path / "out").glob("step-*")]


@pytest.mark.parametrize("changes", [{"source": {}}, {"passes": [{"name": 3}]}, {"runtimes": {}}, {"recipe": []}])
def test_a_damaged_record_is_named_before_a_step_is_taken(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    student = tmp_path / "student"
    shutil.copytree(pair[1], student)
    change_json(student / "kept.json", **changes)
    with pytest.raises(CheckpointError, match=r"student/kept\.json: the record is not as kept writes it"):
        run_heal(settings((pair[0], student), corpus, tmp_path / "out"))
    assert not folder_of(tmp_path / "out").exists()
