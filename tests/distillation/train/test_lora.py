"""LoRA: thin matrices learn, the file has wide ones, and what is written is what was trained."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

import kept
from kept.commands.heal import run_heal
from kept.distillation.train.choose_trainable import lora_slots, trainable
from kept.distillation.train.end_to_end import STUDENT
from kept.distillation.train.load_backbone import load_backbone
from kept.distillation.train.lora import ADAPTER
from kept.distillation.train.process_group import Ranks
from kept.distillation.train.trainer import Trainer
from kept.errors import InputError, RecipeError
from kept.nn import Model
from support.heal_runs import finish, losses, settings, start
from support.logits import random_program
from support.pass_helpers import layer_spec
from support.spies import noting
from support.stored import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from kept.distillation.train.backbone import Backbone
    from kept.distillation.train.trainable import Trainable
    from kept.ir.program import Program

HERE = Ranks(0, 1, torch.device("cpu"))


def adapted(choice: str = "lora") -> tuple[Program, Trainable, Backbone]:
    program = random_program(layer_spec())
    chosen = trainable(program, choice, lora_rank=3, lora_alpha=12)
    return program, chosen, load_backbone(program, torch.float64, HERE, chosen)


def learned(trunk: Backbone) -> dict[str, torch.Tensor]:
    """Everything that learns, moved."""
    random = torch.Generator().manual_seed(0)
    learning = {name: p for name, p in trunk.model.named_parameters() if p.requires_grad}
    for parameter in learning.values():
        parameter.data = parameter.double() + 0.1 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return {name: p.detach() for name, p in learning.items()}


def test_the_projections_learn_in_thin_matrices_and_are_counted() -> None:
    program, chosen, trunk = adapted()
    assert chosen.slots == ()
    assert chosen.lora is not None
    assert set(chosen.lora.slots) == {
        n for n in program.weights if n.endswith((".weight",)) and n.startswith("layers.")
    }
    learning = [p for p in trunk.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learning) == chosen.parameters
    assert {p.dtype for p in learning} == {torch.float32}


def test_at_first_the_model_is_what_it_was() -> None:
    program, _, trunk = adapted()
    tokens = torch.arange(12)[None] % 7
    assert torch.equal(trunk.model(tokens), Model.load(program, torch.float64)(tokens))


@pytest.mark.parametrize("choice", ["lora", "norms+lora", "all+lora"])
def test_merged_it_computes_the_same(choice: str) -> None:
    program, chosen, trunk = adapted(choice)
    tokens = torch.arange(12)[None] % 7
    before = trunk.model(tokens).detach()
    found = learned(trunk)
    wanted = trunk.model(tokens).detach()
    weights = chosen.weights(program, found)
    assert set(weights) == {*chosen.slots, *lora_slots(program.spec)}
    model = Model.load(program.updated(program.spec, weights), torch.float64, "float64")
    assert float((model(tokens) - wanted).abs().max()) < 1e-9
    assert float((before - wanted).abs().max()) > 0.01  # negative control


def test_merging_is_pefts() -> None:
    program, chosen, trunk = adapted()
    found = learned(trunk)
    layer: Any = trunk.model.get_submodule("layers.0.mixer.q")
    name = "layers.0.mixer.q.weight"
    wanted = layer.base_layer.weight + layer.get_delta_weight(ADAPTER)
    assert torch.allclose(chosen.weights(program, found)[name].value("float64"), wanted, atol=1e-12)


def test_it_heals_with_norms_and_writes_plain_weights(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    given = {"train": "norms+lora", "lora_rank": 4, "tokens": 40 * 128, "learning_rate": 5e-3}
    done = run_heal(settings(pair, corpus, tmp_path / "out", **given))
    losses = [one.losses["loss"] for one in done.history]
    assert min(losses) < 0.6 * losses[0]
    before, after = (kept.open_model(path).program for path in (pair[1], done.path))
    assert set(before.weights) == set(after.weights)
    changed = {n for n, t in after.weights.items() if not torch.equal(t.read(), before.weights[n].read())}
    assert changed == {*done.trained.slots, *lora_slots(before.spec)}
    assert read_json(done.path / "kept.json")["healed"]["settings"]["lora_rank"] == 4


def test_what_is_written_measures_as_it_did(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    done = run_heal(settings(pair, corpus, tmp_path / "out", train="lora"))
    best = min(one.losses["loss"] for one in done.history)
    again = settings((pair[0], done.path), corpus, tmp_path / "again", train="lora", tokens=128, learning_rate=1e-9)
    assert run_heal(again).history[0].losses["loss"] == pytest.approx(best, rel=1e-5)


def test_killed_and_started_again_it_is_the_same_run(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    whole, broken = (settings(pair, corpus, tmp_path / name, train="norms+lora") for name in ("whole", "broken"))
    run_heal(whole)
    assert finish(start(broken, "step 7")) == [-signal.SIGKILL]
    run_heal(broken)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_two_ranks_are_one_and_either_goes_on_for_the_other(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path
) -> None:
    one, two = (settings(pair, corpus, tmp_path / name, train="norms+lora") for name in ("one", "two"))
    run_heal(one)
    assert finish(start(two, "step 7")) == [-signal.SIGKILL]
    assert finish(start(two, ranks=2)) == [0, 0]
    found, wanted = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert found == pytest.approx(wanted, rel=1e-4)
    assert len(wanted) == 12


def test_what_cannot_be_done_is_said(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="lora_rank: is 0, it must be at least 1"):
        settings(pair, corpus, tmp_path / "out", lora_rank=0)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"train: lora needs peft; pip install 'kept\[heal\]'"):
        run_heal(settings(pair, corpus, tmp_path / "out", train="lora"))


def test_a_checkpoint_has_only_trainable_parameters(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    note = noting(Trainer._save, lambda self: seen.append(set(self.progress[STUDENT].best)))
    monkeypatch.setattr(Trainer, "_save", note)
    run_heal(settings(pair, corpus, tmp_path / "out", train="lora", tokens=128))
    assert all(".lora_A." in name or ".lora_B." in name for name in seen[-1])
