"""Public models at pico size: the converted model against the original, past its context, padded, and with a cache.

The original is run by its stock class, or by `published` if there is none; the result by the target's stock class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kept.checkpoint.json_file import read_json
from kept.commands.plan import plan
from kept.errors import CheckpointError, Refusal
from kept.families import FAMILIES, TARGETS, family_of
from kept.families.lengths import domain
from kept.families.llama import LLAMA
from kept.ir.promise import Promise
from kept.passes.legalize import legalise
from kept.passes.rules import Options
from support.logits import logits, program_of, some_tokens, stock, stock_generation, worst
from support.pass_helpers import TOLERANCE, save
from support.pico import PUBLIC, SHORT, scale, write_pico
from support.published import Published

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from kept.ir.program import Program

LONG, PROMPT, NEW = 40, 10, 20
"""Numbers of tokens: a long pass (2.5 times the original context), a prompt, and new tokens."""

PADS = (0, 3)

ANGLES = 1e-4
"""Tolerance in standard deviations of the logits: stock classes compute angles in float32."""


@dataclass
class Stock:
    """A stock class under the interface of `Published`."""

    model: PreTrainedModel

    @torch.inference_mode()
    def __call__(self, tokens_BT: Tensor, pads: Sequence[int] | None = None) -> Tensor:
        steps = torch.arange(tokens_BT.shape[1])[None] - torch.tensor(pads or [0] * len(tokens_BT))[:, None]
        mask = None if pads is None else (steps >= 0).long()
        out: Tensor = self.model(tokens_BT, attention_mask=mask, position_ids=steps.clamp(min=0)).logits
        return out

    def fresh(self) -> Stock:
        """Return the model itself: stock classes reset after a shorter pass."""
        return self

    def generate(self, tokens_BT: Tensor, count: int, pads: Sequence[int] | None = None) -> Tensor:
        """Generate greedily with the KV cache; return prompt and new tokens, (B, T + count)."""
        self.model.generation_config.eos_token_id = None
        mask = torch.arange(tokens_BT.shape[1])[None] >= torch.tensor(pads or [0] * len(tokens_BT))[:, None]
        return stock_generation(
            self.model, tokens_BT, attention_mask=mask.long(), max_new_tokens=count, do_sample=False, pad_token_id=0
        )


def runner(directory: Path, family: str) -> Stock | Published:
    """Return the implementation that runs a checkpoint of the family, in float64 except for Gemma 2."""
    if not FAMILIES[family].stock:
        return Published(directory)
    if family == "gemma2":
        return Stock(stock(directory, torch.float32, "eager"))  # its only kind; padding rows are NaN in float64
    return Stock(stock(directory))


def beyond_padding(found: Tensor, pads: Sequence[int]) -> Tensor:
    """Return the logits of the tokens that are not padding."""
    return torch.cat([row[skipped:] for row, skipped in zip(found, pads, strict=True)])


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public["name"])
def test_public_models_at_pico_size(public: dict[str, Any], tmp_path: Path) -> None:
    if public["model_type"] not in FAMILIES or re.search("ALiBi", public["to"]):
        with pytest.raises(CheckpointError, match=public["to"]):
            family_of(public).read_config(public)
        return
    source = write_pico(tmp_path / "source", public)
    program, family = program_of(source), FAMILIES[public["model_type"]]
    theirs = runner(source, family.name)
    ours_are_theirs(program, theirs)
    if public["to"] not in TARGETS:
        with pytest.raises(Refusal, match=public["to"]):
            legalise(program, LLAMA.violations, Options())
        return
    target = TARGETS[public["to"]]
    context = round(public["context"] * scale(public)) if "context" in public else None
    found = legalise(program, target.violations, Options(dtype="F64", context=context))
    assert found.promise is Promise.EXACT
    result = Stock(stock(save(found.program, target, tmp_path / "out")))
    where = (*found.domain, *domain(family, program.spec, target, found.program.spec))
    held_to(result, theirs, bound(where, context))
    generations(result, theirs, bound(where, context, "for generation that", "for the first forward pass"))


NAMED = {
    "microsoft/Phi-3-mini-128k-instruct": "generation that does not cross 16 tokens",
    "internlm/internlm-7b": "generation of up to 16 tokens",
    "Qwen/Qwen-7B": "sequences of up to 16 tokens",
}
"""A model for each kind of domain."""


@pytest.mark.parametrize("name", NAMED)
def test_beyond_a_domain_that_is_named_they_differ(name: str, tmp_path: Path) -> None:
    """Negative control: past the domain that the plan states, the generations differ."""
    source = write_pico(tmp_path / "source", next(public for public in PUBLIC if public["name"] == name))
    found = plan(source, dtype="float64")
    (where,) = found.domain
    assert NAMED[name] in where
    result = Stock(stock(save(found.program, LLAMA, tmp_path / "out")))
    theirs, prompts = runner(source, program_family(source)), some_tokens(2, PROMPT)
    same = worst(result(some_tokens(2, LONG)), theirs(some_tokens(2, LONG))) < ANGLES
    assert same == ("generation" in where)
    assert not torch.equal(result.generate(prompts, 2 * NEW), theirs.generate(prompts, 2 * NEW))


def test_after_a_long_sequence_they_differ(tmp_path: Path) -> None:
    """After one long sequence InternLM2's code keeps the larger theta; the stock class resets it."""
    source = write_pico(tmp_path / "source", next(one for one in PUBLIC if one["name"] == "internlm/internlm2-7b"))
    found = plan(source, dtype="float64")
    assert "for every sequence up to and including the first one longer than 16 tokens" in found.domain[0]
    result, theirs = Stock(stock(save(found.program, LLAMA, tmp_path / "out"))), Published(source)
    short, long = some_tokens(2, PROMPT), some_tokens(2, LONG)
    assert worst(result(short), theirs(short)) < ANGLES
    assert worst(result(long), theirs.empty()(long)) < ANGLES
    assert worst(result(short), theirs.empty()(short)) > 100 * ANGLES


def program_family(directory: Path) -> str:
    """Return the name of a checkpoint's family."""
    return str(read_json(directory / "config.json")["model_type"])


def bound(where: Sequence[str], context: int | None, *also: str) -> int | None:
    """Return the number of tokens up to which a promise holds; None for any number."""
    bounded = any(phrase in one for one in where for phrase in ("for sequences of up to", *also))
    return context or SHORT if bounded else None


def ours_are_theirs(program: Program, theirs: Stock | Published) -> None:
    """Check that kept's model equals the original implementation, past its original context and with padding."""
    bounded = isinstance(theirs, Published) and theirs.kind == "qwen"  # Qwen's rule past its context is not in the spec
    tokens = some_tokens(2, program.spec.positions or (program.spec.context if bounded else LONG))
    tolerance = TOLERANCE if isinstance(theirs, Published) else ANGLES
    assert worst(logits(program, tokens), theirs.fresh()(tokens)) < tolerance
    found, wanted = logits(program, tokens, pads=PADS), theirs.fresh()(tokens, PADS)
    assert worst(beyond_padding(found, PADS), beyond_padding(wanted, PADS)) < tolerance


def held_to(result: Stock, theirs: Stock | Published, most: int | None) -> None:
    """Compare one pass within the original context and one past it, with and without padding."""
    for length in (most,) if most else (SHORT, LONG):
        tokens = some_tokens(2, length)
        assert worst(result(tokens), theirs.fresh()(tokens)) < ANGLES
        found, wanted = (beyond_padding(one(tokens, PADS), PADS) for one in (result, theirs.fresh()))
        assert worst(found, wanted) < ANGLES


def generations(result: Stock, theirs: Stock | Published, most: int | None) -> None:
    """Compare greedy generations with the KV cache, with and without padding."""
    prompts = some_tokens(2, PROMPT if most is None else most // 2)
    new = NEW if most is None else most - most // 2
    for pads in (None, PADS):
        assert torch.equal(result.generate(prompts, new, pads), theirs.fresh().generate(prompts, new, pads))
