"""Tiny models of four kinds, each as its stock class and as our own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from kept.families.native import KEPT
from kept.native.carried_code import carried_files
from support.conversions import converted
from support.logits import program_of, stock
from support.models import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.program import Program

SOURCES = ("llama", "gemma2", "deepseek_v3", "gpt2")
"""Plain, with windows and capped scores, with latent attention, with learned positions."""


@dataclass(frozen=True)
class BothClasses:
    """A model in the directory of its stock class, and as an output of our own class."""

    source: Path
    output: Path

    @cached_property
    def program(self) -> Program:
        return program_of(self.source)

    def own(self, dtype: torch.dtype = torch.float64) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.output, dtype=dtype).eval()

    def stock(self, dtype: torch.dtype = torch.float64) -> Any:
        # Gemma 2's plain attention is the one that its class allows.
        return stock(self.source, dtype, "eager" if self.source.name == "gemma2" else "sdpa")


def both_classes(folder: Path, name: str) -> BothClasses:
    untied = {"tie_word_embeddings": False} if name == "gemma2" else {}  # a tied head repeats the last token
    source = write_checkpoint(folder / name, name, dtype=torch.float64, **untied)
    output = converted(program_of(source), folder / f"{name}-kept", KEPT)
    for file, content in carried_files().items():
        (output / file).write_bytes(content)
    return BothClasses(source, output)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BothClasses]:
    folder = tmp_path_factory.mktemp("native")
    return {name: both_classes(folder, name) for name in SOURCES}


@pytest.fixture
def llama(models: dict[str, BothClasses]) -> BothClasses:
    return models["llama"]
