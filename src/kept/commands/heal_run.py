"""A healing run: read the data, train on all ranks, and write the output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import read_json
from kept.checkpoint.output_path import check_apart, check_place
from kept.checkpoint.staging import check_target
from kept.commands.export_healed import HealedExport, RunSummary
from kept.commands.heal_inputs import (
    EvalTexts,
    batch_stream,
    chat_date,
    compute_dtype,
    hidden_state_map,
    input_paths,
    input_sums,
    layer_pairs,
)
from kept.commands.layerwise_inputs import layerwise_inputs
from kept.commands.teacher_kl import KL_TOKENS, teacher_kl
from kept.commands.teacher_student import TeacherStudent
from kept.distillation.train.choose_trainable import new_slots, trainable
from kept.distillation.train.end_to_end import STUDENT, EndToEnd
from kept.distillation.train.layerwise import Layerwise, LayerwisePlan, load_layerwise
from kept.distillation.train.load_backbone import load_backbone
from kept.distillation.train.metrics import Metrics
from kept.distillation.train.process_group import Ranks, process_group
from kept.distillation.train.run_checkpoints import RunCheckpoints
from kept.distillation.train.run_directory import (
    begin_run,
    comparable_settings,
    locked_run_directory,
    previous_settings,
    remove_checkpoints,
    run_directory,
)
from kept.distillation.train.tracker import tracked
from kept.distillation.train.trainer import Trainer
from kept.formatting import parameters
from kept.output.healed_record import TeacherKlRecord
from kept.output.record import RECORD
from kept.reporting import Reporter, Silent
from kept.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from kept.distillation.data.packing import BatchStream
    from kept.distillation.settings import HealSettings
    from kept.distillation.teacher_cache import TeacherCache
    from kept.distillation.train.backbone import Backbone
    from kept.distillation.train.measurement import GroupHistory, Measurement
    from kept.distillation.train.trainable import Trainable
    from kept.ir.tensors import Lazy
    from kept.verification.verify import Verification


@dataclass(frozen=True, repr=False)
class HealResult(Summarised):
    """A finished run: its output, its trainable parameters, and the held-out measurements of each parameter group.

    `run` is the directory with the metrics: `metrics.jsonl`, and files for TensorBoard if it is installed.
    `verification` compares the output with its teacher; None without a teacher, and on ranks other than the first.
    """

    path: Path
    trained: Trainable
    groups: Mapping[str, GroupHistory]
    record: Mapping[str, Any]
    run: Path
    verification: Verification | None = None

    @property
    def history(self) -> tuple[Measurement, ...]:
        """The measurements of a student that was trained as a whole, in order. Layerwise runs have `groups`."""
        return self.groups[STUDENT].measurements

    @property
    def best(self) -> Measurement:
        """The measurement whose weights were written."""
        return self.groups[STUDENT].best

    @property
    def kl(self) -> TeacherKlRecord | None:
        """The KL of the whole student before and after a layerwise run; None for other runs."""
        found = self.record["healed"].get("kl")
        return None if found is None else TeacherKlRecord.checked(found)

    def summary(self) -> dict[str, str]:
        """Return path, trained parameters, and the held-out loss of each group before and after."""
        whole = {} if self.kl is None else {"KL from the teacher": f"{self.kl.before:.4g} -> {self.kl.after:.4g}"}
        losses = {
            f"held-out loss of {name}" if len(self.groups) > 1 else "held-out loss": (
                f"{one.measurements[0].losses['loss']:.4g} -> {one.best.losses['loss']:.4g} "
                f"(after {one.best.tokens:,} tokens)"
            )
            for name, one in self.groups.items()
        }
        trained = self.record["healed"]["trained"]
        counts = f"{parameters(trained['parameters'])} of {parameters(trained['of'])}"
        return {"path": str(self.path), "trained parameters": counts, **whole, **losses}


def heal_run(settings: HealSettings, reporter: Reporter, watch: Callable[[Mapping[str, Any]], None]) -> HealResult:
    """Run `kept.commands.heal.heal` on this rank, after the checks that need no torch."""
    target = Path(settings.out)
    pair = TeacherStudent.open(settings)
    _check_places(target, settings, pair)
    layer_pairs(settings, pair)  # raises before any text is read
    output = HealedExport.of(pair)
    record = None if output.record is None else output.record.table()
    if settings.layerwise:
        plan, trained = layerwise_inputs(settings, pair, record)
    else:
        plan, trained = None, _whole_student(settings, pair, record)
    with process_group(settings.device) as ranks:
        date = ranks.broadcast(chat_date(settings, pair, previous_settings(run_directory(target))))
        run = HealRun(replace(settings, chat_date=date), pair, output, trained, ranks, plan)
        return run.run(reporter if ranks.is_first else Silent(), watch)


def _whole_student(settings: HealSettings, pair: TeacherStudent, record: Mapping[str, Any] | None) -> Trainable:
    """Return the trainable parameters of a student that is trained as a whole."""
    program = pair.student.program
    found = trainable(program, settings.train, record, settings.lora_rank, settings.lora_alpha)
    if settings.new_learning_rate is None:
        return found
    return replace(found, new=frozenset(new_slots(program, record or {})))


@dataclass(frozen=True)
class HealRun:
    """A run on this rank: its settings, its models, its future output and its trainable parameters.

    `layerwise` has the branches to train; None for a student that is trained as a whole.
    """

    settings: HealSettings
    pair: TeacherStudent
    output: HealedExport
    trained: Trainable
    ranks: Ranks
    layerwise: LayerwisePlan | None = None

    @property
    def target(self) -> Path:
        """The output's directory."""
        return Path(self.settings.out)

    def run(self, reporter: Reporter, watch: Callable[[Mapping[str, Any]], None]) -> HealResult:
        """Read the data, train, and write the output. Rank 0 writes while the others wait."""
        stream = batch_stream(self.settings, self.pair, reporter)
        eval_data = EvalTexts.of(self.settings, self.pair, stream, reporter)
        folder = run_directory(self.target)
        with locked_run_directory(folder, self.ranks), tracked(self.settings, folder, watch) as noted:
            sums = self.ranks.on_first(lambda: self._begin(stream, eval_data)) or {}
            groups, weights = self._train(stream, eval_data, noted, reporter)
            summary = RunSummary(self.settings, self.trained, stream.counts, sums, groups)
            verification = self._export(summary, weights, stream, reporter) if self.ranks.is_first else None
            self.ranks.barrier()
        record = read_json(self.target / RECORD)
        return HealResult(self.target, self.trained, groups, record, folder, verification)

    def _begin(self, stream: BatchStream, eval_data: EvalTexts) -> dict[str, str]:
        """Begin a run, or check that the run to resume had the same settings and inputs. Returns the inputs' sha256."""
        check_target(self.target)  # again: the run that had the directory may have finished just now
        sums = input_sums(self.settings, self.pair, stream.mixture, eval_data)
        begin_run(run_directory(self.target), comparable_settings(self.settings), sums)
        return sums

    def _train(
        self,
        stream: BatchStream,
        eval_data: EvalTexts,
        watch: Callable[[Mapping[str, Any]], None],
        reporter: Reporter,
    ) -> tuple[Mapping[str, GroupHistory], Mapping[str, Tensor]]:
        """Train. Returns the held-out measurements of each group, and the weights of the best ones."""
        metrics = Metrics(run_directory(self.target), watch, quiet=not self.ranks.is_first)
        checkpoints = RunCheckpoints(metrics.folder, self.ranks)
        task = self._end_to_end() if self.layerwise is None else self._layerwise(self.layerwise, stream, reporter)
        trainer = Trainer(self.settings, self.ranks, task, stream, checkpoints, metrics, eval_data.batches)
        metrics.note(self._description(trainer))
        groups = {name: one.outcome() for name, one in trainer.run().items()}
        metrics.note({"kind": "end", "step": trainer.step})
        return groups, trainer.best_weights()

    def _layerwise(self, plan: LayerwisePlan, stream: BatchStream, reporter: Reporter) -> Layerwise:
        """Load the branches and the teacher, and measure the inputs of the branches."""
        assert self.pair.teacher is not None, "settings require one"
        programs = self.pair.student.program, self.pair.teacher.program
        task = load_layerwise(self.settings, self.ranks, plan, *programs)
        task.calibrate(stream, reporter)
        return task

    def _end_to_end(self) -> EndToEnd:
        """Load the student, and the teacher or its cache."""
        settings, program = self.settings, self.pair.student.program
        modes = {"checkpointing": settings.gradient_checkpointing, "compiled": settings.compile}
        student = load_backbone(program, compute_dtype(settings), self.ranks, self.trained, **modes)
        pairs = layer_pairs(settings, self.pair)
        shift = hidden_state_map(settings, self.pair)
        trained = self.trained
        return EndToEnd(settings, self.ranks, student, self._teacher(), trained.rows, pairs, shift, trained.new)

    def _teacher(self) -> Backbone | TeacherCache | None:
        if self.pair.cache is not None or self.pair.teacher is None:
            return self.pair.cache
        settings, program = self.settings, self.pair.teacher.program
        return load_backbone(program, compute_dtype(settings), self.ranks, compiled=settings.compile)

    def _export(
        self, summary: RunSummary, best: Mapping[str, Tensor], stream: BatchStream, reporter: Reporter
    ) -> Verification | None:
        """Write and verify the output, and remove the checkpoints, which are of no further use."""
        weights = self.trained.weights(self.pair.student.program, best)
        if self.layerwise is not None:
            summary = replace(summary, kl=self._teacher_kl(weights, stream))
        verification = self.output.write(weights, summary, reporter)
        remove_checkpoints(run_directory(self.target), "step-*")
        return verification

    def _teacher_kl(self, weights: Mapping[str, Lazy], stream: BatchStream) -> TeacherKlRecord:
        """Compare the student before and after with its teacher, on held-out rows of each source."""
        assert self.pair.teacher is not None, "settings require one"
        student = self.pair.student.program
        students = student, student.updated(student.spec, weights)
        batches = stream.held_out(rows=max(1, KL_TOKENS // self.settings.sequence_length))
        dtype, device = compute_dtype(self.settings), self.ranks.device
        before, after = teacher_kl(students, self.pair.teacher.program, batches, dtype, device)
        return TeacherKlRecord(before=before, after=after, tokens=int(sum(b.mask_BT.sum() for b in batches)))

    def _description(self, trainer: Trainer) -> dict[str, Any]:
        """Return the first line of metrics: trainable parameters, memory, steps and data."""
        settings, trained, cache = self.settings, self.trained, self.pair.cache
        about = None if cache is None else {"path": str(cache.path), "k": cache.about["k"], "tail": cache.tail}
        return {
            "kind": "run",
            "step": trainer.step,
            "steps": settings.steps,
            "tokens_a_step": settings.tokens_a_step,
            "tokens_asked": settings.tokens,
            "teacher_cache": about,
            "ranks": self.ranks.world_size,
            "train": settings.train,
            "groups": [*trainer.progress],
            "parameters": trained.parameters,
            "of": trained.of,
            "optimiser_bytes": trained.optimiser_bytes,
            "sources": trainer.stream.counts,
            "eval_data": [*trainer.eval_data],
            "tensorboard": trainer.metrics.has_tensorboard,
        }


def _check_places(target: Path, settings: HealSettings, pair: TeacherStudent) -> None:
    """Raise OutputError if the output and an input would lie inside each other."""
    for loaded, name in ((pair.student, "the student"), (pair.teacher, "the teacher")):
        if loaded is not None:
            check_place(loaded.source, target, name)
    check_apart(target, input_paths(settings))
