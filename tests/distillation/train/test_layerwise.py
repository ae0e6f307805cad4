"""Branches learn alone from one pass of the teacher, and a run is the same to the bit when killed or split."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kept.distillation.loss.branch_error import branch_errors
from kept.distillation.train.student_branch import StudentBranch
from kept.distillation.train.trainer import Trainer
from kept.ir.spec import Norm
from support.branch_runs import (
    BRANCHES,
    STEPS,
    branch_trainer,
    branches_trained,
    branches_trained_on_two_ranks,
    disturbed,
)
from support.logits import model_of, random_program
from support.pass_helpers import layer_spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kept.distillation.train.progress import GroupProgress


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, GroupProgress]:
    """A run that nothing interrupts."""
    return branches_trained(tmp_path_factory.mktemp("whole"))


def test_errors_are_relative_to_the_absent_branch() -> None:
    """Whatever the size of the layer; tokens without a mask do not count, even with NaN."""
    random = torch.Generator().manual_seed(0)
    before, wanted, noise = (torch.randn(6, 8, generator=random) for _ in range(3))
    mask, norm = torch.tensor([1.0, 1, 1, 1, 1, 0]), Norm("rms", 0.0)
    found = branch_errors(before, wanted, wanted + 0.1 * noise, norm, mask)
    for size in (1e-3, 1e3):
        scaled = branch_errors(size * before, size * wanted, size * (wanted + 0.1 * noise), norm, mask)
        assert all(torch.allclose(scaled[name], found[name], rtol=1e-4) for name in found)
    assert {float(value) for value in branch_errors(before, wanted, wanted, norm, mask).values()} == {0.0}
    absent = branch_errors(before, wanted, torch.zeros_like(wanted), norm, mask)
    assert all(value == pytest.approx(1) for value in absent.values())
    wanted[5] = torch.nan
    assert branch_errors(before, wanted, wanted + 0.1 * noise, norm, mask) == found


def test_the_losses_are_those_of_the_whole_models(tmp_path: Path) -> None:
    """The branch of the first layer reads the embedding in both models, so plain forward passes have its error."""
    teacher = random_program(layer_spec())
    student = disturbed(teacher, BRANCHES)
    with branch_trainer(tmp_path / "run", whiten=False, refit=False) as made:
        batch = made._own_rows(made.stream.batch_at(0))
        (_, found), *_ = made.task.losses(batch, BRANCHES[:1])
    runs = []
    for program in (teacher, student):
        model = model_of(program)
        x, context = model.enter(batch.tokens_BT, documents_BT=batch.packed_BT)
        runs.append(next(model.layers[0].runs(x, context)))  # type: ignore[operator] # torch's stubs
    before, wanted, got = (x.flatten(0, 1) for x in (x, runs[0].added_BTD, runs[1].added_BTD))
    errors = branch_errors(before, wanted, got, teacher.spec.layers[0].mlp_norm, batch.mask_BT.flatten())  # type: ignore[arg-type]
    for name, error in errors.items():
        assert float(found.means[name]) == pytest.approx(float(error), rel=1e-4)


def test_branches_learn_what_they_can_represent(whole: Mapping[str, GroupProgress]) -> None:
    """The least-squares refit is the second measurement, before the first step."""
    for one in whole.values():
        losses = [measured.losses["loss"] for measured in one.history]
        assert [measured.step for measured in one.history] == [0, 0, 4, 8, STEPS]
        assert losses[1] < 0.8 * losses[0]
        assert min(losses) < 0.8 * losses[1]


def test_an_equal_student_has_no_error_and_does_not_change(tmp_path: Path) -> None:
    with branch_trainer(tmp_path / "run", size=0.0) as made:
        found = made.run()
        changed = made.best_weights()
    for one in found.values():
        assert {measured.losses["loss"] for measured in one.history} == {0.0}
    assert not [name for name in changed if name.endswith("weight")]


def test_a_refit_that_does_not_help_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one branch; the other keeps its own."""
    spoil = StudentBranch.refit

    def refit(self: StudentBranch, *given: Any) -> bool:
        done = spoil(self, *given)
        if self.pair.group == BRANCHES[1]:
            self.trainable["layers.1.mlp.down.weight"].data += 10
        return done

    monkeypatch.setattr(StudentBranch, "refit", refit)
    with branch_trainer(tmp_path / "run", tokens=24) as made:
        made._measure()
        made._refit()
        values = {name: one.group.weights() for name, one in made.progress.items()}
    assert not values[BRANCHES[1]]["layers.1.mlp.down.weight"].any()
    assert values[BRANCHES[0]]["layers.0.mixer.o.weight"].any()
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [line["kept"] for line in lines if line["kind"] == "refit"] == [[BRANCHES[0], BRANCHES[2]]]


def test_a_branch_learns_as_if_alone_and_stops_alone(
    tmp_path: Path, whole: Mapping[str, GroupProgress], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, steps = StudentBranch.losses, []

    def losses(self: StudentBranch, *given: Any) -> Any:
        found = original(self, *given)
        if self.pair.group != BRANCHES[1] or not torch.is_grad_enabled():
            return found
        steps.append(found)
        return found if len(steps) < 3 else type(found)(found.total * torch.nan, {}, None, found.tokens)

    monkeypatch.setattr(StudentBranch, "losses", losses)
    found = branches_trained(tmp_path / "run")
    assert str(found[BRANCHES[1]].stopped).startswith("step 3: the loss of the layers.1.mlp is nan")
    for name in (BRANCHES[0], BRANCHES[2]):
        assert str(found[name].outcome()) == str(whole[name].outcome())
        assert all(torch.equal(found[name].best[slot], value) for slot, value in whole[name].best.items())


def test_a_killed_run_continues_to_the_bit(tmp_path: Path, whole: Mapping[str, GroupProgress]) -> None:
    with branch_trainer(tmp_path / "run") as killed, pytest.MonkeyPatch.context() as patched:
        update = Trainer._update
        patched.setattr(Trainer, "_update", lambda self: _die() if self.step == 8 else update(self))
        with pytest.raises(RuntimeError, match="killed"):
            killed.run()
        killed.checkpoints.settle()
    with branch_trainer(tmp_path / "run") as again:
        assert again.step == 5
        found = again.run()
    for name, one in whole.items():
        assert str(found[name].outcome()) == str(one.outcome())
        assert all(torch.equal(found[name].best[slot], value) for slot, value in one.best.items())


def _die() -> None:
    raise RuntimeError("killed")


def test_two_ranks_take_branches_and_give_the_same(tmp_path: Path, whole: Mapping[str, GroupProgress]) -> None:
    found = branches_trained_on_two_ranks(tmp_path)
    with branch_trainer(tmp_path / "one") as made:
        progress, best = made.run(), made.best_weights()
    assert [sorted(rank["own"]) for rank in found] == [sorted(BRANCHES[:2]), [BRANCHES[2]]]
    for rank in found:
        assert rank["histories"] == {name: str(one.outcome()) for name, one in progress.items()}
        assert rank["best"].keys() == best.keys()
        assert all(torch.equal(rank["best"][slot], value) for slot, value in best.items())
    assert {name: str(one.outcome()) for name, one in whole.items()} == found[0]["histories"]


def test_bfloat16_learns_too_with_sums_in_float32(tmp_path: Path) -> None:
    """The factors of the inputs are those of a float32 run up to the rounding of the inputs themselves."""
    factors = []
    for dtype in ("float32", "bfloat16"):
        with branch_trainer(tmp_path / dtype, BRANCHES[:1], dtype=dtype, tokens=24) as made:
            factors.append(made.task._changes[BRANCHES[0]][1]["layers.0.mixer.o.weight"])  # type: ignore[attr-defined]
            losses = [one.losses["loss"] for one in made.run()[BRANCHES[0]].history]
        assert losses[1] < 0.8 * losses[0]
    wide, rounded = factors
    assert torch.allclose(wide, rounded, rtol=0.1, atol=0.02 * float(wide.max()))
    assert wide.dtype == torch.float64


def test_new_weights_have_their_own_learning_rate(tmp_path: Path) -> None:
    with branch_trainer(tmp_path / "run", new_learning_rate=2e-2) as made:
        plan = made.task.plan  # type: ignore[attr-defined] # a layerwise task
        object.__setattr__(plan, "new", {"layers.0.mixer.q.weight"})
        rules = {slot: rule.lr_factor for group in _ungrouped(made) for slot, rule in group.rules.items()}
    assert rules.pop("layers.0.mixer.q.weight") == 2
    assert {*rules.values()} == {1.0}


def _ungrouped(made: Trainer) -> Any:
    del made.task.__dict__["groups"]
    return made.task.groups
