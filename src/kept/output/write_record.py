"""The record of a conversion: what it holds of source, recipe, plan and measurement."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from kept.ir.serialise import to_json
from kept.ir.stream_map import IDENTITY
from kept.ir.tensors import TORCH_NAMES
from kept.ir.text import describe
from kept.output.healed_record import ContinuationRecord
from kept.output.record import (
    ExpansionRecord,
    LayerOrigins,
    ModelSize,
    ParityRecord,
    PassRecord,
    PastRecord,
    RecipeRecord,
    Record,
    SourceRecord,
    StreamRecord,
    VerificationRecord,
    VerificationSummary,
    VocabularyRecord,
    read_record,
)
from kept.output.record_queries import expansions, new_copies, new_tokens, vocabularies
from kept.output.runtimes import notes
from kept.passes.plan import created, moved

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kept.ir.program import Program
    from kept.loaded import LoadedModel
    from kept.output.input_files import FileSums
    from kept.passes.plan import Plan
    from kept.recipe import Recipe
    from kept.verification.parity import Parity
    from kept.verification.verify import Continuation, Verification


class NewParts(TypedDict):
    """The fields of a record that describe what a result has and its source had not."""

    new_layers: tuple[int, ...]
    new_parameters: tuple[str, ...]
    new_tokens: tuple[int, int] | tuple[()]
    expansions: tuple[ExpansionRecord, ...]
    vocabularies: tuple[VocabularyRecord, ...]


def conversion_record(
    source: LoadedModel, recipe: Recipe, plan: Plan, sums: FileSums, found: Verification | None
) -> Record:
    """Return the record of a conversion. `sums` has the sha256 of every file that was read and written."""
    earlier = history(read_record(source.path))
    optional: dict[str, Any] = {
        **({"history": earlier} if earlier else {}),
        **({} if plan.stream == IDENTITY else {"stream": StreamRecord(**asdict(plan.stream))}),
    }
    return Record(
        kept=version("kept"),
        torch=version("torch"),
        **optional,
        source=_source(source, sums.source),
        recipe=_recipe(recipe),
        before=_size(source.program),
        after=_size(plan.program),
        promise=plan.promise,
        domain=plan.domain,
        passes=passes(plan),
        layers=LayerOrigins(of_source=source.program.spec.depth, origins=plan.layer_origins),
        **new_parts(source, plan),
        runtimes=tuple(map(str, notes(plan))),
        verification=None if found is None else verification_record(found),
        files=dict(sums.output),
    )


def _source(source: LoadedModel, sums: Mapping[str, str]) -> SourceRecord:
    optional: dict[str, Any] = {
        "quantised": source.quantised,
        "left_out": source.checkpoint.left_out,
        "notes": source.config_notes,
    }
    stated = {key: value for key, value in optional.items() if value}
    return SourceRecord(name=source.name, family=source.family.name, files=dict(sums), **stated)


def passes(plan: Plan) -> tuple[PassRecord, ...]:
    """Return the passes of a plan, each with its promise and what it added."""
    return tuple(
        PassRecord(
            name=step.rewrite.name,
            options=step.rewrite.record(),
            promise=step.promise,
            layers=step.layers,
            parameters=step.parameters,
        )
        for step in plan.steps
    )


def verification_record(found: Verification) -> VerificationRecord:
    """Return the record of a verification, with its verdict."""
    return VerificationRecord(
        promise=found.promise,
        text=found.text,
        dtype=found.dtype,
        copied=found.copied,
        same=_parity(found.same),
        proof=_parity(found.proof),
        output=_parity(found.output),
        floor=_parity(found.floor),
        continuations=continuation_records(found.continuations),
        notes=found.notes,
        altered=found.altered,
        domain=found.domain,
        decoding=found.decoding,
        kept=found.failure is None,
        failure=found.failure,
    )


def continuation_records(found: Iterable[Continuation]) -> tuple[ContinuationRecord, ...]:
    """Return the records of continuations."""
    return tuple(ContinuationRecord.model_validate(one, from_attributes=True) for one in found)


def _parity(measured: Parity | None) -> ParityRecord | None:
    return None if measured is None else ParityRecord.model_validate(measured, from_attributes=True)


def _size(program: Program) -> ModelSize:
    return ModelSize(
        dtype=TORCH_NAMES[program.dtype],
        parameters=program.parameters,
        bytes=program.nbytes,
        kv_cache=program.kv_cache,
        description=tuple(describe(program.spec)),
        spec=to_json(program.spec),
    )


def history(earlier: Record | None) -> tuple[PastRecord, ...]:
    """Return the history of a model made from one with this record, oldest first.

    The sha256 of files and the measurements of each layer are left out.
    """
    if earlier is None:
        return ()
    left = earlier.model_fields_set - {"history", "files", "new_parameters", "verification"}
    kept: dict[str, Any] = {name: getattr(earlier, name) for name in left} | (earlier.model_extra or {})
    if "verification" in earlier.model_fields_set:
        found = earlier.verification
        kept["verification"] = found and VerificationSummary(text=found.text, kept=found.kept, failure=found.failure)
    return (*earlier.history, PastRecord(**kept))


def new_parts(source: LoadedModel, plan: Plan) -> NewParts:
    """Return what a result has that is new, and every expansion of it, oldest first, in its own numbers.

    New is what the plan made. If it adds no layers or tokens, those that the source's own expansions added count as
    new. Raises CheckpointError if the source's record lists what the source does not have.
    """
    earlier = [moved(copied, plan.origins) for copied in expansions(source)]
    made = [dict(zip(one.layers, one.copies_of, strict=True)) for one in plan.expansions]
    kept = () if made else moved(dict.fromkeys(new_copies(source)), plan.origins)
    added = plan.new_tokens
    return {
        "new_layers": tuple(sorted({*kept, *plan.new_layers})),
        "new_parameters": tuple(created(source.program.spec, plan, kept)),
        "new_tokens": (added.start, added.stop) if plan.vocabularies else new_tokens(source),
        "expansions": tuple(
            ExpansionRecord(layers=tuple(one), copies_of=tuple(one.values())) for one in (*earlier, *made) if one
        ),
        "vocabularies": (*vocabularies(source), *_new_vocabularies(source, plan)),
    }


def _new_vocabularies(source: LoadedModel, plan: Plan) -> list[VocabularyRecord]:
    """Return the plan's expansions of the vocabulary, in order."""
    size, out = source.program.spec.vocabulary, []
    for one in plan.vocabularies:
        before, size = size, one.size(size)
        new = one.grown.first, one.grown.end
        out.append(VocabularyRecord(new=new, before=before, after=size, embedding_init=Path(one.embedding_init).name))
    return out


def _recipe(recipe: Recipe) -> RecipeRecord:
    paths = {"source", "out", "base", "adapter", "data"}
    asked = {key: value for key, value in recipe.to_dict().items() if key not in paths}
    if recipe.passes:
        asked["passes"] = [{"name": one.name, **one.portable_options()} for one in recipe.passes]
    return RecipeRecord(**asked)


def verification_table(found: Verification) -> dict[str, Any]:
    """Return a verification as plain data, with its verdict."""
    return verification_record(found).table()
