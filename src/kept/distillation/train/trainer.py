"""The loop: a student learns to put out what its teacher does, step by step, and can be stopped at any of them.

What a step does depends on its number alone, the weights and the optimiser: so a run that was killed goes on as if
nothing had happened.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from kept.distillation.loss.chunked_loss import Losses, chunked_loss
from kept.distillation.loss.hidden_states import HIDDEN_ERRORS, masked_mean
from kept.distillation.loss.objective import Objective
from kept.distillation.train.lr_schedule import factor
from kept.distillation.train.nonfinite import complaint, faults, first
from kept.distillation.train.parallel import Backbone, whole
from kept.distillation.train.run_checkpoints import TrainerState, random_state, set_random_state
from kept.distillation.train.run_directory import clear
from kept.errors import CheckpointError, InputError, KeptError
from kept.interruption import Held, held, so_far
from kept.json_values import blamed, listed, mapped, number
from kept.json_values import whole as whole_number
from kept.nn.norm import normalise
from kept.verification.parity import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from kept.distillation.data.packing import Batch, BatchStream
    from kept.distillation.loss.output_head import HeadInput
    from kept.distillation.loss.top_k import TopK
    from kept.distillation.settings import HealSettings
    from kept.distillation.teacher_cache import TeacherCache
    from kept.distillation.train.metrics import Metrics
    from kept.distillation.train.parallel import Ranks
    from kept.distillation.train.run_checkpoints import RunCheckpoints

SPIKE, MEMORY = 10.0, 50
"""A loss so many times the median of as many steps before stops a run, once there are that many."""

NOISE = 0.05
"""Nats that a loss may always rise by: near zero, ten times the median is noise."""

BETTER = 1e-3
"""What a held-out loss must fall by, relatively, to be an improvement."""


class Diverged(KeptError):  # noqa: N818 - it is what happened
    """The loss is no number, or rose beyond what noise does."""


@dataclass(frozen=True)
class Measurement:
    """Held-out means after a step: nats per token of each loss, and how often both models' first choice is one.

    Sources count as the mixture weighs them; `sources` has each by itself, `watched` the texts that are only measured.
    """

    step: int
    tokens: int
    losses: Mapping[str, float]
    agreement: float
    sources: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    watched: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def best_of(history: Sequence[Measurement]) -> Measurement:
    """The measurement whose weights are kept: the first with the least held-out loss."""
    return min(history, key=lambda one: one.losses["loss"])


@dataclass(frozen=True)
class StepDecision:
    """The common decision of all ranks after a step: `save`, since `save_minutes` have passed; `stop`, on a signal."""

    save: bool = False
    stop: bool = False


@dataclass
class Trainer:
    """The parts and the progress of one run.

    `watched` are batches of texts that are only measured, by name. `pairs` are indices into the teacher's and the
    student's hidden states that the hidden-state loss compares (`kept.output.layer_pairing`).
    """

    settings: HealSettings
    ranks: Ranks
    student: Backbone
    teacher: Backbone | TeacherCache | None
    stream: BatchStream
    states: RunCheckpoints
    metrics: Metrics
    watched: Mapping[str, Sequence[Batch]] = field(default_factory=dict)
    pairs: Sequence[tuple[int, int]] = ()
    step: int = 0
    history: list[Measurement] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=MEMORY))
    _held: Held = field(default_factory=Held)
    _decision: StepDecision = field(default_factory=StepDecision)
    _saved: tuple[int, float] = field(default_factory=lambda: (0, time.monotonic()))

    def __post_init__(self) -> None:
        """Make the optimiser, and go to where an earlier run of the same command stopped."""
        groups = _groups(self.student)
        self.optimiser = AdamW(
            groups, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay, fused=True
        )
        if self.ranks.first:
            clear(self.states.directory)
        newest = self.states.newest()
        if newest is not None:
            self._resume(newest)
        self.metrics.begin(None if newest is None else self.step)

    def run(self) -> dict[str, Tensor]:
        """Go on to the end. Returns the weights that learned, as they were when the held-out loss was the least.

        Ctrl-C and SIGTERM end the run after the current step, which is saved.
        """
        with held(patient=self.ranks.count > 1) as self._held:
            try:
                if not self.history:
                    self._measure()
                self._train()
            except KeyboardInterrupt as error:
                if self.ranks.count == 1:
                    self.states.settle()  # finish the checkpoint that is being written
                raise type(error)(so_far(self.step, self.states.newest())) from None
        return self.best

    def _train(self) -> None:
        """All steps that are left; raises KeyboardInterrupt after one that was interrupted."""
        while self.step < self.settings.steps and not self._plateau() and not self._decision.stop:
            begun = time.monotonic()
            found = self._update()
            self.step += 1
            self._note("step", found, time.monotonic() - begun)
            if self.step % self.settings.eval_every == 0 or self.step == self.settings.steps:
                self._measure()
            if self._decision.save or self.step % self.settings.save_every == 0:
                self._save()
        if self.step != self._saved[0]:
            self._save()
        self.states.settle()
        if self._decision.stop:
            raise self._held.error

    def _update(self) -> dict[str, float]:
        """One step: gradients of every part of the batch, clipped, and the weights moved."""
        settings, sums = self.settings, {}  # type: tuple[HealSettings, dict[str, float]]
        rate = settings.learning_rate * factor(
            self.step, settings.steps, math.ceil(settings.warmup * settings.steps), settings.lr_schedule
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        first = self.step * settings.gradient_accumulation
        parts = [self.stream.at(first + i) for i in range(settings.gradient_accumulation)]
        tokens = max(1.0, sum(float(part.mask_BT.sum()) for part in parts))
        for i, part in enumerate(parts):
            if self.ranks.count > 1:
                self.student.set_requires_gradient_sync(i + 1 == len(parts))  # type: ignore[operator] # FSDP2's own
            found = self._losses(self._share(part))
            # FSDP2 takes the mean of all ranks' gradients: of sums over the whole step's tokens it must be the sum.
            torch.autograd.backward(found.total * (found.tokens / tokens * self.ranks.count))
            _add(sums, found)
        self.student.keep_rows()
        norm = float(whole(clip_grad_norm_(self.student.parameters(), settings.max_grad_norm)))
        means = self._means(sums, tokens)
        self._check(means["loss"], norm, parts)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return {**means, "gradient": norm, "learning_rate": rate}

    def _share(self, batch: Batch) -> Batch:
        """This rank's rows of a batch; one without any runs a row that does not count."""
        begin, stop = self.ranks.rows(len(batch.tokens_BT))
        mine = batch.rows(begin, stop) if begin < stop else batch.rows(0, 1).silent
        return mine.to(self.ranks.device)

    def _losses(self, batch: Batch) -> Losses:
        objective, weight = self.settings.objective, self.settings.hidden
        targets_N, mask_N = batch.targets_BT.flatten(), batch.mask_BT.flatten()

        def beside(theirs: HeadInput | TopK | None, wanted: list[Tensor]) -> Losses:
            def end(ours: HeadInput, found: list[Tensor]) -> Losses:
                losses = chunked_loss(ours, theirs, targets_N, mask_N, objective)
                if not weight:
                    return losses
                hidden = self._hidden(wanted, found, mask_N)
                means = {**losses.means, "hidden": hidden.detach()}
                return replace(losses, total=losses.total + weight * hidden, means=means)

            with torch.set_grad_enabled(learning):
                losses: Losses = self.student(batch, end, streams=bool(weight))
            return losses

        learning = torch.is_grad_enabled()
        with self._precision():
            if self.teacher is None:
                return beside(None, [])
            with torch.no_grad():
                found: Losses = self.teacher(batch, beside, streams=bool(weight))
            return found

    def _hidden(self, wanted: list[Tensor], found: list[Tensor], mask_N: Tensor) -> Tensor:
        """Return the mean error of the student's hidden states, each normalised by the norm that reads it."""
        assert self.pairs, "the hidden-state loss needs pairs of layers"
        assert isinstance(self.teacher, Backbone), "the hidden-state loss needs a running teacher"
        error, specs = HIDDEN_ERRORS[self.settings.hidden_error], (self.teacher.model.spec, self.student.model.spec)
        errors = [
            masked_mean(
                error(
                    normalise(wanted[theirs].flatten(0, 1), reading(specs[0], theirs)),
                    normalise(found[ours].flatten(0, 1), reading(specs[1], ours)),
                ),
                mask_N,
            )
            for theirs, ours in self.pairs
        ]
        return torch.stack(errors).mean()

    def _text_loss(self, batch: Batch) -> Losses:
        """The cross-entropy alone, which needs no teacher: one that is cached has not read what is watched."""
        objective, targets_N, mask_N = Objective(kl=0.0, ce=1.0), batch.targets_BT.flatten(), batch.mask_BT.flatten()
        with self._precision():
            found: Losses = self.student(batch, lambda ours, _: chunked_loss(ours, None, targets_N, mask_N, objective))
        return found

    def _precision(self) -> torch.autocast:
        """The arithmetic that was asked for."""
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16")

    @torch.no_grad()
    def _measure(self) -> None:
        """Held-out losses; the best weights so far are kept. Raises Diverged where a loss is no number.

        A source weighs what it does in the mixture: a long one that is replayed a little does not decide what is best.
        """
        weights = self.stream.mixture.weights
        sources = {name: self._mean(self.stream.held_out(name), self._losses) for name in weights}
        watched = {name: {"ce": self._mean(batches, self._text_loss)["ce"]} for name, batches in self.watched.items()}
        keys = next(iter(sources.values()))
        means = {key: sum(weight * sources[name][key] for name, weight in weights.items()) for key in keys}
        if not math.isfinite(means["loss"]):
            self._require_finite(batch for name in weights for batch in self.stream.held_out(name))
            raise self._diverged(f"step {self.step}: the held-out loss is {means['loss']:.4g}", "mend the student")
        agreement = means.pop("agreement", math.nan)
        tokens = self.step * self.settings.tokens_a_step
        self.history.append(Measurement(self.step, tokens, means, agreement, sources, watched))
        self._note("held-out", {**means, "agreement": agreement, "sources": sources, "watched": watched})
        if self.history[-1] is best_of(self.history):
            self.best = {name: whole(parameter).clone() for name, parameter in self.student.learning().items()}

    def _mean(self, batches: Sequence[Batch], losses: Callable[[Batch], Losses]) -> dict[str, float]:
        """Losses over some batches, a mean over their tokens."""
        sums: dict[str, float] = {}
        for batch in batches:
            _add(sums, losses(self._share(batch)))
        return self._means(sums, sum(float(batch.mask_BT.sum()) for batch in batches))

    def _means(self, sums: Mapping[str, float], tokens: float) -> dict[str, float]:
        """Return means over all ranks. The same all-reduce decides whether all of them save or stop."""
        since = time.monotonic() - self._saved[1]
        late = self.ranks.first and 0 < 60 * self.settings.save_minutes <= since
        *totals, save, stop = self.ranks.total(*sums.values(), late, bool(self._held))
        self._decision = StepDecision(save > 0, stop > 0)
        return {name: value / max(1.0, tokens) for name, value in zip(sums, totals, strict=True)}

    def _plateau(self) -> bool:
        """Whether the held-out loss has not fallen for as many measurements as the settings' patience."""
        patience = self.settings.patience
        if not patience or len(self.history) <= patience:
            return False
        losses = [one.losses["loss"] for one in self.history]
        return min(losses[-patience:]) > (1 - BETTER) * min(losses[:-patience])

    def _check(self, loss: float, gradient: float, parts: list[Batch]) -> None:
        """Stop before a bad step is taken: with its number, its documents, and where to go on from."""
        usual = statistics.median(self._recent) if len(self._recent) == MEMORY else math.inf
        most = usual + max((SPIKE - 1) * usual, NOISE)
        if math.isfinite(loss) and math.isfinite(gradient) and loss <= most:
            self._recent.append(loss)
            return
        if not math.isfinite(loss):
            self._require_finite(parts)
        names = ", ".join(dict.fromkeys(name for part in parts for name in part.names))
        before = f" and {usual:.4g} before" if math.isfinite(usual) else ""
        raise self._diverged(
            f"step {self.step + 1}: the loss is {loss:.4g}{before}, its gradient {gradient:.4g}; "
            f"the documents are {names}",
            "leave these documents out",
        )

    @torch.no_grad()
    def _require_finite(self, batches: Iterable[Batch]) -> None:
        """Raise Diverged for logits with NaN or Inf that training did not cause.

        These are the teacher's at any step, and the student's before the first one.
        """
        asked = self.settings
        models = [(f"the student {asked.student}", self.student)] if self.step == 0 else []
        if isinstance(self.teacher, Backbone):
            models.insert(0, (f"the teacher {asked.teacher}", self.teacher))
        for batch in batches:
            for called, trunk in models:
                with self._precision():
                    where = first(self.ranks.total(*faults(trunk, self._share(batch))))
                if where is not None:
                    raise Diverged(complaint(called, asked.precision, where))

    def _diverged(self, what: str, way_out: str) -> Diverged:
        self.states.settle()
        last = self.states.newest() or "none"
        return Diverged(f"{what}; the last good checkpoint is {last}; lower --learning-rate, or {way_out}")

    def _note(self, kind: str, found: Mapping[str, object], seconds: float = 0.0) -> None:
        speed = {"tokens_per_second": self.settings.tokens_a_step / seconds} if seconds else {}
        tokens = self.step * self.settings.tokens_a_step
        self.metrics.note({"kind": kind, "step": self.step, "tokens": tokens, **found, **speed})

    def _save(self) -> None:
        plain = {
            "step": self.step,
            "history": [asdict(one) for one in self.history],
            "recent": [*self._recent],
            "random": random_state(self.ranks.device),
        }
        self.states.begin(self.step, self.student.learning(), self.optimiser, TrainerState(plain, self.best))
        self._saved = self.step, time.monotonic()

    def _resume(self, place: Path) -> None:
        rest = self.states.load(place, self.student.learning(), self.optimiser)
        with blamed(place, "a checkpoint", "remove it to go on from the one before"):
            self.step = whole_number(rest.plain["step"])
            self.history.extend(map(_measured, listed(rest.plain["history"])))
            self._recent.extend(map(number, listed(rest.plain["recent"])))
            set_random_state(mapped(rest.plain["random"]), self.ranks.device)
        if self.step > self.settings.steps:
            raise InputError(
                f"{place}: is past the {self.settings.steps} steps that were asked for; choose another --out"
            )
        if rest.best.keys() != self.student.learning().keys():
            raise CheckpointError(f"{place}: its best weights are not the trainable parameters of this run; remove it")
        self.best = {**rest.best}
        self._saved = self.step, time.monotonic()


def _measured(one: Any) -> Measurement:  # noqa: ANN401 - JSON
    """Return a measurement from a checkpoint. Raises LookupError, TypeError or ValueError for another form."""
    found = Measurement(**mapped(one))
    number(mapped(found.losses)["loss"])
    return found


def _groups(student: Backbone) -> list[dict[str, Any]]:
    """What learns. Rows that do not, in matrices of which others do, must not decay: there nothing does."""
    partly = {id(parameter) for parameter, _ in student.rows}
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    whole_ones = [parameter for parameter in learning if id(parameter) not in partly]
    of_rows = [parameter for parameter in learning if id(parameter) in partly]
    groups: list[dict[str, Any]] = [{"params": whole_ones}, {"params": of_rows, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _add(sums: dict[str, float], found: Losses) -> None:
    """Add a batch's losses to those of others, each as often as it has tokens."""
    agreement = {} if found.agreement is None else {"agreement": found.agreement}
    for name, value in {"loss": found.total.detach(), **found.means, **agreement}.items():
        sums[name] = sums.get(name, 0.0) + float(value) * found.tokens
