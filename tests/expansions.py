"""What every family must do as a source of block expansion: compute the same to the bit, in any class that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import kept
from kept.nn import generate
from models import logits, model_of, program_of, some_tokens
from stored import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from kept.ir.program import Program


class ExpansionContract:
    """Grows by a layer on each of two groups, and nothing else changes."""

    def reference(
        self, directory: Path, tokens: Tensor, dtype: torch.dtype, pads: Sequence[int] | None = None
    ) -> Tensor:
        """Logits that the family's own class gives."""
        raise NotImplementedError

    def stock_generation(self, directory: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
        """Greedy continuations that it gives, with its cache."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def expanded(self, directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return kept.expand(directory, tmp_path_factory.mktemp("expanded") / "out", groups=2, verify_tokens=0).path

    def test_an_expansion_is_the_same_to_the_bit(self, program: Program, expanded: Path) -> None:
        grown, tokens = program_of(expanded), some_tokens()
        new = read_json(expanded / "kept.json")["new_layers"]
        assert (grown.spec.depth, len(new)) == (program.spec.depth + 2, 2)
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            assert torch.equal(logits(grown, tokens, dtype), logits(program, tokens, dtype)), dtype
        prompts = [row.tolist() for row in some_tokens(2, 9)]
        models = [model_of(one, torch.float32) for one in (grown, program)]
        assert generate(models[0], prompts, 12) == generate(models[1], prompts, 12)

    def test_so_it_is_in_the_family_s_own_class(self, directory: Path, expanded: Path) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            found, wanted = (self.reference(path, some_tokens(), dtype) for path in (expanded, directory))
            assert torch.equal(found, wanted), dtype
        prompts = [some_tokens(1, length, seed=length)[0].tolist() for length in (9, 3)]
        assert self.stock_generation(expanded, prompts, 12) == self.stock_generation(directory, prompts, 12)
