"""Contract of every family as a source: it must become a stock Llama exactly, or be refused with the reason."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch

from kept.errors import Refusal
from kept.families.llama import LLAMA
from kept.ir.promise import Promise
from kept.passes.legalize import legalise
from kept.passes.rules import Options
from support.logits import logits, model_of, program_of, some_tokens, stock, stock_logits, worst
from support.pass_helpers import TOLERANCE, save

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from kept.families.table import Family
    from kept.ir.program import Program

EXACT = "exact"

STOCK = 1e-5
"""Stock classes compute angles and RMSNorm in float32 whatever the weights have."""


class ConversionContract:
    """Becomes a Llama, through disk and in its stock class, or says why it cannot."""

    becomes_llama: ClassVar[str] = EXACT
    """`exact`, or what the refusal says: a pattern."""

    def reference(
        self, directory: Path, tokens: Tensor, dtype: torch.dtype, pads: Sequence[int] | None = None
    ) -> Tensor:
        """Logits that the family's own class gives."""
        raise NotImplementedError

    def test_becomes_a_llama_or_is_refused(self, directory: Path, program: Program, tmp_path: Path) -> None:
        """Written in float64, so that the rounding of the output's own format is not in the way."""
        if self.becomes_llama != EXACT:
            assert re.search(self.becomes_llama, refused(program))
            return
        output, tokens = converted(program, tmp_path / "out"), some_tokens()
        read = program_of(output)
        assert worst(logits(read, tokens), logits(program, tokens)) < TOLERANCE
        assert ignored(read, some_tokens(1, 12)) == closed(program, read)
        assert type(stock(output)).__name__ == "LlamaForCausalLM"
        wanted = self.reference(directory, tokens, torch.float64)
        assert worst(stock_logits(output, tokens), wanted) < STOCK


def converted(program: Program, directory: Path, target: Family = LLAMA) -> Path:
    """The program as a Llama, or another target, on disk, by a plan that promises to be exact."""
    plan = legalise(program, target.violations, Options(dtype="F64"))
    assert plan.promise is Promise.EXACT
    return save(plan.program, target, directory)


def refused(program: Program) -> str:
    """Why the program cannot become a Llama."""
    with pytest.raises(Refusal) as caught:
        legalise(program, LLAMA.violations, Options())
    return str(caught.value)


@torch.inference_mode()
def ignored(output: Program, tokens: Tensor) -> set[str]:
    """Negative control: the weights on which noise of a percent is not seen."""
    model, found = model_of(output), set()
    wanted = model(tokens)
    for name, parameter in model.named_parameters():
        before = parameter.clone()
        parameter.add_(torch.randn_like(before) * 1e-2 * (float(before.abs().max()) or 1.0))
        if worst(model(tokens), wanted) < TOLERANCE:
            found.add(name)
        parameter.copy_(before)
    return found


def closed(program: Program, output: Program) -> set[str]:
    """The weights of an added layer's mixer: nothing comes through, for values and output projection are zero."""
    at = f"layers.{program.spec.depth}.mixer"
    return {name for name in output.weights if name.startswith(at) and not name.endswith("mixer.o.bias")}
