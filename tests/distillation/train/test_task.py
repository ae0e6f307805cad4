"""A task with several parameter groups: each has its own clipping, best weights and end, and learns as if alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kept.distillation.train.divergence import Diverged
from kept.distillation.train.measurement import best_measurement
from kept.distillation.train.process_group import Ranks
from kept.distillation.train.task import UpdateRule
from kept.distillation.train.trainer import Trainer
from support.layerwise import EVERY, STEPS, Counting, Layerwise, trained, trained_on_two_ranks, trainer

if TYPE_CHECKING:
    from pathlib import Path


def test_each_parameter_group_is_trained_as_if_alone(tmp_path: Path) -> None:
    """Bit for bit, from one pass of the teacher a batch."""
    with trainer(tmp_path / "both", {"first": 0, "second": 1}) as both:
        together = both.run()
        passes = both.task.teacher.passes  # type: ignore[attr-defined] # of this file's task
    held_out = len(both.stream.held_out())
    assert passes == STEPS + (STEPS // EVERY + 1) * held_out
    for name, layer in {"first": 0, "second": 1}.items():
        alone = trained(tmp_path / name, {name: layer})[name]
        assert alone.history == together[name].history
        assert alone.history[-1].losses["loss"] < alone.history[0].losses["loss"]
        assert torch.equal(alone.best[f"{name}.weight"], together[name].best[f"{name}.weight"])


def test_one_clipping_norm_for_both_groups_changes_the_result(tmp_path: Path) -> None:
    """Negative control."""
    own = trained(tmp_path / "own", {"first": 0, "second": 1})
    shared = trained(tmp_path / "shared", {"first": 0, "second": 1}, shared=True)["all"]
    for name in own:
        key = f"{name}.weight"
        assert not torch.allclose(shared.best[key], own[name].best[key], rtol=1e-4)


def test_each_group_has_its_own_best_and_its_own_end(tmp_path: Path) -> None:
    """The error of `away` only grows: its best weights are the first ones, and it ends after two measurements."""
    layers = {"toward": 0, "away": 1}
    found = trained(tmp_path / "run", layers, away=["away"], patience=2)
    start = Layerwise(Counting(Ranks(0, 1, torch.device("cpu"))), layers).maps["away"].weight
    assert torch.equal(found["away"].best["away.weight"], start)
    assert [one.step for one in found["away"].history] == [0, 2, 4]
    assert [one.step for one in found["toward"].history] == [*range(0, STEPS + 1, EVERY)]
    best = min(found["toward"].history, key=lambda one: one.losses["loss"])
    assert best.step > 4


def test_a_checkpoint_has_each_group(tmp_path: Path) -> None:
    layers = {"first": 0, "second": 1}
    done = trained(tmp_path / "run", layers)
    with trainer(tmp_path / "run", layers) as again:
        assert again.step == STEPS
        for name, one in again.progress.items():
            assert str(one.history) == str(done[name].history), "NaN, no agreement, equals nothing"
            assert torch.equal(one.best[f"{name}.weight"], done[name].best[f"{name}.weight"])
            assert one.spikes.recent == done[name].spikes.recent


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_the_norm_before_clipping_is_reported(tmp_path: Path, clip: float) -> None:
    with trainer(tmp_path / "run", {"first": 0, "second": 1}, clip=clip) as made:
        report = made._update()
    norms = {name: report[name]["gradient_norm"] for name in ("first", "second")}
    assert norms["first"] != norms["second"]
    assert all(norm > 1e-3 for norm in norms.values())


def test_parts_of_a_group_have_their_own_learning_rate(tmp_path: Path) -> None:
    """Two parts under one clip: one of them learns at a tenth of the rate."""
    layers = {"first": 0, "second": 1}
    slow = {"second": UpdateRule(lr_factor=0.1)}
    with trainer(tmp_path / "run", layers, shared=True, rules=slow) as made:
        start = {name: one.weight.detach().clone() for name, one in made.task.maps.items()}  # type: ignore[attr-defined]
        made._update()
        moved = {name: float((made.task.maps[name].weight.detach() - start[name]).abs().max()) for name in layers}  # type: ignore[attr-defined]
    assert moved["second"] == pytest.approx(0.1 * moved["first"], rel=1e-3), (
        "AdamW's first step has the size of its rate"
    )


def test_a_learning_rate_of_a_group_is_the_same_rate_of_a_run(tmp_path: Path) -> None:
    """Half of a rate is half a rate, to the bit; the other group learns as it did."""
    layers = {"first": 0, "second": 1}
    plain = trained(tmp_path / "plain", layers)
    halved = trained(tmp_path / "halved", layers, rules={"second": UpdateRule(lr_factor=0.5)})
    alone = trained(tmp_path / "alone", {"second": 1}, learning_rate=5e-3)
    assert torch.equal(halved["first"].best["first.weight"], plain["first"].best["first.weight"])
    assert torch.equal(halved["second"].best["second.weight"], alone["second"].best["second.weight"])
    assert not torch.equal(halved["second"].best["second.weight"], plain["second"].best["second.weight"])


def test_weight_decay_is_by_parameter(tmp_path: Path) -> None:
    layers = {"first": 0, "second": 1}
    plain = trained(tmp_path / "plain", layers)
    decayed = trained(tmp_path / "decayed", layers, rules={"second": UpdateRule(weight_decay=0.5)})
    assert torch.equal(decayed["first"].best["first.weight"], plain["first"].best["first.weight"])
    assert not torch.equal(decayed["second"].best["second.weight"], plain["second"].best["second.weight"])
    with pytest.raises(AssertionError, match="frozen rows"):
        UpdateRule(weight_decay=0.5, rows=range(2))


def test_a_group_that_diverges_stops_and_the_other_goes_on(tmp_path: Path) -> None:
    """Its weights stay those before the bad step; the other group is the same to the bit as without it."""
    layers = {"first": 0, "second": 1}
    with trainer(tmp_path / "run", layers, breaks={"second": 5}) as made:
        found = made.run()
        last = made.task.maps["second"].weight.detach().clone()  # type: ignore[attr-defined]
    alone = trained(tmp_path / "alone", {"first": 0})["first"]
    assert found["first"].history == alone.history
    assert torch.equal(found["first"].best["first.weight"], alone.best["first.weight"])
    assert found["first"].stopped is None
    assert str(found["second"].stopped).startswith("step 6: the loss of the second is nan, its gradient norm nan; the ")
    assert [one.step for one in found["second"].history] == [0, 2, 4]
    assert last.isfinite().all()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(one["step"], one["group"]) for one in lines if one["kind"] == "stopped"] == [(6, "second")]


def test_a_held_out_loss_that_is_nan_stops_its_group(tmp_path: Path) -> None:
    """The training batches up to the measurement are finite."""
    found = trained(tmp_path / "run", {"first": 0, "second": 1}, breaks={"second": 4})
    assert str(found["second"].stopped) == "step 4: the held-out loss of the second is nan"
    assert [one.step for one in found["second"].history] == [0, 2, 4]
    assert best_measurement(found["second"].history).step == 2
    assert found["second"].best["second.weight"].isfinite().all()
    assert found["first"].history[-1].step == STEPS


def test_a_run_in_which_every_group_diverges_fails(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"step 8: the loss of the second is nan, .* lower --learning-rate"):
        trained(tmp_path / "run", {"first": 0, "second": 1}, breaks={"first": 5, "second": 7})


def test_a_grouped_run_resumes_to_the_bit(tmp_path: Path) -> None:
    """After a kill behind the step at which a group stopped, which is not noted twice."""
    layers = {"first": 0, "second": 1, "third": 0}
    options: dict[str, Any] = {"breaks": {"second": 3}, "rules": {"third": UpdateRule(lr_factor=0.5)}, "save_every": 5}
    whole = trained(tmp_path / "whole", layers, **options)
    with trainer(tmp_path / "run", layers, **options) as killed, pytest.MonkeyPatch.context() as patched:
        update = Trainer._update
        patched.setattr(Trainer, "_update", lambda self: die() if self.step == 8 else update(self))
        with pytest.raises(RuntimeError, match="killed"):
            killed.run()
        killed.checkpoints.settle()
    with trainer(tmp_path / "run", layers, **options) as again:
        assert again.step == 5
        assert again.progress["second"].stopped == whole["second"].stopped
        again.task.batches = 5  # type: ignore[attr-defined]
        found = again.run()
    for name, one in whole.items():
        assert str(found[name].history) == str(one.history)
        assert torch.equal(found[name].best[f"{name}.weight"], one.best[f"{name}.weight"])
    assert without_speed(tmp_path / "run" / "metrics.jsonl") == without_speed(tmp_path / "whole" / "metrics.jsonl")


def die() -> None:
    raise RuntimeError("killed")


def without_speed(file: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, file.read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def test_ranks_train_different_groups(tmp_path: Path) -> None:
    """Each on whole batches, with its groups in another order: the same losses and weights as on one rank, to the bit.

    The group of the second rank diverges, which both ranks know. Then one rank resumes what two have begun.
    """
    layers = {"first": 0, "second": 1, "third": 1}
    rules = {"third": UpdateRule(lr_factor=0.5)}
    options: dict[str, Any] = {"breaks": {"second": 5}, "rules": rules}
    wanted = trained(tmp_path / "one", layers, **options)
    owners = {"first": 0, "second": 1, "third": 1}
    ranks = trained_on_two_ranks(tmp_path / "two", layers, owners, options)
    for found in ranks:
        assert found["histories"] == {name: str(one.outcome()) for name, one in wanted.items()}
        assert {*found["best"]} == {f"{name}.weight" for name in layers}
        for one in wanted.values():
            assert all(torch.equal(found["best"][name], weight) for name, weight in one.best.items())
    assert [rank["own"]["first"] for rank in ranks] == [["first.weight"], []]
    with trainer(tmp_path / "two", layers, **options) as again:
        assert again.step == STEPS
        assert {name: str(one.outcome()) for name, one in again.progress.items()} == ranks[0]["histories"]
        assert all(torch.equal(weight, ranks[0]["best"][name]) for name, weight in again.best_weights().items())
        assert len(again.optimizer.state) == len(layers)
