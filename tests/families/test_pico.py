"""Public models at pico size, converted, against the class that runs the original: past its lengths, padded, cached.

The original is run by its stock class, or where there is none by `published`; the result by the target's stock class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kept.checkpoint.json_file import read_json
from kept.commands.planning import plan
from kept.errors import CheckpointError, Refusal
from kept.families import FAMILIES, LLAMA, TARGETS, family_of
from kept.families.lengths import domain
from kept.passes.base import Promise
from kept.passes.legalize import Options, legalise
from models import logits, program_of, some_tokens, stock, worst
from pass_helpers import TOLERANCE, save
from pico import PUBLIC, SHORT, scale, write_pico
from published import Published

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from kept.ir.program import Program

LONG, PROMPT, NEW = 40, 10, 20
"""Tokens of a pass, two and a half times the length that contexts were made from; of a prompt, and new ones."""

PADS = (0, 3)

ANGLES = 1e-4
"""Of the logits' spread: stock classes compute angles in float32; 2e-5 measured at 40 positions."""


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
        """Stock classes forget what a shorter pass does not need."""
        return self

    def generate(self, tokens_BT: Tensor, count: int, pads: Sequence[int] | None = None) -> Tensor:
        """Greedy, with the cache."""
        self.model.generation_config.eos_token_id = None
        mask = torch.arange(tokens_BT.shape[1])[None] >= torch.tensor(pads or [0] * len(tokens_BT))[:, None]
        out: Tensor = self.model.generate(
            tokens_BT, attention_mask=mask.long(), max_new_tokens=count, do_sample=False, pad_token_id=0
        )
        return out


def runner(directory: Path, family: str) -> Stock | Published:
    """What runs a checkpoint of that family, in float64."""
    if not FAMILIES[family].stock:
        return Published(directory)
    if family == "gemma2":
        return Stock(stock(directory, torch.float32, "eager"))  # its only kind; padding rows are NaN in float64
    return Stock(stock(directory))


def beyond_padding(found: Tensor, pads: Sequence[int]) -> Tensor:
    """The logits of real tokens."""
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
    generations(result, theirs, bound(where, context, "for a generation"))


NAMED = {
    "microsoft/Phi-3-mini-128k-instruct": "a generation that does not cross 16 tokens",
    "internlm/internlm-7b": "a generation within 16 tokens",
    "Qwen/Qwen-7B": "sequences of up to 16 tokens",
}
"""A model of each kind of domain."""


@pytest.mark.parametrize("name", NAMED)
def test_beyond_a_domain_that_is_named_they_differ(name: str, tmp_path: Path) -> None:
    """Negative control of the generations above, and the reason why plans name a domain."""
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
    """The widest domain: one long sequence leaves something behind that a stock class forgets."""
    source = write_pico(tmp_path / "source", next(one for one in PUBLIC if one["name"] == "internlm/internlm2-7b"))
    found = plan(source, dtype="float64")
    assert "until a sequence passes 16 tokens, and for that one" in found.domain[0]
    result, theirs = Stock(stock(save(found.program, LLAMA, tmp_path / "out"))), Published(source)
    short, long = some_tokens(2, PROMPT), some_tokens(2, LONG)
    assert worst(result(short), theirs(short)) < ANGLES
    assert worst(result(long), theirs.empty()(long)) < ANGLES
    assert worst(result(short), theirs.empty()(short)) > 100 * ANGLES


def program_family(directory: Path) -> str:
    """The name of a checkpoint's family."""
    return str(read_json(directory / "config.json")["model_type"])


def bound(where: Sequence[str], context: int | None, *also: str) -> int | None:
    """Up to how many tokens a promise holds; None for any number."""
    bounded = any(phrase in one for one in where for phrase in ("for sequences of up to", *also))
    return context or SHORT if bounded else None


def ours_are_theirs(program: Program, theirs: Stock | Published) -> None:
    """Our own model computes what runs the original: past its lengths, and padded."""
    bounded = isinstance(theirs, Published) and theirs.kind == "qwen"  # its rule past its length is no other family's
    tokens = some_tokens(2, program.spec.positions or (program.spec.context if bounded else LONG))
    tolerance = TOLERANCE if isinstance(theirs, Published) else ANGLES
    assert worst(logits(program, tokens), theirs.fresh()(tokens)) < tolerance
    found, wanted = logits(program, tokens, pads=PADS), theirs.fresh()(tokens, PADS)
    assert worst(beyond_padding(found, PADS), beyond_padding(wanted, PADS)) < tolerance


def held_to(result: Stock, theirs: Stock | Published, most: int | None) -> None:
    """One pass within every length and one past it, padded too."""
    for length in (most,) if most else (SHORT, LONG):
        tokens = some_tokens(2, length)
        assert worst(result(tokens), theirs.fresh()(tokens)) < ANGLES
        found, wanted = (beyond_padding(one(tokens, PADS), PADS) for one in (result, theirs.fresh()))
        assert worst(found, wanted) < ANGLES


def generations(result: Stock, theirs: Stock | Published, most: int | None) -> None:
    """The same tokens from a cache, alone and padded."""
    prompts = some_tokens(2, PROMPT if most is None else most // 2)
    new = NEW if most is None else most - most // 2
    for pads in (None, PADS):
        assert torch.equal(result.generate(prompts, new, pads), theirs.fresh().generate(prompts, new, pads))
