"""Tiny readable checkpoints as subjects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kept.evaluation.subject import Subject
from kept.loaded import open_model
from support.stored import write_readable

if TYPE_CHECKING:
    from pathlib import Path


def subject(directory: Path, dtype: torch.dtype | None = torch.float64) -> Subject:
    """A checkpoint on disk, run in float64 if nothing else is said."""
    return Subject(open_model(directory), dtype)


def tiny(directory: Path, family: str = "llama", **overrides: Any) -> Subject:
    """A tiny checkpoint with a tokenizer of bytes."""
    return subject(write_readable(directory, family, **overrides))
