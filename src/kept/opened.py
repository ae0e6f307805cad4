"""A checkpoint directory, opened as a program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kept.checkpoint.reader import open_checkpoint
from kept.checkpoint.weights import some
from kept.errors import CheckpointError
from kept.families import FAMILIES, family_of
from kept.families.multimodal import is_multimodal, text_part
from kept.hub import local, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kept.checkpoint.reader import Checkpoint
    from kept.families.table import Family
    from kept.ir.program import Program


@dataclass(frozen=True)
class Opened:
    """A checkpoint, its family, and its program (no weight is read)."""

    checkpoint: Checkpoint
    family: Family
    program: Program

    @property
    def path(self) -> Path:
        """The directory."""
        return self.checkpoint.path

    @property
    def name(self) -> str:
        """What it is called: its directory's name, or its hub id and commit."""
        return name_of(self.path)

    @property
    def config(self) -> Mapping[str, Any]:
        """The keys of its config.json."""
        return self.checkpoint.config

    @property
    def files(self) -> tuple[Path, ...]:
        """Its weight files."""
        return self.checkpoint.files

    @property
    def note(self) -> str | None:
        """What has a name of weights, or of a licence, and stays behind, in one line; None where there is nothing."""
        beside = self.checkpoint.left_out
        return f"{self.path}: neither read nor copied: {some(beside)}" if beside else None


def open_model(path: str | Path) -> Opened:
    """Open a checkpoint of any family: a directory, or a hub id (`org/name`, `org/name@revision`), which is fetched.

    Raises CheckpointError naming the file, tensor or key that is wrong, and Refusal for what no family can hold.
    """
    checkpoint = open_checkpoint(local(path))
    try:
        checkpoint = _text_alone(checkpoint)
        family = family_of(checkpoint.config)
        program = family.read(checkpoint.config, checkpoint.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    return Opened(checkpoint, family, program)


def _text_alone(checkpoint: Checkpoint) -> Checkpoint:
    """The text part of a multimodal checkpoint; another as it is."""
    if not is_multimodal(checkpoint.config) or checkpoint.config.get("model_type") in [*FAMILIES]:
        return checkpoint
    part = text_part(checkpoint.config, checkpoint.tensors, [*FAMILIES])
    left_out = (*checkpoint.left_out, *part.left_out)
    return replace(checkpoint, config=part.config, tensors=part.tensors, left_out=left_out)
