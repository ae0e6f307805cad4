"""A checkpoint as it is measured: what identifies it, its tokenizer, and its model, loaded when it is first run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.file_names import COPIED, SETTINGS
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.errors import InputError
from kept.evaluation.journal import Journal
from kept.evaluation.result_store import sum_of
from kept.nn.model import Model
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    import torch

    from kept.ir.spec import Spec
    from kept.loaded import LoadedModel


@dataclass(frozen=True)
class Subject:
    """A checkpoint, run in its own dtype or in `dtype`, on `device`. `journal` records the steps of measurements."""

    opened: LoadedModel
    dtype: torch.dtype | None = None
    device: str = "cpu"
    reporter: Reporter = field(default_factory=Silent)
    journal: Journal = field(default_factory=Journal)

    @cached_property
    def reader(self) -> TokenizerReader:
        """Its tokenizer."""
        return TokenizerReader(self.opened.path)

    @cached_property
    def model(self) -> Model:
        """The model with its weights."""
        try:
            return Model.load(self.opened.program, self.dtype).to(self.device)
        except (RuntimeError, AssertionError) as error:
            if self.device == "cpu":
                raise
            raise InputError(f"device: {self.device} does not take the model ({error})") from None

    @cached_property
    def identity(self) -> str:
        """A sum over config, weights and whatever reads text: equal where the answers are."""
        names = (self.opened.path / name for name in (*COPIED, *SETTINGS))
        files = [self.opened.path / "config.json", *self.opened.files, *(file for file in names if file.is_file())]
        with self.reporter.stage("sum", sum(file.stat().st_size for file in files), "bytes") as advance:
            return sum_of({file.name: digest(file, advance) for file in files})

    @property
    def spec(self) -> Spec:
        """What it computes."""
        return self.opened.program.spec

    @property
    def context(self) -> int:
        """Positions that it was made for."""
        return self.spec.context

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text, with the special tokens that the tokenizer puts around it if `special`."""
        return self.checked(self.reader.encode(text, special=special))

    def checked(self, ids: list[int]) -> list[int]:
        """The ids. Raises InputError where the model has no such tokens."""
        largest = max(ids, default=0)
        if largest >= self.spec.vocabulary:
            said = f"its tokenizer gives id {largest}, the model has {self.spec.vocabulary} tokens"
            raise InputError(f"{self.opened.path}: {said}")
        return ids
