"""A checkpoint directory or a GGUF file, opened as a program."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kept.checkpoint.adapter import CONFIG, is_adapter, merged, stated_base
from kept.checkpoint.reader import Checkpoint, open_checkpoint
from kept.checkpoint.weights import some
from kept.errors import CheckpointError, printable
from kept.families import FAMILIES, family_of
from kept.families.multimodal import is_multimodal, text_part
from kept.gguf.header import is_gguf
from kept.hub import cached, local, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kept.families.table import Family
    from kept.ir.program import Program


@dataclass(frozen=True)
class Opened:
    """A checkpoint, its family, and its program (no weight is read).

    `unpacked` is the file that the checkpoint's directory was unpacked from, and `quantised` says what its weights
    are stored as; None and empty for a directory that was there. `remark` is what to tell the user of it,
    `scratch` what removes an unpacked directory when it is forgotten.
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
        """The directory with the files beside the weights."""
        return self.checkpoint.path

    @property
    def source(self) -> Path:
        """What it was opened from: its directory, or its file."""
        return self.unpacked or self.path

    @property
    def name(self) -> str:
        """What it is called: the name of its directory or file, or its hub id and commit, and those of its adapter."""
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
        """What there is and does not count, a line each: files that stay behind, code, keys that nobody reads.

        Of a GGUF file also a tokenizer that cannot be rebuilt.
        """
        beside = self.checkpoint.left_out
        files = f"{self.path}: neither read nor copied: {some(beside)}" if beside else self.remark
        said = (f"{self.source}: {note}" for note in self.config_notes)
        return (*((files,) if files else ()), *said)

    @property
    def config_notes(self) -> tuple[str, ...]:
        """Notes on the config, without paths: remote code that is not run, keys that no table reads, an unused head."""
        return tuple(self.family.notes(self.config, self.checkpoint.tensors))


def open_model(path: str | Path, base: str | Path | None = None, *, tie: bool | None = None) -> Opened:
    """Open a checkpoint of any family: a directory, a GGUF file, or a hub id (`org/name`, `org/name@revision`).

    A LoRA adapter is merged into `base`, or into what it names itself: a directory, or a hub id in the client's cache.
    What a hub id names is fetched. `tie`: where the head is tied to the embedding and another is stored, True takes the
    embedding, False the other. Raises CheckpointError naming the file, tensor or key that is wrong, and Refusal for
    what no family can hold.
    """
    found = local(path)
    if base is not None and not is_adapter(found):
        raise CheckpointError(f"{found}: is no adapter (it has no {CONFIG}), so it has no --base")
    if is_gguf(found):
        return _open_gguf(found)
    _refuse_directory_of(found)
    checkpoint = _opened(found, base)
    try:
        checkpoint = _text_alone(checkpoint)
        family = family_of(checkpoint.config)
        program = family.read(checkpoint.config, checkpoint.tensors, tie=tie)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    return Opened(checkpoint, family, program)


def _opened(directory: Path, base: str | Path | None) -> Checkpoint:
    """A checkpoint, or the base of an adapter with that merged into it."""
    if not is_adapter(directory):
        return open_checkpoint(directory)
    found = local(base) if base is not None else cached(stated_base(directory))
    if found is None:
        named = printable(stated_base(directory))
        wrong = f"{directory}: is an adapter (peft) of {named}, which is not here"
        raise CheckpointError(f"{wrong}; merge it first: kept convert ADAPTER OUT --base DIR")
    return merged(directory, open_checkpoint(found))


def _text_alone(checkpoint: Checkpoint) -> Checkpoint:
    """The text part of a multimodal checkpoint; another as it is."""
    if not is_multimodal(checkpoint.config) or checkpoint.config.get("model_type") in [*FAMILIES]:
        return checkpoint
    part = text_part(checkpoint.config, checkpoint.tensors, [*FAMILIES])
    left_out = (*checkpoint.left_out, *part.left_out)
    return replace(checkpoint, config=part.config, tensors=part.tensors, left_out=left_out)


def _open_gguf(file: Path) -> Opened:
    from kept.gguf.source import open_gguf  # noqa: PLC0415 - numpy, and only where there is such a file

    found = open_gguf(file)
    checkpoint = Checkpoint(found.scratch.directory, found.model.config, found.model.tensors, found.files)
    return Opened(
        checkpoint, found.model.family, found.model.program, file, found.quantised, found.remark, found.scratch
    )


def _refuse_directory_of(directory: Path) -> None:
    """Raise CheckpointError for a directory with GGUF files and no config: it may have several models."""
    if not os.path.isfile(directory / "config.json"):  # noqa: PTH113 - a name of any length is no error
        file = min(directory.glob("*.gguf"), default=None) if os.path.isdir(directory) else None  # noqa: PTH112
        if file is not None:
            raise CheckpointError(f"{directory}: has GGUF files and no config.json; name the file, as {file}")


def small_files(path: str | Path) -> Path:
    """The directory with a checkpoint's config and tokenizer: itself, or what a GGUF file is unpacked to."""
    found = local(path)
    return open_model(found).path if is_gguf(found) else found
