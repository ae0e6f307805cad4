"""`kept heal --layerwise`: what it trains, what it writes, and what it refuses."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import kept
from kept.cli.root import main
from kept.commands.check import check
from kept.commands.layerwise_inputs import layerwise_inputs
from kept.commands.teacher_student import TeacherStudent
from kept.distillation.settings import HealSettings
from kept.errors import InputError
from kept.output.record import read_record, record_table
from kept.pages.healing import facts, in_words
from support.stored import read_json, write_readable

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("teacher") / "llama", "llama")


@pytest.fixture(scope="module")
def latent(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exact latent form of the teacher, with noise on the projection from the latent of layers 0 and 2."""
    folder = tmp_path_factory.mktemp("latent") / "latent"
    kept.convert(teacher, folder, to="deepseek_v3", verify_tokens=0, dtype="float32")
    file = folder / "model.safetensors"
    weights, random = load_file(file), torch.Generator().manual_seed(0)
    for layer in (0, 2):
        weight = weights[f"model.layers.{layer}.self_attn.kv_b_proj.weight"]
        weight += 0.3 * torch.randn(weight.shape, generator=random)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def asked(student: Path, teacher: Path, **changes: Any) -> HealSettings:
    return HealSettings.from_table(
        {"student": str(student), "teacher": str(teacher), "out": "out", "layerwise": True, **changes}
    )


def inputs(student: Path, teacher: Path, **changes: Any) -> Any:
    settings = asked(student, teacher, sequence_length=32, **changes)
    return layerwise_inputs(settings, TeacherStudent.open(settings), record_table(student))


def test_the_command_heals_each_branch_and_the_whole_model(
    teacher: Path, latent: Path, corpus: Path, tmp_path: Path
) -> None:
    """The KL of the whole model is the headline; what is not trained is the student's own, byte for byte."""
    out = tmp_path / "out"
    done = CliRunner().invoke(
        main,
        [
            *("heal", str(latent), "--teacher", str(teacher), "--layerwise", "--data", str(corpus), "--out", str(out)),
            *("--batch-size", "4", "--sequence-length", "32", "--tokens", "1280", "--eval-every", "5"),
            *("--calibration-tokens", "1K"),
        ],
    )
    assert done.exit_code == 0, done.stderr
    before, after = map(float, re.search(r"KL from the teacher: (\S+) -> (\S+) nats", done.stdout).groups())  # type: ignore[union-attr]
    assert after < 0.5 * before
    healed = read_json(out / "kept.json")["healed"]
    assert (healed["settings"]["layerwise"], healed["settings"]["train"]) == (True, "changed")
    assert [*healed["groups"]] == [f"layers.{i}.mixer" for i in range(3)]
    assert healed["kl"]["before"] == pytest.approx(before, rel=1e-3)
    ours, theirs = load_file(out / "model.safetensors"), load_file(latent / "model.safetensors")
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed
    assert all(".self_attn." in name for name in changed)
    assert check(out).verdict.startswith("sound")
    record = read_record(out)
    assert record is not None
    assert "The KL of the whole model" in in_words(record)[0]
    assert "KL from the teacher" in str(facts(record)[0])


def test_branches_that_differ_are_trained(teacher: Path, tmp_path: Path) -> None:
    """By weights too: one matrix of one MLP."""
    student = shutil.copytree(teacher, tmp_path / "student")
    file = next(student.glob("*.safetensors"))
    weights = load_file(file)
    weights["model.layers.1.mlp.up_proj.weight"] += 1
    save_file(weights, file, metadata={"format": "pt"})
    plan, trained = inputs(student, teacher)
    assert [pair.group for pair in plan.pairs] == ["layers.1.mlp"]
    assert trained.slots == tuple(f"layers.1.mlp.{name}.weight" for name in ("gate", "up", "down"))
    plan, _ = inputs(student, teacher, train="layers.0.*+head")
    assert [pair.group for pair in plan.pairs] == ["layers.0.mixer", "layers.0.mlp"]


def test_layers_are_paired_by_their_origin(teacher: Path, tmp_path: Path) -> None:
    student = kept.convert(teacher, tmp_path / "out", to="same", passes=[{"name": "drop-layers", "layers": [1]}]).path
    plan, _ = inputs(student, teacher, train="layers.*.mlp.*")
    assert [(pair.layer, pair.teacher_layer) for pair in plan.pairs] == [(0, 0), (1, 2)]


def test_what_cannot_be_paired_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"layerwise: no branch of .* differs from that of its teacher"):
        inputs(teacher, teacher)
    with pytest.raises(InputError, match="train: 'head' names no weight of a branch"):
        inputs(teacher, teacher, train="head")
    short = write_readable(tmp_path / "short", "llama", num_hidden_layers=2)
    with pytest.raises(InputError, match=r"has 2 layers, its teacher .* has 3, and no record tells which are which"):
        inputs(short, teacher)
    narrow = write_readable(tmp_path / "narrow", "llama", hidden_size=32, head_dim=16)
    with pytest.raises(InputError, match=r"layerwise: the residual stream of .* leave out --layerwise"):
        inputs(narrow, teacher)
