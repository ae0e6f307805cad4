"""Finishing a healed model: its files, what is measured of them, the card, the record, and at last the name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.companion_files import companions
from kept.checkpoint.json_file import finite, to_json
from kept.checkpoint.safetensors_writer import shards
from kept.checkpoint.staging import Staging, staging
from kept.commands.plan import STALE, short_sample
from kept.ir.promise import Promise
from kept.json_values import blamed
from kept.output.model_card import Origin, model_card, origin_of
from kept.output.publish import require_kept, verify_staged
from kept.output.record import RECORD, claim_of, history, recorded, verification_table
from kept.output.write_files import check_copies, copies, write_small, write_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kept.commands.heal_inputs import TeacherStudent
    from kept.distillation.settings import HealSettings
    from kept.distillation.train.trainable import Trainable
    from kept.distillation.train.trainer import Measurement
    from kept.ir.tensors import Lazy
    from kept.reporting import Reporter
    from kept.verification.text import Sample
    from kept.verification.verify import Verification

PLACES = ("student", "teacher", "teacher_cache", "chat_template")
"""Settings that say where something lies."""


@dataclass(frozen=True)
class RunSummary:
    """What a run did: what it was asked, what learned, from how much of what, and what was measured on the way.

    `read` has the sha256 of the models and texts, by setting.
    """

    settings: HealSettings
    learned: Trainable
    sources: Mapping[str, Mapping[str, int]]
    read: Mapping[str, str]
    history: Sequence[Measurement]

    @property
    def table(self) -> dict[str, Any]:
        """As a record keeps it."""
        table: dict[str, Any] = finite(
            {
                "settings": self._settings(),
                "learned": {"parameters": self.learned.parameters, "of": self.learned.of},
                "sources": self.sources,
                "read": self.read,
                "held_out": [{**asdict(one), **one.losses} for one in self.history],
            }
        )
        return table

    def _settings(self) -> dict[str, Any]:
        """As they were asked for; of models, caches and templates the names, wherever they lie."""
        asked = dict(self.settings.to_dict())
        del asked["out"]
        for key in PLACES:
            asked[key] = None if asked[key] is None else Path(asked[key]).resolve().name
        return asked


@dataclass(frozen=True)
class HealedExport:
    """A student's output before anything is learned, when whatever is wrong with it costs nothing yet.

    `record` is what its `kept.json` says, and empty without one. `sample` is what it will be measured on; None where
    no teacher is at hand, or one whose stream is of another width.
    """

    pair: TeacherStudent
    record: Mapping[str, Any]
    origin: Origin
    sample: Sample | None

    @classmethod
    def of(cls, pair: TeacherStudent) -> HealedExport:
        """The draft of a pair. Raises CheckpointError for a damaged record, InputError where no text fits."""
        file = pair.student.path / RECORD
        record = recorded(pair.student)
        with blamed(file, "the record", "convert again, or remove it"):
            origin = origin_of(pair.student, record)
        return cls(pair, record, origin, _sample(pair))

    def write(self, weights: Mapping[str, Lazy], course: RunSummary, reporter: Reporter) -> Verification | None:
        """Write the student with these weights in place of its own, as its family does; measured before it is named.

        Raises PromiseError where it puts out what is no number.
        """
        student = self.pair.student
        program = student.program.updated(student.program.spec, weights)
        parts = shards(student.family.write(program))
        config = {key: value for key, value in student.config.items() if key not in STALE}
        healed = course.table if self.pair.cache is None else {**course.table, "teacher_cache": self.pair.cache.about}
        fingerprint = {"settings": dict(course.settings.to_dict()), "measured": healed["held_out"]}
        with staging(Path(course.settings.out), fingerprint) as stage:
            extra = self._companions(course.settings)
            small = write_small(stage, parts, config, extra)
            hashes = write_weights(stage, parts, student, reporter)
            found = self._measured(stage, reporter)
            stage.write("README.md", model_card(self.origin, program.spec, Promise.LOSSY, found, healed))
            hashes["output"].update({name: digest(stage.path / name) for name in (*small, "README.md")})
            stage.write(RECORD, to_json(self._record(healed, hashes, found)))
            require_kept(stage, found)
            check_copies(copies(extra, hashes["output"]))
            stage.publish()
        return found

    def _companions(self, settings: HealSettings) -> dict[str, Path | bytes]:
        """What goes along: the student's own, with the chat template that it learned by."""
        template = None if settings.chat_template is None else Path(settings.chat_template)
        return companions(self.pair.student.path, self.pair.student.program.spec, template=template)

    def _measured(self, stage: Staging, reporter: Reporter) -> Verification | None:
        if self.pair.teacher is None or self.sample is None:
            return None
        claim = claim_of(self.record, Promise.LOSSY, self.pair.teacher.program.spec, self.pair.student.program.spec)
        return verify_staged(self.pair.teacher, stage, self.sample, claim, reporter)

    def _record(
        self, healed: Mapping[str, Any], hashes: Mapping[str, Mapping[str, str]], found: Verification | None
    ) -> dict[str, Any]:
        """The student's own record, with what healing changed: it keeps no promise any more, and is measured."""
        return {
            **self.record,
            **(history(self.record) if "healed" in self.record else {}),
            "kept": version("kept"),
            "torch": version("torch"),
            "promise": str(Promise.LOSSY),
            "verification": None if found is None else verification_table(found),
            "healed": {**healed, "student": {"name": self.pair.student.name, "files": hashes["source"]}},
            "files": hashes["output"],
        }


def _sample(pair: TeacherStudent) -> Sample | None:
    """The tokens to measure on, where there is a teacher whose stream can be compared, layer by layer."""
    spec = pair.student.program.spec
    if pair.teacher is None or pair.teacher.program.spec.width != spec.width:
        return None
    return short_sample(pair.teacher, spec)
