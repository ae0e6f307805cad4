"""A task with two parameter groups: each has its own clipping, best weights and end, and learns as if alone."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from kept.distillation.data.mixture import Mixture
from kept.distillation.data.packing import BatchStream
from kept.distillation.loss.chunked_loss import Losses
from kept.distillation.loss.hidden_states import masked_mean, relative_squared_error
from kept.distillation.settings import HealSettings
from kept.distillation.train.load_backbone import load_backbone
from kept.distillation.train.metrics import Metrics
from kept.distillation.train.process_group import Ranks, process_group
from kept.distillation.train.run_checkpoints import RunCheckpoints
from kept.distillation.train.task import ParameterGroup
from kept.distillation.train.trainer import Trainer
from support.heal_data import tokens_of
from support.logits import random_program
from support.pass_helpers import layer_spec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from kept.distillation.data.packing import Batch
    from kept.distillation.train.backbone import Backbone
    from kept.distillation.train.progress import GroupProgress

STEPS, EVERY = 12, 2


class Counting:
    """A teacher that counts its passes."""

    def __init__(self, ranks: Ranks) -> None:
        self.backbone: Backbone = load_backbone(random_program(layer_spec()), torch.float32, ranks)
        self.width, self.passes = self.backbone.model.spec.width, 0

    def __call__(self, batch: Batch) -> Sequence[torch.Tensor]:
        self.passes += 1
        return self.backbone.output(batch, keep_hidden=True).hidden_states


@dataclass
class Layerwise:
    """Candidates for layers of a teacher: linear maps from a layer's input to its output, both hidden states.

    `away` are candidates with reversed gradients: their error grows. `shared`: one group with one clip has all of them.
    """

    teacher: Counting
    layers: Mapping[str, int]
    away: Collection[str] = ()
    shared: bool = False
    clip: float = 1e-3

    def __post_init__(self) -> None:
        width = self.teacher.width
        self.maps = {name: nn.Linear(width, width, bias=False) for name in self.layers}
        for name, one in self.maps.items():
            generator = torch.Generator().manual_seed(self.layers[name])
            one.weight.data = torch.randn(width, width, generator=generator) / width
        parameters = {name: {f"{name}.weight": one.weight} for name, one in self.maps.items()}
        if self.shared:
            parameters = {"all": {name: one for group in parameters.values() for name, one in group.items()}}
        self.groups = [ParameterGroup(name, one, self.clip) for name, one in parameters.items()]  # type: ignore[arg-type]

    def losses(self, batch: Batch, active: Collection[str]) -> Mapping[str, Losses]:
        with torch.no_grad():
            hidden = self.teacher(batch)
        if self.shared:
            parts = [self._loss(name, hidden, batch) for name in self.layers]
            total = torch.stack([one.total for one in parts]).sum()
            return {"all": Losses(total, {}, None, parts[0].tokens)}
        return {name: self._loss(name, hidden, batch) for name in active}

    def _loss(self, name: str, hidden: Sequence[torch.Tensor], batch: Batch) -> Losses:
        layer, mask_N = self.layers[name], batch.mask_BT.flatten()
        found, wanted = self.maps[name](hidden[layer]), hidden[layer + 1]
        error = masked_mean(relative_squared_error(wanted.flatten(0, 1), found.flatten(0, 1)), mask_N)
        total = 2 * error.detach() - error if name in self.away else error
        return Losses(total, {"error": error.detach()}, None, int((mask_N != 0).sum()))

    text_losses = losses

    def set_gradient_sync(self, *, enabled: bool) -> None:
        """One rank has nothing to reduce."""

    def nonfinite_cause(self, batch: Batch, *, trained: bool) -> str | None:  # noqa: ARG002 - the protocol's
        return None


@contextmanager
def trainer(folder: Path, layers: Mapping[str, int], patience: int = 0, **options: Any) -> Iterator[Trainer]:
    folder.mkdir(exist_ok=True)
    settings = HealSettings(
        "student", str(folder), "teacher", tokens=STEPS * 24, batch_size=2, sequence_length=12, eval_every=EVERY,
        learning_rate=1e-2, patience=patience,
    )  # fmt: skip
    with process_group("cpu") as ranks:
        task = Layerwise(Counting(ranks), layers, **options)
        documents = tokens_of([9] * 20)
        documents.ids[:] %= 7
        stream = BatchStream(Mixture({"text": documents}), 2, 12)
        yield Trainer(settings, ranks, task, stream, RunCheckpoints(folder, ranks), Metrics(folder))


def trained(folder: Path, layers: Mapping[str, int], **options: Any) -> Mapping[str, GroupProgress]:
    with trainer(folder, layers, **options) as made:
        return made.run()


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
