"""Write a model and publish it: the one export of converted, expanded, shrunk and healed models.

The files are staged in a hidden directory. Small files come first, because what is wrong with them shows before hours
of writing. Then the weights are written, the result is measured, and model card and record state the measurement. The
directory gets its name at the end, or the name of a result that broke its promise (`kept.output.publish`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.json_file import to_json
from kept.checkpoint.nonfinite import first_not_finite
from kept.checkpoint.staging import staging
from kept.errors import CheckpointError, Overflow
from kept.ir.tensors import wider
from kept.loaded import open_model
from kept.output.publish import require_kept
from kept.output.record import RECORD
from kept.output.write_files import copied_files, write_small_files, write_weights
from kept.output.write_record import continuation_records
from kept.recipe import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kept.checkpoint.staging import Staging
    from kept.ir.promise import Claim
    from kept.loaded import LoadedModel
    from kept.output.input_files import FileSums, InputSnapshot
    from kept.output.record import Record
    from kept.output.write_files import OutputFiles
    from kept.reporting import Reporter
    from kept.verification.text import Sample
    from kept.verification.verify import Verification

CARD = "README.md"
"""File name of the model card."""


@dataclass(frozen=True)
class Reference:
    """Reference of a verification: a model, the tokens, and the claim.

    `check_finite`: raise an error if a weight of the model is NaN or Inf, or if its logits overflow in the output's
    dtype. Logits alone may not show such a weight, because no text contains every token.
    """

    model: LoadedModel
    sample: Sample
    claim: Claim
    check_finite: bool = False


@dataclass(frozen=True)
class Export:
    """The values in which one export differs from another.

    `source` is the model whose files the weights are read from. `fingerprint` identifies the run: an unfinished output
    of the same run is continued. `reference` is None if nothing is measured. `inputs` must not change during the run.
    `card` and `record` return the content of `README.md` and `kept.json` for a measurement. `earlier` is the model
    before training, whose texts are recorded beside the output's; None if nothing was trained.
    """

    target: Path
    source: LoadedModel
    files: OutputFiles
    fingerprint: Mapping[str, object]
    reference: Reference | None
    inputs: InputSnapshot
    card: Callable[[Verification | None], bytes]
    record: Callable[[FileSums, Verification | None], Record]
    earlier: LoadedModel | None = None


@dataclass(frozen=True)
class Exported:
    """A published output: its record, and its verification if it was measured."""

    record: Mapping[str, Any]
    verification: Verification | None


def export(asked: Export, reporter: Reporter) -> Exported:
    """Write, measure and publish an output.

    Raises OutputError where it cannot be written, CheckpointError for NaN or Inf in the source and for an input that
    changed meanwhile, Overflow for a computed weight that is not finite, PromiseError where the result broke its
    promise.
    """
    with staging(asked.target, asked.fingerprint) as stage:
        names = write_small_files(stage, asked.files)
        sums = _write_weights(stage, asked, reporter)
        found = None if asked.reference is None else _measure(stage, asked.reference, reporter)
        stage.write(CARD, asked.card(found))
        sums.output.update({name: digest(stage.path / name) for name in (*names, CARD)})
        record = _with_texts(stage, asked.earlier, asked.record(sums, found)).table()
        stage.write(RECORD, to_json(record))
        require_kept(stage, found)
        asked.inputs.check(copied_files(asked.files.companions, sums.output))
        stage.publish()
    return Exported(record, found)


def _write_weights(stage: Staging, asked: Export, reporter: Reporter) -> FileSums:
    try:
        return write_weights(stage, asked.files.shards, asked.source, reporter)
    except Overflow:
        _check_finite(asked.source, packed=True)  # raises an error that names the weight
        raise


def _measure(stage: Staging, reference: Reference, reporter: Reporter) -> Verification:
    """Return the measurement of the staged model. Raises CheckpointError as `Reference.check_finite` says."""
    if not reference.check_finite:
        return verify_staged(stage, reference, reporter)
    model = reference.model
    _check_finite(model)
    found = verify_staged(stage, reference, reporter)
    if found.same is not None and not isfinite(found.same.logit_std):
        raise CheckpointError(f"{model.path}: its own logits overflow in {found.dtype}; {wider(found.dtype)}")
    return found


def _with_texts(stage: Staging, earlier: LoadedModel | None, record: Record) -> Record:
    """Return the record with texts before and after training; without them if the model is large."""
    if earlier is None or earlier.program.parameters >= SMALL:
        return record
    from kept.verification.verify import before_and_after

    return record.with_texts(continuation_records(before_and_after(earlier, open_model(stage.path))))


def verify_staged(stage: Staging, reference: Reference, reporter: Reporter) -> Verification:
    """Return the measurement of the staged model against its reference."""
    from kept.verification.verify import verify_pair

    small, output = reference.model.program.parameters < SMALL, open_model(stage.path)
    found = verify_pair(
        reference.model, output, reference.sample, reference.claim, streamed=not small, reporter=reporter
    )
    return found if small else replace(found, notes=())


def _check_finite(model: LoadedModel, *, packed: bool = False) -> None:
    """Raise CheckpointError for a stored weight with NaN or Inf."""
    found = first_not_finite(model.checkpoint.tensors, packed=packed)
    if found is not None:
        name, file, count = found
        raise CheckpointError(
            f"{file}: {name} holds {count}; fetch the file again (kept check names every such tensor)"
        )
