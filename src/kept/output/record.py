"""The record of an output, `kept.json`: what was done to a checkpoint, and what was measured.

A record has no time stamps and does not say where source and output lie, so that the same conversion writes the same
bytes. Anyone may have edited it, so it is validated when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from kept.checkpoint.json_file import read_json
from kept.checkpoint.json_model import JsonModel, Number
from kept.errors import CheckpointError
from kept.ir.promise import Promise
from kept.ir.serialise import from_json
from kept.output.healed_record import ContinuationRecord, HealedRecord
from kept.recipe import SAME

if TYPE_CHECKING:
    from pathlib import Path


RECORD = "kept.json"

WAY_OUT = "convert again, or remove it"


class SourceRecord(JsonModel):
    """The source: name, family, sha256 of its files by name, stored types of quantised weights, files not read."""

    name: str
    family: str
    files: Mapping[str, str] = {}
    quantised: str = ""
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class RecipeRecord(JsonModel):
    """The recipe without paths. `to` is the target family, or `same`."""

    to: str
    tie: bool | None = None


class ModelSize(JsonModel):
    """A model in figures, words and data. `kv_cache`: bytes of the KV cache of a sequence, by its tokens.

    `description` has a line for each group of equal layers, `spec` is the architecture (`kept.ir.serialise`).
    """

    dtype: str
    parameters: int
    bytes: int
    kv_cache: Mapping[int, int]
    description: tuple[str, ...]
    spec: Mapping[str, Any]

    @field_validator("spec")
    @classmethod
    def _check_spec(cls, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raise ValueError naming the field of a spec that does not read back."""
        try:
            from_json(spec)
        except CheckpointError as error:
            raise ValueError(str(error)) from None
        return spec


class PassRecord(JsonModel):
    """A pass that ran: name, options, promise, and the layers and parameters that it added."""

    name: str
    options: Mapping[str, Any] = {}
    promise: Promise
    layers: int = 0
    parameters: int = 0


class LayerOrigins(JsonModel):
    """The depth of the source; for each layer its index in the source, or the name of the pass that made it."""

    of_source: int
    origins: tuple[int | str, ...]

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        """Raise ValueError for an origin that the source does not have."""
        wrong = [one for one in self.origins if isinstance(one, int) and not 0 <= one < self.of_source]
        if wrong:
            raise ValueError(f"there is no layer {wrong[0]} in a source of {self.of_source}")
        return self


class StreamRecord(JsonModel):
    """Effect of a conversion on the residual stream: the fields of `kept.ir.stream_map.StreamMap`."""

    centred: bool = False
    constant: float = Field(default=0.0, allow_inf_nan=False)
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class ExpansionRecord(JsonModel):
    """The layers that a block expansion added, and the layer that each is a copy of; None if that was dropped."""

    layers: tuple[int, ...]
    copies_of: tuple[int | None, ...]


class VocabularyRecord(JsonModel):
    """An expansion of the vocabulary: first new id and one past the last, rows before and after, initial value."""

    new: tuple[int, int] | None = None
    before: int
    after: int
    embedding_init: str = ""


class ParityRecord(JsonModel):
    """The fields of `kept.verification.parity.Parity`."""

    tokens: int
    logit_std: Number
    max_logit_error: Number
    mean_logit_error: Number
    kl: Number
    top1: Number
    perplexity_reference: Number
    perplexity: Number
    layers: tuple[Number, ...]


class VerificationSummary(JsonModel):
    """The verdict of a verification: the text, whether the promise was kept, and the reason if it was not."""

    text: str | None = None
    kept: bool | None = None
    failure: str | None = None


class VerificationRecord(VerificationSummary):
    """The fields of `kept.verification.verify.Verification`, with its verdict."""

    text: str
    failure: str | None
    promise: Promise | None = None
    dtype: str
    copied: bool = False
    same: ParityRecord | None = None
    proof: ParityRecord | None
    output: ParityRecord | None
    floor: ParityRecord | None
    continuations: tuple[ContinuationRecord, ...] = ()
    notes: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    domain: tuple[str, ...] = ()
    decoding: Number | None = None


class PastRecord(JsonModel):
    """One step of a model's history. `source`, `recipe` and `passes` are None if nothing was converted."""

    kept: str = ""
    torch: str = ""
    source: SourceRecord | None = None
    recipe: RecipeRecord | None = None
    before: ModelSize | None = None
    after: ModelSize | None = None
    promise: Promise | None = None
    domain: tuple[str, ...] = ()
    passes: tuple[PassRecord, ...] | None = None
    layers: LayerOrigins | None = None
    stream: StreamRecord = StreamRecord()
    new_layers: tuple[int, ...] = ()
    new_tokens: tuple[int, int] | tuple[()] = ()
    expansions: tuple[ExpansionRecord, ...] = ()
    vocabularies: tuple[VocabularyRecord, ...] = ()
    runtimes: tuple[str, ...] = ()
    verification: VerificationSummary | None = None
    healed: HealedRecord | None = None

    @property
    def converted(self) -> bool:
        """Whether the step was a conversion."""
        return self.source is not None and self.recipe is not None and self.passes is not None

    def same_conversion(self, other: PastRecord) -> bool:
        """Return whether both records describe the same conversion; a model healed again repeats it."""
        return (self.source, self.recipe, self.passes) == (other.source, other.recipe, other.passes)

    @property
    def target(self) -> str | None:
        """The family of the output; None if nothing was converted."""
        if self.source is None or self.recipe is None:
            return None
        return self.source.family if self.recipe.to == SAME else self.recipe.to


class UnreadableRecord(PastRecord):
    """An entry of a history that is not as kept writes it. Its content is kept, and written again as it is."""

    content: Any

    @model_serializer
    def _content(self) -> Any:  # noqa: ANN401 - any JSON
        return self.content


def _history_entry(value: Any) -> PastRecord:  # noqa: ANN401 - any JSON
    """Return an entry of a history; the model stays usable if one is malformed."""
    if isinstance(value, PastRecord):
        return value
    try:
        return PastRecord.model_validate_json(json.dumps(value))
    except ValidationError:
        return UnreadableRecord(content=value)


class Record(PastRecord):
    """The content of `kept.json`. `files` are sha256 by name; `history` are earlier steps, oldest first."""

    verification: VerificationRecord | None = None
    new_parameters: tuple[str, ...] = ()
    files: Mapping[str, str] = {}
    history: tuple[Annotated[SerializeAsAny[PastRecord], PlainValidator(_history_entry)], ...] = ()

    def with_texts(self, texts: tuple[ContinuationRecord, ...]) -> Self:
        """Return the record of a healed model with its texts before and after."""
        assert self.healed is not None
        return self.model_copy(update={"healed": self.healed.model_copy(update={"continuations": texts})})

    @property
    def chain(self) -> tuple[PastRecord, ...]:
        """All steps, oldest first, with this one at the end."""
        return (*self.history, self)


def read_record(directory: Path) -> Record | None:
    """Return the record of a checkpoint; None if it has none. Raises CheckpointError naming what is wrong with it."""
    file = directory / RECORD
    return Record.parse(read_json(file), file, "the record", WAY_OUT) if file.is_file() else None


def record_table(directory: Path) -> dict[str, Any]:
    """Return the record of a checkpoint as plain data; empty if it has none. Raises as `read_record`."""
    record = read_record(directory)
    return {} if record is None else record.table()
