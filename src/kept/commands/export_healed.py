"""The export of a healed model: its run summary, its files, its record, and what it is measured against."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.companion_files import companions
from kept.checkpoint.json_file import finite
from kept.checkpoint.safetensors_writer import shards
from kept.commands.plan import own_keys, short_sample
from kept.ir.promise import Promise
from kept.native.carried_code import code_of
from kept.output.export import Export, Reference, export
from kept.output.healed_record import HealedRecord, StudentRecord, TeacherKlRecord
from kept.output.input_files import InputSnapshot
from kept.output.layer_pairing import stream_map
from kept.output.model_card import Origin, model_card, origin_of
from kept.output.record import Record, read_record
from kept.output.record_queries import claim_of
from kept.output.write_files import OutputFiles
from kept.output.write_record import history, verification_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.commands.teacher_student import TeacherStudent
    from kept.distillation.settings import HealSettings
    from kept.distillation.train.measurement import GroupHistory
    from kept.distillation.train.trainable import Trainable
    from kept.ir.tensors import Lazy
    from kept.output.input_files import FileSums
    from kept.reporting import Reporter
    from kept.verification.text import Sample
    from kept.verification.verify import Verification

PLACES = ("student", "teacher", "teacher_cache", "chat_template")
"""Settings that say where something lies."""


@dataclass(frozen=True)
class RunSummary:
    """A training run: settings, trained parameters, tokens by source, and the held-out measurements by group.

    `read` has the sha256 of the models and texts, by setting. `kl` compares the whole student with its teacher.
    """

    settings: HealSettings
    trained: Trainable
    sources: Mapping[str, Mapping[str, int]]
    read: Mapping[str, str]
    groups: Mapping[str, GroupHistory]
    kl: TeacherKlRecord | None = None

    def record(self, cache: Mapping[str, Any] | None) -> HealedRecord:
        """Return the record of the run. `cache` describes the teacher cache; None without one."""
        table = {
            "settings": self._settings(),
            "trained": {"parameters": self.trained.parameters, "of": self.trained.of},
            "sources": self.sources,
            "read": self.read,
            "groups": {name: _group(one) for name, one in self.groups.items()},
            **({} if cache is None else {"teacher_cache": cache}),
            **({} if self.kl is None else {"kl": self.kl.table()}),
        }
        return HealedRecord.model_validate_json(json.dumps(finite(table)))

    def _settings(self) -> dict[str, Any]:
        """Return the settings. Paths of models, caches and templates are replaced by their names."""
        asked = dict(self.settings.to_dict())
        del asked["out"]
        for key in PLACES:
            asked[key] = None if asked[key] is None else Path(asked[key]).resolve().name
        return asked


def _group(found: GroupHistory) -> dict[str, Any]:
    """Return the record of a parameter group as plain data."""
    stopped = {} if found.stopped is None else {"stopped": found.stopped}
    return {"held_out": [asdict(one) for one in found.measurements], **stopped}


@dataclass(frozen=True)
class HealedExport:
    """A student's output before training, so that errors show before it costs anything.

    `record` is the student's `kept.json`; None without one. `sample` are the tokens to measure on; None without a
    teacher of the student's width.
    """

    pair: TeacherStudent
    record: Record | None
    origin: Origin
    sample: Sample | None

    @classmethod
    def of(cls, pair: TeacherStudent) -> HealedExport:
        """Return the export of a pair. Raises CheckpointError for a damaged record, InputError if no text fits."""
        record = read_record(pair.student.path)
        return cls(pair, record, origin_of(pair.student, record), _sample(pair))

    def write(self, weights: Mapping[str, Lazy], summary: RunSummary, reporter: Reporter) -> Verification | None:
        """Write the student with these weights in place of its own, as its family does; measured before it is named.

        Raises PromiseError where it outputs NaN or Inf.
        """
        return export(self._export(weights, summary), reporter).verification

    def _export(self, weights: Mapping[str, Lazy], summary: RunSummary) -> Export:
        """Return the values of the export."""
        student, settings = self.pair.student, summary.settings
        program = student.program.updated(student.program.spec, weights)
        files = OutputFiles(shards(student.family.write(program)), own_keys(student), self._companions(settings))
        healed = summary.record(None if self.pair.cache is None else self.pair.cache.about)
        return Export(
            target=Path(settings.out),
            source=student,
            files=files,
            fingerprint={"settings": dict(settings.to_dict()), "measured": healed.table()["groups"]},
            reference=self._reference(),
            inputs=InputSnapshot(),
            card=lambda found: model_card(self.origin, program, Promise.LOSSY, found, healed),
            record=lambda sums, found: self._record(healed, sums, found),
            earlier=student,
        )

    def _companions(self, settings: HealSettings) -> dict[str, Path | bytes]:
        """Return the companion files: the student's own, with the chat template used in training."""
        template = None if settings.chat_template is None else Path(settings.chat_template)
        student = self.pair.student
        return {**companions(student.path, student.program.spec, template=template), **code_of(student.family)}

    def _reference(self) -> Reference | None:
        """Return what the result is measured against; None without a teacher of the student's width."""
        if self.pair.teacher is None or self.sample is None:
            return None
        student, teacher = self.pair.student, self.pair.teacher
        claim = claim_of(self.record, Promise.LOSSY, teacher.program.spec, student.program.spec)
        return Reference(teacher, self.sample, replace(claim, stream=stream_map(student, teacher)))

    def _record(self, healed: HealedRecord, sums: FileSums, found: Verification | None) -> Record:
        """Return the student's record with what healing changed: it is lossy, and measured against the teacher."""
        before = self.record or Record()
        again = before.healed is not None
        student = StudentRecord(name=self.pair.student.name, files=sums.source)
        changes: dict[str, Any] = {
            **({"history": history(before)} if again else {}),
            "kept": version("kept"),
            "torch": version("torch"),
            "promise": Promise.LOSSY,
            "verification": None if found is None else verification_record(found),
            "healed": healed.model_copy(update={"student": student}),
            "files": sums.output,
        }
        return before.model_copy(update=changes)


def _sample(pair: TeacherStudent) -> Sample | None:
    """The tokens to measure on, where there is a teacher whose stream can be compared, layer by layer."""
    spec = pair.student.program.spec
    if pair.teacher is None or pair.teacher.program.spec.width != spec.width:
        return None
    return short_sample(pair.teacher, spec)
