"""Open a checkpoint directory, a GGUF file or a hub id as a program."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kept.checkpoint.adapter import is_adapter, merged, stated_base
from kept.checkpoint.adapter_config import CONFIG
from kept.checkpoint.reader import Checkpoint, open_checkpoint
from kept.checkpoint.weights import some
from kept.errors import CheckpointError, printable
from kept.families import FAMILIES, family_of
from kept.families.multimodal import is_multimodal, text_part
from kept.formatting import parameters
from kept.gguf.header import is_gguf
from kept.hub import cached, local, name_of
from kept.quantised.source import unquantised
from kept.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kept.families.table import Family
    from kept.ir.program import Program


@dataclass(frozen=True, repr=False)
class LoadedModel(Summarised):
    """An opened checkpoint, its family and its program. No weight is read.

    `quantised` describes the stored types of quantised weights; it is empty if they are not quantised. For a GGUF file,
    `unpacked` is the file, `remark` a note to the user, and `scratch` the owner of the temporary directory, which is
    removed with it. For a directory they are empty.
    """

    checkpoint: Checkpoint
    family: Family
    program: Program
    unpacked: Path | None = None
    quantised: str = ""
    remark: str = ""
    scratch: object = None

    @property
    def path(self) -> Path:
        """The directory with the config and tokenizer files."""
        return self.checkpoint.path

    @property
    def source(self) -> Path:
        """The path that was opened: the directory, or the GGUF file."""
        return self.unpacked or self.path

    @property
    def name(self) -> str:
        """The name of its directory or file, or its hub id and commit; `+` and the adapter's name if one is merged."""
        adapter = self.checkpoint.adapter
        name = name_of(self.path) if self.unpacked is None else printable(self.unpacked.name)
        return name if adapter is None else f"{name}+{name_of(adapter)}"

    @property
    def config(self) -> Mapping[str, Any]:
        """The keys of its config.json."""
        return self.checkpoint.config

    @property
    def files(self) -> tuple[Path, ...]:
        """Its weight files."""
        return self.checkpoint.files

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes to the user, one line each: files that are not copied, remote code, config keys that are ignored.

        For a GGUF file also a tokenizer that cannot be rebuilt.
        """
        beside = self.checkpoint.left_out
        files = f"{self.path}: neither read nor copied: {some(beside)}" if beside else self.remark
        notes = (f"{self.source}: {note}" for note in self.config_notes)
        return (*((files,) if files else ()), *notes)

    @property
    def config_notes(self) -> tuple[str, ...]:
        """Notes without paths: a text model, remote code, keys that no table reads, an unused head, activations."""
        return (*self.checkpoint.notes, *self.family.notes(self.config, self.checkpoint.tensors))

    def summary(self) -> dict[str, str]:
        """Return name, family and size."""
        spec = self.program.spec
        shape = f"{len(spec.layers)} layers, width {spec.width}, {spec.vocabulary:,} tokens"
        return {
            "name": self.name,
            "family": self.family.name,
            "shape": shape,
            "parameters": parameters(self.program.parameters),
        }


@contextmanager
def opening(model: str | Path) -> Iterator[None]:
    """Record in a CheckpointError which model was opened."""
    try:
        yield
    except CheckpointError as error:
        error.model = str(model)
        raise


def open_model(
    path: str | Path, base: str | Path | None = None, *, adapter: str | Path | None = None, tie: bool | None = None
) -> LoadedModel:
    """Open a checkpoint of any family. Reads headers; weights are lazy tensors.

    Args:
        path: a checkpoint directory, a GGUF file, a LoRA adapter, or a hub id (`org/name`, `org/name@revision`).
            A hub id is fetched.
        base: the base model of a LoRA adapter, if it is not where the adapter's config says.
        adapter: a LoRA or DoRA adapter (peft) to merge into the checkpoint.
        tie: if the stored head differs from tied embeddings: True uses the embedding, False the stored head.

    Returns:
        The loaded model. `program` has the spec and the weights, `family` the table that read it.

    Raises:
        CheckpointError: names the file, tensor or key that is wrong.
        Refusal: no family can represent the model.

    Example:
        ```python
        model = kept.open_model("path/to/orion-14b")
        print(model.family.name, model.program.spec.width)
        ```
    """
    with opening(path):
        return _open_local(local(path), base, adapter, tie=tie)


def _open_local(found: Path, base: str | Path | None, adapter: str | Path | None, *, tie: bool | None) -> LoadedModel:
    if base is not None and not is_adapter(found):
        raise CheckpointError(f"{found}: is not an adapter (it has no {CONFIG}); leave out --base")
    if is_gguf(found):
        if adapter is not None:
            raise CheckpointError(f"{found}: is a GGUF file, adapters are merged into directories; convert it first")
        return _open_gguf(found)
    _refuse_gguf_directory(found)
    checkpoint = _opened(found, base) if adapter is None else _adapted(found, local(adapter))
    try:
        checkpoint = _text_model(checkpoint)
        family = family_of(checkpoint.config)
        program = family.read(checkpoint.config, checkpoint.tensors, tie=tie)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    return LoadedModel(checkpoint, family, program, quantised=checkpoint.quantised)


def _opened(directory: Path, base: str | Path | None) -> Checkpoint:
    """Return the checkpoint in a directory; for an adapter, its base with the adapter merged."""
    if not is_adapter(directory):
        return _read(directory)
    found = local(base) if base is not None else cached(stated_base(directory))
    if found is None:
        named = printable(stated_base(directory))
        wrong = f"{directory}: is an adapter (peft) of {named}, which is neither a directory nor in the hub cache"
        raise CheckpointError(f"{wrong}; merge it first: kept convert ADAPTER OUT --base DIR")
    return merged(directory, _read(found))


def _adapted(directory: Path, adapter: Path) -> Checkpoint:
    """Return the checkpoint in a directory with an adapter merged into it."""
    if not is_adapter(adapter):
        raise CheckpointError(f"{adapter}: is not an adapter (it has no {CONFIG})")
    if is_adapter(directory):
        raise CheckpointError(f"{directory}: is an adapter itself; merge one after the other")
    return merged(adapter, _read(directory))


def _read(directory: Path) -> Checkpoint:
    """Return the checkpoint in a directory, dequantised if it is quantised."""
    checkpoint = open_checkpoint(directory)
    try:
        return unquantised(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}") from None


def _text_model(checkpoint: Checkpoint) -> Checkpoint:
    """Return the text model of a multimodal checkpoint; any other checkpoint unchanged."""
    if not is_multimodal(checkpoint.config) or checkpoint.config.get("model_type") in [*FAMILIES]:
        return checkpoint
    part = text_part(checkpoint.config, checkpoint.tensors, [*FAMILIES])
    left_out = (*checkpoint.left_out, *part.left_out)
    notes = (*checkpoint.notes, part.note)
    return replace(checkpoint, config=part.config, tensors=part.tensors, left_out=left_out, notes=notes)


def _open_gguf(file: Path) -> LoadedModel:
    from kept.gguf.source import open_gguf  # noqa: PLC0415 - imports numpy; needed for GGUF files only

    found = open_gguf(file)
    checkpoint = Checkpoint(found.scratch.directory, found.model.config, found.model.tensors, found.files)
    return LoadedModel(
        checkpoint, found.model.family, found.model.program, file, found.quantised, found.remark, found.scratch
    )


def _refuse_gguf_directory(directory: Path) -> None:
    """Raise CheckpointError for a directory with GGUF files but no config.json, which may hold several models."""
    if not os.path.isfile(directory / "config.json"):  # noqa: PTH113 - Path.is_file raises for a long name
        file = min(directory.glob("*.gguf"), default=None) if os.path.isdir(directory) else None  # noqa: PTH112
        if file is not None:
            raise CheckpointError(f"{directory}: has GGUF files and no config.json; name one of them, such as {file}")


def small_files(path: str | Path) -> Path:
    """Return the directory with a checkpoint's config and tokenizer; for a GGUF file a temporary one."""
    found = local(path)
    return open_model(found).path if is_gguf(found) else found
