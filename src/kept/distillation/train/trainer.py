"""The training loop. It knows neither models nor losses: a `TrainingTask` has both.

A step depends only on its number, the weights and the optimizer state, so a run that was killed continues exactly.
"""

from __future__ import annotations

import math
import time
from collections import ChainMap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.optim import AdamW

from kept.distillation.train.checkpoint_state import RunState, random_state, set_random_state
from kept.distillation.train.divergence import Diverged
from kept.distillation.train.lr_schedule import lr_factor
from kept.distillation.train.measurement import LossSums, group_measurement, of_group
from kept.distillation.train.progress import GroupProgress
from kept.distillation.train.rank_report import RankReport, StepDecision, common_decision, group_means
from kept.distillation.train.run_checkpoints import TrainerState
from kept.distillation.train.run_directory import remove_checkpoints
from kept.distillation.train.shards import is_sharded
from kept.errors import CheckpointError, InputError
from kept.interruption import Held, held, so_far

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from kept.distillation.data.packing import Batch, BatchStream
    from kept.distillation.loss.chunked_loss import Losses
    from kept.distillation.settings import HealSettings
    from kept.distillation.train.metrics import Metrics
    from kept.distillation.train.process_group import Ranks
    from kept.distillation.train.run_checkpoints import RunCheckpoints
    from kept.distillation.train.task import TrainingTask

    GroupMeans = Mapping[str, Mapping[str, float]]
    """Mean losses by parameter group and name."""

    GroupLosses = Callable[[Batch, Collection[str]], Iterable[tuple[str, Losses]]]
    """`TrainingTask.losses` or `TrainingTask.text_losses`."""


@dataclass
class Trainer:
    """The parts and the progress of a run. `eval_data` has the evaluation batches of each text by name."""

    settings: HealSettings
    ranks: Ranks
    task: TrainingTask
    stream: BatchStream
    checkpoints: RunCheckpoints
    metrics: Metrics
    eval_data: Mapping[str, Sequence[Batch]] = field(default_factory=dict)
    step: int = 0
    _signal: Held = field(default_factory=Held)
    _decision: StepDecision = field(default_factory=StepDecision)
    _saved: tuple[int, float] = field(default_factory=lambda: (0, time.monotonic()))

    def __post_init__(self) -> None:
        """Make the optimizer, and load the newest checkpoint of the same run, if any."""
        groups = sorted(self.task.groups, key=lambda group: group.name)  # the same order on every rank
        self.progress = {group.name: GroupProgress(group) for group in groups}
        self._check_held_once()
        parts = [part for group in groups for part in group.optimizer_groups()]
        self.optimizer = AdamW(parts or [{"params": [], "lr_factor": 1.0}], fused=True)
        if self.ranks.is_first:
            remove_checkpoints(self.checkpoints.directory)
        newest = self.checkpoints.newest()
        if newest is not None:
            self._resume(newest)
        self.metrics.begin(None if newest is None else self.step)

    def run(self) -> Mapping[str, GroupProgress]:
        """Train to the end. Returns the history and the best weights of each parameter group.

        A group that diverges is stopped while others go on. Raises Diverged if every group has.
        Ctrl-C and SIGTERM end the run after the current step, which is saved: raises KeyboardInterrupt.
        """
        several = self.ranks.world_size > 1
        with held(patient=several) as self._signal:
            try:
                if not all(one.history for one in self.progress.values()):
                    self._measure()
                    self._refit()
                self._train()
            except KeyboardInterrupt as error:
                if not several:
                    self.checkpoints.settle()  # finish the checkpoint that is being written
                raise type(error)(so_far(self.step, self.checkpoints.newest())) from None
        return self.progress

    def best_weights(self) -> dict[str, Tensor]:
        """Return the best weights of all groups, on every rank. All ranks call this together."""
        found = {name: weight for one in self.progress.values() for name, weight in one.group.merged(one.best).items()}
        own = {name: weight for name, weight in found.items() if not is_sharded(self._parameters[name])}
        return {**found, **ChainMap(*self.ranks.gather(own))}

    def _refit(self) -> None:
        """Let the task move parameters, and undo this for the groups whose held-out loss did not decrease."""
        moved = {name for names in self.ranks.gather([*self.task.refit()]) for name in names}
        if not moved:
            return
        self._measure()
        kept = sorted(name for name in moved if self.progress[name].keep_if_best())
        self.metrics.note({"kind": "refit", "step": self.step, "moved": len(moved), "kept": kept})

    def _check_held_once(self) -> None:
        own = [name for name, one in self._parameters.items() if not is_sharded(one)]
        held = [name for names in self.ranks.gather(own) for name in names]
        assert len(held) == len({*held}), "a parameter is sharded over all ranks, or on one rank"

    @property
    def _active(self) -> dict[str, GroupProgress]:
        """The groups that are still training."""
        return {name: one for name, one in self.progress.items() if one.is_active(self.settings.patience)}

    def _train(self) -> None:
        """Run all remaining steps. Raises KeyboardInterrupt after a step during which a signal arrived."""
        while self.step < self.settings.steps and self._active and not self._decision.stop:
            begun = time.monotonic()
            report = self._update()
            self.step += 1
            self._note("step", report, time.monotonic() - begun)
            if self.step % self.settings.eval_every == 0 or self.step == self.settings.steps:
                self._measure()
            if self._decision.save or self.step % self.settings.save_every == 0:
                self._save()
        if self.step != self._saved[0]:
            self._save()
        self.checkpoints.settle()
        if self._decision.stop:
            raise self._signal.error

    def _update(self) -> GroupMeans:
        """Run one optimizer step. Returns losses, gradient norm and learning rate of each group."""
        rate, batches, active = self._set_learning_rate(), self._batches(), self._active
        tokens = max(1.0, sum(float(batch.mask_BT.sum()) for batch in batches))
        sums = self._accumulate_gradients(batches, tokens, active)
        norms = {name: one.group.clip_gradients() for name, one in active.items() if one.group.parameters}
        means = self._average(sums, tokens, norms)
        for name, one in active.items():
            self._check_divergence(one, means[name]["loss"], means[name]["gradient_norm"], batches)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {name: {**means[name], "learning_rate": rate} for name in active}

    def _set_learning_rate(self) -> float:
        """Set the learning rate of this step. Returns it, without the factors of single parameters."""
        settings = self.settings
        warmup = math.ceil(settings.warmup * settings.steps)
        rate = settings.learning_rate * lr_factor(self.step, settings.steps, warmup, settings.lr_schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        return rate

    def _batches(self) -> list[Batch]:
        """Return the batches of this step, with the rows of all ranks."""
        count = self.settings.gradient_accumulation
        return [self.stream.batch_at(self.step * count + i) for i in range(count)]

    def _accumulate_gradients(self, batches: Sequence[Batch], tokens: float, active: Collection[str]) -> LossSums:
        """Add up the gradients of the losses' sums over all batches, divided by `tokens`. Returns the losses."""
        sums = LossSums()
        # FSDP2 averages gradients over ranks; losses are divided by the tokens of all ranks and need the sum.
        averaged = self.ranks.world_size if self.task.splits_batches else 1
        for batch in batches:
            self.task.set_gradient_sync(enabled=batch is batches[-1])
            for name, losses in self.task.losses(self._own_rows(batch), active):
                torch.autograd.backward(losses.total * (losses.tokens / tokens * averaged))
                sums.add(name, losses)
        return sums

    def _own_rows(self, batch: Batch) -> Batch:
        """Return the rows that this rank computes. A rank without rows runs one whose tokens do not count."""
        if not self.task.splits_batches:
            return batch.to(self.ranks.device)
        rows = self.ranks.row_range(len(batch.tokens_BT))
        own = batch.rows(rows.start, rows.stop) if rows else batch.rows(0, 1).masked()
        return own.to(self.ranks.device)

    @torch.no_grad()
    def _measure(self) -> None:
        """Measure the held-out losses of each group that is training, and stop those with NaN or Inf.

        Sources count as the mixture weighs them, so that a long source with a small weight does not decide the best.
        """
        active = self._active
        sources = {name: self._mean(self.stream.held_out(name), self.task.losses) for name in self._weights}
        texts = {name: self._mean(batches, self.task.text_losses) for name, batches in self.eval_data.items()}
        tokens = self.step * self.settings.tokens_a_step
        measured = {
            name: group_measurement(self.step, tokens, self._weights, of_group(sources, name), of_group(texts, name))
            for name in active
        }
        self._note("held-out", {name: one.line() for name, one in measured.items()})
        for name, measurement in measured.items():
            active[name].record(measurement)
            self._check_held_out(active[name], measurement.losses["loss"])

    @property
    def _weights(self) -> Mapping[str, float]:
        return self.stream.mixture.weights

    def _mean(self, batches: Sequence[Batch], losses: GroupLosses) -> GroupMeans:
        """Return mean losses over some batches and all ranks."""
        sums, active = LossSums(), self._active
        for number, batch in enumerate(batches, 1):
            for name, found in losses(self._own_rows(batch), active):
                sums.add(name, found)
            self.metrics.show({"kind": "measuring", "step": self.step, "batch": number, "batches": len(batches)})
        return self._average(sums, sum(float(batch.mask_BT.sum()) for batch in batches))

    def _average(self, sums: LossSums, tokens: float, norms: Mapping[str, float] | None = None) -> GroupMeans:
        """Return means over all ranks, with gradient norms. The same message decides whether all ranks save or stop."""
        since = time.monotonic() - self._saved[1]
        late = self.ranks.is_first and 0 < 60 * self.settings.save_minutes <= since
        decision = StepDecision(late, bool(self._signal))
        reports = self.ranks.gather(RankReport(sums, decision, norms or {}))
        self._decision = common_decision(reports)
        return group_means(reports, tokens)

    def _check_held_out(self, progress: GroupProgress, loss: float) -> None:
        """Stop a group whose held-out loss is NaN or Inf."""
        if math.isfinite(loss):
            return
        self._raise_nonfinite(batch for name in self._weights for batch in self.stream.held_out(name))
        what = f"step {self.step}: the held-out loss of the {progress.group.name} is {loss:.4g}"
        self._stop(progress, self.step, what, "change the student")

    def _check_divergence(self, progress: GroupProgress, loss: float, norm: float, batches: Sequence[Batch]) -> None:
        """Stop a group before a bad update. The message names the step and the documents."""
        median = progress.spikes.median
        if progress.spikes.accepts(loss, norm):
            return
        if not math.isfinite(loss):
            self._raise_nonfinite(batches)
        documents = ", ".join(dict.fromkeys(name for batch in batches for name in batch.names))
        before = f" (median before: {median:.4g})" if math.isfinite(median) else ""
        what = (
            f"step {self.step + 1}: the loss of the {progress.group.name} is {loss:.4g}{before}, "
            f"its gradient norm {norm:.4g}; the documents are {documents}"
        )
        self._stop(progress, self.step + 1, what, "leave these documents out")

    def _stop(self, progress: GroupProgress, step: int, what: str, way_out: str) -> None:
        """Stop a group that diverged, and keep its best weights. Raises Diverged if every group has."""
        progress.stop(what)
        if all(one.stopped for one in self.progress.values()):
            self.checkpoints.settle()
            last = self.checkpoints.newest() or "none"
            raise Diverged(f"{what}; the last good checkpoint is {last}; lower --learning-rate, or {way_out}")
        self.metrics.note({"kind": "stopped", "step": step, "group": progress.group.name, "why": what})

    @torch.no_grad()
    def _raise_nonfinite(self, batches: Iterable[Batch]) -> None:
        """Raise Diverged if a model has NaN or Inf on these batches and training is not the cause."""
        for batch in batches:
            cause = self.task.nonfinite_cause(self._own_rows(batch), trained=self.step > 0)
            if cause is not None:
                raise Diverged(cause)

    def _note(self, kind: str, groups: Mapping[str, Mapping[str, object]], seconds: float = 0.0) -> None:
        """Write a line of metrics: the values of each group, and the speed."""
        speed = {"tokens_per_second": self.settings.tokens_a_step / seconds} if seconds else {}
        tokens = self.step * self.settings.tokens_a_step
        self.metrics.note({"kind": kind, "step": self.step, "tokens": tokens, **speed, "groups": groups})

    @property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: one for group in self.task.groups for name, one in group.parameters.items()}

    def _save(self) -> None:
        groups = {name: one.state() for name, one in self.progress.items()}
        run = RunState(step=self.step, groups=groups, random=random_state(self.ranks.device))
        best = {name: weight for one in self.progress.values() for name, weight in one.best.items()}
        self.checkpoints.begin(self.step, self._parameters, self.optimizer, TrainerState(run, best))
        self._saved = self.step, time.monotonic()

    def _resume(self, place: Path) -> None:
        """Load a checkpoint. Raises CheckpointError if it is damaged, InputError if it has more steps than the run."""
        state = self.checkpoints.load(place, self._parameters, self.optimizer)
        if state.run.groups.keys() != self.progress.keys():
            raise CheckpointError(
                f"{place}: its groups are not those of this run ({', '.join(self.progress)}); remove it"
            )
        for name, one in self.progress.items():
            one.restore(state.run.groups[name], state.best)
        set_random_state(place, state.run.random, self.ranks.device)
        self.step = state.run.step
        if self.step > self.settings.steps:
            raise InputError(f"{place}: is past the run's {self.settings.steps} steps; choose another --out")
        self._saved = self.step, time.monotonic()
