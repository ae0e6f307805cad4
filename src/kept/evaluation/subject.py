"""A checkpoint to evaluate: its identity, its tokenizer, and its model, which is loaded on first use."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.file_names import COPIED, SETTINGS
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.errors import InputError
from kept.evaluation.journal import Journal
from kept.evaluation.result_store import sum_of
from kept.nn.model import Model
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.ir.spec import Spec
    from kept.loaded import LoadedModel


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """A checkpoint, run in its own dtype or in `dtype`, on `device`. `journal` records the steps of measurements."""

    loaded: LoadedModel
    dtype: torch.dtype | None = None
    device: torch.device = CPU
    reporter: Reporter = field(default_factory=Silent)
    journal: Journal = field(default_factory=Journal)

    @cached_property
    def reader(self) -> TokenizerReader:
        """The tokenizer."""
        return TokenizerReader(self.loaded.path)

    @cached_property
    def model(self) -> Model:
        """The model with its weights."""
        try:
            return Model.load(self.loaded.program, self.dtype).to(self.device)
        except (RuntimeError, AssertionError) as error:
            if self.device.type == "cpu":
                raise
            raise InputError(f"device: the model cannot be moved to {self.device} ({error})") from None

    @cached_property
    def identity(self) -> str:
        """A sha256 over config, weights and tokenizer files. Equal identities give equal results."""
        names = (self.loaded.path / name for name in (*COPIED, *SETTINGS))
        files = [self.loaded.path / "config.json", *self.loaded.files, *(file for file in names if file.is_file())]
        with self.reporter.stage("sum", sum(file.stat().st_size for file in files), "bytes") as advance:
            return sum_of({file.name: digest(file, advance) for file in files})

    @property
    def spec(self) -> Spec:
        """The spec of the model."""
        return self.loaded.program.spec

    @property
    def context(self) -> int:
        """Context length in tokens."""
        return self.spec.context

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the token ids of a text, with the tokenizer's special tokens if `special`.

        Raises InputError if an id is outside the vocabulary.
        """
        return self.checked(self.reader.encode(text, special=special))

    def encode_all(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Return the token ids of each text, in one call of the tokenizer. Raises InputError as `encode` does."""
        return [self.checked(ids.tolist()) for ids in self.reader.tokenizer.encode(texts, special=special)]

    def checked(self, ids: list[int]) -> list[int]:
        """Return the ids. Raises InputError if one is outside the model's vocabulary."""
        largest = max(ids, default=0)
        if largest >= self.spec.vocabulary:
            why = f"its tokenizer gives id {largest}, the model has {self.spec.vocabulary} tokens"
            raise InputError(f"{self.loaded.path}: {why}")
        return ids
