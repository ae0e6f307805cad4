"""A task with many groups: candidates for layers of a teacher, trained from one pass of it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from kept.distillation.train.task import ParameterGroup, UpdateRule
from kept.distillation.train.trainer import Trainer
from support.heal_data import tokens_of
from support.heal_runs import finish, start_ranks
from support.logits import random_program
from support.pass_helpers import layer_spec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

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
    `rules` are the candidates' update rules. The loss of each in `breaks` is NaN after that training batch.
    `owners` are the ranks that train the candidates, each on whole batches; ranks have their groups in other orders.
    """

    teacher: Counting
    layers: Mapping[str, int]
    away: Collection[str] = ()
    shared: bool = False
    clip: float = 1e-3
    rules: Mapping[str, UpdateRule] = field(default_factory=dict)
    breaks: Mapping[str, int] = field(default_factory=dict)
    owners: Mapping[str, int] = field(default_factory=dict)
    rank: int = 0

    def __post_init__(self) -> None:
        width = self.teacher.width
        self.maps = {name: nn.Linear(width, width, bias=False) for name in self.layers}
        for name, one in self.maps.items():
            generator = torch.Generator().manual_seed(self.layers[name])
            one.weight.data = torch.randn(width, width, generator=generator) / width
        parameters = {
            name: {f"{name}.weight": one.weight} if self._is_own(name) else {} for name, one in self.maps.items()
        }
        if self.shared:
            parameters = {"all": {name: one for group in parameters.values() for name, one in group.items()}}
        rules = {f"{name}.weight": rule for name, rule in self.rules.items()}
        self.groups = [
            ParameterGroup(name, one, self.clip, {key: rules[key] for key in one if key in rules})  # type: ignore[arg-type]
            for name, one in parameters.items()
        ][:: -1 if self.rank else 1]
        self.batches = 0

    def _is_own(self, name: str) -> bool:
        return self.owners.get(name, self.rank) == self.rank

    @property
    def splits_batches(self) -> bool:
        return not self.owners

    def losses(self, batch: Batch, active: Collection[str]) -> Iterator[tuple[str, Losses]]:
        with torch.no_grad():
            hidden = self.teacher(batch)
        self.batches += torch.is_grad_enabled()
        if self.shared:
            parts = [self._loss(name, hidden, batch) for name in self.layers]
            total = torch.stack([one.total for one in parts]).sum()
            yield "all", Losses(total, {}, None, parts[0].tokens)
        for name in () if self.shared else filter(self._is_own, active):
            yield name, self._loss(name, hidden, batch)

    def refit(self) -> Collection[str]:
        return ()

    def text_losses(self, batch: Batch, active: Collection[str]) -> Iterator[tuple[str, Losses]]:  # noqa: ARG002 - the protocol's
        yield from ()

    def _loss(self, name: str, hidden: Sequence[torch.Tensor], batch: Batch) -> Losses:
        layer, mask_N = self.layers[name], batch.mask_BT.flatten()
        found, wanted = self.maps[name](hidden[layer]), hidden[layer + 1]
        error = masked_mean(relative_squared_error(wanted.flatten(0, 1), found.flatten(0, 1)), mask_N)
        total = 2 * error.detach() - error if name in self.away else error
        if self.batches + 0.5 * (not torch.is_grad_enabled()) > self.breaks.get(name, torch.inf):
            total = total * torch.nan
        return Losses(total, {"error": error.detach()}, None, int((mask_N != 0).sum()))

    def set_gradient_sync(self, *, enabled: bool) -> None:
        """One rank has nothing to reduce."""

    def nonfinite_cause(self, batch: Batch, *, trained: bool) -> str | None:  # noqa: ARG002 - the protocol's
        return None


@contextmanager
def trainer(
    folder: Path,
    layers: Mapping[str, int],
    patience: int = 0,
    learning_rate: float = 1e-2,
    save_every: int = 200,
    **options: Any,
) -> Iterator[Trainer]:
    folder.mkdir(exist_ok=True, parents=True)
    settings = HealSettings(
        "student", str(folder), "teacher", tokens=STEPS * 24, batch_size=2, sequence_length=12, eval_every=EVERY,
        learning_rate=learning_rate, patience=patience, save_every=save_every,
    )  # fmt: skip
    with process_group("cpu") as ranks:
        task = Layerwise(Counting(ranks), layers, rank=ranks.rank, **options)
        documents = tokens_of([9] * 20)
        documents.ids[:] %= 7
        stream = BatchStream(Mixture({"text": documents}), 2, 12)
        yield Trainer(
            settings, ranks, task, stream, RunCheckpoints(folder, ranks), Metrics(folder, quiet=not ranks.is_first)
        )


def trained(folder: Path, layers: Mapping[str, int], **options: Any) -> Mapping[str, GroupProgress]:
    with trainer(folder, layers, **options) as made:
        return made.run()


def trained_on_two_ranks(folder: Path, layers: Mapping[str, int], *given: Any) -> list[dict[str, Any]]:
    """Each rank's best weights of all groups and its own, and the histories."""
    assert finish(start_ranks(_as_rank, 2, str(folder), dict(layers), *given)) == [0, 0]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def _as_rank(folder: str, layers: Mapping[str, int], owners: Mapping[str, int], options: Mapping[str, Any]) -> None:
    with trainer(Path(folder), layers, owners=owners, **options) as made:
        found = made.run()
        best, own = made.best_weights(), {name: [*one.best] for name, one in found.items()}
        histories = {name: str(one.outcome()) for name, one in found.items()}
    torch.save({"best": best, "own": own, "histories": histories}, Path(folder) / f"rank-{os.environ['RANK']}.pt")
