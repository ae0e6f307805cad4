"""The training loop. It knows neither models nor losses: a `TrainingTask` has both.

A step depends only on its number, the weights and the optimizer state, so a run that was killed continues exactly.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.optim import AdamW

from kept.distillation.train.checkpoint_state import RunState, random_state, set_random_state
from kept.distillation.train.divergence import Diverged
from kept.distillation.train.lr_schedule import lr_factor
from kept.distillation.train.measurement import LossSums, Measurement, has_plateaued
from kept.distillation.train.progress import GroupProgress
from kept.distillation.train.run_checkpoints import TrainerState
from kept.distillation.train.run_directory import remove_checkpoints
from kept.errors import CheckpointError, InputError
from kept.interruption import Held, held, so_far

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from kept.distillation.data.packing import Batch, BatchStream
    from kept.distillation.loss.chunked_loss import Losses
    from kept.distillation.settings import HealSettings
    from kept.distillation.train.metrics import Metrics
    from kept.distillation.train.process_group import Ranks
    from kept.distillation.train.run_checkpoints import RunCheckpoints
    from kept.distillation.train.task import TrainingTask

    GroupMeans = Mapping[str, Mapping[str, float]]
    """Mean losses by parameter group and name."""


@dataclass(frozen=True)
class StepDecision:
    """The common decision of all ranks after a step: `save`, since `save_minutes` have passed; `stop`, on a signal."""

    save: bool = False
    stop: bool = False


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
        self.progress = {group.name: GroupProgress(group) for group in self.task.groups}
        groups = [one for group in self.task.groups for one in group.optimizer_groups()]
        self.optimizer = AdamW(
            groups, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay, fused=True
        )
        if self.ranks.is_first:
            remove_checkpoints(self.checkpoints.directory)
        newest = self.checkpoints.newest()
        if newest is not None:
            self._resume(newest)
        self.metrics.begin(None if newest is None else self.step)

    def run(self) -> Mapping[str, GroupProgress]:
        """Train to the end. Returns the history and the best weights of each parameter group.

        Ctrl-C and SIGTERM end the run after the current step, which is saved: raises KeyboardInterrupt.
        """
        several = self.ranks.world_size > 1
        with held(patient=several) as self._signal:
            try:
                if not all(one.history for one in self.progress.values()):
                    self._measure()
                self._train()
            except KeyboardInterrupt as error:
                if not several:
                    self.checkpoints.settle()  # finish the checkpoint that is being written
                raise type(error)(so_far(self.step, self.checkpoints.newest())) from None
        return self.progress

    @property
    def _active(self) -> dict[str, GroupProgress]:
        """The groups that are still training."""
        patience = self.settings.patience
        return {name: one for name, one in self.progress.items() if not has_plateaued(one.history, patience)}

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
        norms = {name: one.group.clip_gradients() for name, one in active.items()}
        means = self._average(sums, tokens)
        for name, one in active.items():
            self._check_divergence(one, means[name]["loss"], norms[name], batches)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {name: {**means[name], "gradient_norm": norms[name], "learning_rate": rate} for name in active}

    def _set_learning_rate(self) -> float:
        """Set the learning rate of this step. Returns it."""
        settings = self.settings
        warmup = math.ceil(settings.warmup * settings.steps)
        rate = settings.learning_rate * lr_factor(self.step, settings.steps, warmup, settings.lr_schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _batches(self) -> list[Batch]:
        """Return the batches of this step, with the rows of all ranks."""
        count = self.settings.gradient_accumulation
        return [self.stream.batch_at(self.step * count + i) for i in range(count)]

    def _accumulate_gradients(self, batches: Sequence[Batch], tokens: float, active: Collection[str]) -> LossSums:
        """Add up the gradients of the losses' sums over all batches, divided by `tokens`. Returns the losses."""
        sums = LossSums()
        for batch in batches:
            self.task.set_gradient_sync(enabled=batch is batches[-1])
            losses = self.task.losses(self._own_rows(batch), active)
            # FSDP2 averages gradients over ranks; losses are divided by the tokens of all ranks and need the sum.
            scaled = [one.total * (one.tokens / tokens * self.ranks.world_size) for one in losses.values()]
            torch.autograd.backward(scaled)
            sums.add(losses)
        return sums

    def _own_rows(self, batch: Batch) -> Batch:
        """Return this rank's rows. A rank without rows runs one whose tokens do not count."""
        rows = self.ranks.row_range(len(batch.tokens_BT))
        own = batch.rows(rows.start, rows.stop) if rows else batch.rows(0, 1).masked()
        return own.to(self.ranks.device)

    @torch.no_grad()
    def _measure(self) -> None:
        """Measure the held-out losses of each group that is training. Raises Diverged if a loss is NaN or Inf.

        Sources count as the mixture weighs them, so that a long source with a small weight does not decide the best.
        """
        active = self._active
        sources = {name: self._mean(self.stream.held_out(name), self.task.losses) for name in self._weights}
        eval_data = {name: self._mean(batches, self.task.text_losses) for name, batches in self.eval_data.items()}
        measured = {}
        for name in active:
            own = {source: means[name] for source, means in sources.items()}
            texts = {text: {"ce": means[name]["ce"]} for text, means in eval_data.items() if name in means}
            measured[name] = self._measurement(name, own, texts)
        self._note("held-out", {name: _line(one) for name, one in measured.items()})
        for name, measurement in measured.items():
            self.progress[name].record(measurement)

    @property
    def _weights(self) -> Mapping[str, float]:
        return self.stream.mixture.weights

    def _measurement(self, group: str, sources: GroupMeans, eval_data: GroupMeans) -> Measurement:
        keys = next(iter(sources.values()))
        means = {key: sum(weight * sources[name][key] for name, weight in self._weights.items()) for key in keys}
        if not math.isfinite(means["loss"]):
            self._raise_nonfinite(batch for name in self._weights for batch in self.stream.held_out(name))
            raise self._diverged(
                f"step {self.step}: the held-out loss of the {group} is {means['loss']:.4g}", "change the student"
            )
        agreement = means.pop("agreement", math.nan)
        return Measurement(self.step, self.step * self.settings.tokens_a_step, means, agreement, sources, eval_data)

    def _mean(
        self, batches: Sequence[Batch], losses: Callable[[Batch, Collection[str]], Mapping[str, Losses]]
    ) -> GroupMeans:
        """Return mean losses over some batches and all ranks."""
        sums, active = LossSums(), self._active
        for batch in batches:
            sums.add(losses(self._own_rows(batch), active))
        return self._average(sums, sum(float(batch.mask_BT.sum()) for batch in batches))

    def _average(self, sums: LossSums, tokens: float) -> GroupMeans:
        """Return means over all ranks. The same all-reduce decides whether all ranks save or stop."""
        since = time.monotonic() - self._saved[1]
        late = self.ranks.is_first and 0 < 60 * self.settings.save_minutes <= since
        *totals, save, stop = self.ranks.sum(*sums.values, late, bool(self._signal))
        self._decision = StepDecision(save > 0, stop > 0)
        return sums.means(totals, tokens)

    def _check_divergence(self, progress: GroupProgress, loss: float, norm: float, batches: Sequence[Batch]) -> None:
        """Raise Diverged before a bad update. The message names the step, the documents and the last checkpoint."""
        median = progress.spikes.median
        if progress.spikes.accepts(loss, norm):
            return
        if not math.isfinite(loss):
            self._raise_nonfinite(batches)
        documents = ", ".join(dict.fromkeys(name for batch in batches for name in batch.names))
        before = f" (median before: {median:.4g})" if math.isfinite(median) else ""
        raise self._diverged(
            f"step {self.step + 1}: the loss of the {progress.group.name} is {loss:.4g}{before}, "
            f"its gradient norm {norm:.4g}; the documents are {documents}",
            "leave these documents out",
        )

    @torch.no_grad()
    def _raise_nonfinite(self, batches: Iterable[Batch]) -> None:
        """Raise Diverged if a model has NaN or Inf on these batches and training is not the cause."""
        for batch in batches:
            cause = self.task.nonfinite_cause(self._own_rows(batch), trained=self.step > 0)
            if cause is not None:
                raise Diverged(cause)

    def _diverged(self, what: str, way_out: str) -> Diverged:
        self.checkpoints.settle()
        last = self.checkpoints.newest() or "none"
        return Diverged(f"{what}; the last good checkpoint is {last}; lower --learning-rate, or {way_out}")

    def _note(self, kind: str, groups: Mapping[str, Mapping[str, object]], seconds: float = 0.0) -> None:
        """Write a line of metrics: the values of the only group, or of several groups under their names."""
        speed = {"tokens_per_second": self.settings.tokens_a_step / seconds} if seconds else {}
        values = next(iter(groups.values())) if len(self.progress) == 1 else groups
        tokens = self.step * self.settings.tokens_a_step
        self.metrics.note({"kind": kind, "step": self.step, "tokens": tokens, **values, **speed})

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
        if state.best.keys() != self._parameters.keys():
            raise CheckpointError(f"{place}: its best weights are not the trainable parameters of this run; remove it")
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


def _line(measurement: Measurement) -> dict[str, object]:
    """Return a measurement's values for the metrics."""
    rest = {"agreement": measurement.agreement, "sources": measurement.sources, "eval_data": measurement.eval_data}
    return {**measurement.losses, **rest}
