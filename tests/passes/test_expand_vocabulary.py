"""Vocabulary expansion: old tokens have the logits that they had, and where each new row comes from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.errors import RecipeError
from kept.ir import spec as ir
from kept.ir.tensors import Concat, InMemory, Stored
from kept.passes.expand_vocabulary import ExpandVocabulary, Growth
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.legalize import run_passes
from support.logits import logits, model_of, program_of, random_program
from support.models import write_checkpoint
from support.pass_contract import PassContract
from support.pass_helpers import TOKENS, layer_spec, ready_for_tail, refusal, replaced, rounded, value
from support.specs import VOCABULARY, specs

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.program import Program

PARTS = ((1, 2, 3), (4,), (0, 10, 0, 5))


def grow(rows: str = "mean", parts: tuple[tuple[int, ...], ...] = PARTS, **options: Any) -> ExpandVocabulary:
    first, given_rows = options.pop("first", VOCABULARY), options.pop("given", None)
    return ExpandVocabulary("unread", rows, growth=Growth(first, parts, given_rows), **options)


def same(grown: Program, program: Program, tokens: torch.Tensor = TOKENS) -> None:
    """Streams to the bit; logits too where a wider product takes its sums in the same order."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        found, wanted = (model_of(one, dtype) for one in (grown, program))
        with torch.inference_mode():
            assert torch.equal(found.hidden(tokens), wanted.hidden(tokens)), dtype
            x_BTD = wanted.final_norm(wanted.hidden(tokens))
            table, bias = found.embedding.weight[:VOCABULARY], found.head.bias
            if found.head.weight is not None:
                found.head.weight = torch.nn.Parameter(found.head.weight[:VOCABULARY])
            found.head.bias = None if bias is None else torch.nn.Parameter(bias[:VOCABULARY])
            assert torch.equal(found.head(x_BTD, table), wanted.head(x_BTD, wanted.embedding.weight)), dtype
    old = logits(program, tokens)
    assert float((logits(grown, tokens)[..., :VOCABULARY] - old).abs().max()) < 1e-12 * max(1.0, float(old.std()))


class TestExpandVocabulary(PassContract):
    rewrite = grow()
    works_on: ClassVar = {"untied": layer_spec(), "tied": layer_spec(head=ir.Head(tied=True))}
    refused = (
        (
            layer_spec(vocabulary=10),
            "the model: has 10 tokens, its own tokenizer gives id 10; correct its tokenizer first",
        ),
    )


class TestPaddedVocabulary(PassContract):
    rewrite = grow(pad_to_multiple_of=8)
    works_on: ClassVar = {"untied": layer_spec()}
    refused = ()
    prepared_by = ((layer_spec(head=ir.Head(normalised=True)), FoldHeadNorm()),)


@given(specs(), st.sampled_from(["mean", "zero"]), st.sampled_from([1, 2, 8]))
def test_any_program_is_the_same_on_old_tokens(spec: ir.Spec, rows: str, multiple: int) -> None:
    multiple = 1 if spec.head.normalised else multiple
    program = random_program(spec)
    grown = grow(rows, pad_to_multiple_of=multiple)(program)
    assert grown.spec.vocabulary == -(-(VOCABULARY + 3) // multiple) * multiple
    same(grown, program)


def test_an_old_row_that_differs_shows() -> None:
    """Negative control: one number of one row of embedding, head, and head's bias."""
    program = random_program(layer_spec(head=ir.Head(bias=True)))
    grown = grow()(program)
    for name in ("embedding.weight", "head.weight", "head.bias"):
        moved = value(grown, name).clone()
        moved.view(len(moved), -1)[int(TOKENS[0, 0])] += 1e-9
        with pytest.raises(AssertionError):
            same(replaced(grown, {name: moved}), program)


def test_new_rows_are_means_of_their_parts() -> None:
    program = random_program(layer_spec(head=ir.Head(bias=True)))
    grown = grow(parts=(*PARTS, ()))(program)
    for name in ("embedding.weight", "head.weight", "head.bias"):
        old, new = value(program, name), value(grown, name)[VOCABULARY:]
        wanted = [old[list(part)].mean(0) for part in PARTS]
        assert torch.equal(new, torch.stack([*wanted, torch.zeros_like(wanted[0])])), name


def test_a_mean_is_rounded_once() -> None:
    program = rounded(random_program(layer_spec()), "BF16")
    found = grow()(program).weights["embedding.weight"].read()[VOCABULARY:]
    old = program.weights["embedding.weight"].value("float32")
    wanted = torch.stack([old[list(part)].mean(0) for part in PARTS])
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted.bfloat16())
    in_steps = torch.stack([sum(old[i].bfloat16() for i in part) / len(part) for part in PARTS])  # type: ignore[misc]
    assert not torch.equal(found, in_steps)


def test_rows_that_are_given() -> None:
    program = random_program(layer_spec(head=ir.Head(bias=True)))
    rows = torch.arange(3.0 * 16, dtype=torch.float64).view(3, 16)
    grown = grow("rows.safetensors", given={"embedding": InMemory((3, 16), "F64", rows)})(program)
    same(grown, program)
    assert torch.equal(value(grown, "embedding.weight")[VOCABULARY:], rows)
    wanted = value(grow()(program), "head.weight")
    assert torch.equal(value(grown, "head.weight"), wanted)  # what is not given is a mean


def test_a_tied_head_grows_with_its_embedding() -> None:
    grown = grow()(random_program(layer_spec(head=ir.Head(tied=True))))
    assert "head.weight" not in grown.weights
    assert logits(grown, TOKENS).shape[-1] == VOCABULARY + 3


def test_given_rows_may_have_a_mean() -> None:
    """Other new rows are made of centred ones."""
    program = ready_for_tail()
    assert grow()(program).spec.centred
    rows = {"embedding": InMemory((3, 16), "F64", torch.ones(3, 16, dtype=torch.float64))}
    assert not grow("rows.safetensors", given=rows)(program).spec.centred


def test_spare_rows_are_taken_first() -> None:
    """The tokenizer used 6 of 11 rows: the 3 new tokens have rows 6 to 8, and 9 and 10 stay as they are."""
    program = random_program(layer_spec())
    grown = grow(parts=((1, 2), (3,), (4, 5)), first=6)(program)
    assert grown.spec.vocabulary == VOCABULARY
    old, new = (value(one, "head.weight") for one in (program, grown))
    assert torch.equal(new[:6], old[:6])
    assert torch.equal(new[6], old[[1, 2]].mean(0))
    assert torch.equal(new[9:], old[9:])
    beyond = grow(parts=((1,),) * 7, first=6, pad_to_multiple_of=4)(program)
    assert beyond.spec.vocabulary == 16
    assert torch.equal(value(beyond, "head.weight")[6:13], old[1].expand(7, -1))


def test_rows_without_a_token_are_never_the_likeliest() -> None:
    """Their logit is the mean of old ones."""
    for head in (ir.Head(), ir.Head(bias=True), ir.Head(tied=True), ir.Head(softcap=2.0, multiplier=0.5)):
        grown = grow(pad_to_multiple_of=64)(random_program(layer_spec(head=head)))
        found = logits(grown, torch.arange(3, 11).repeat(6, 5))
        assert int(found.argmax(-1).max()) < VOCABULARY + 3
        if head.softcap is None:
            wanted = found[..., :VOCABULARY].mean(-1, keepdim=True)
            assert torch.allclose(found[..., VOCABULARY + 3 :], wanted, atol=1e-12)
    zeros = value(grown, "head.weight")
    zeros[VOCABULARY + 3 :] = 0
    zeros[: VOCABULARY + 3] = -value(grown, "final_norm.gain")  # control: rows of zeros would be
    assert int(logits(replaced(grown, {"head.weight": zeros}), TOKENS).argmax(-1).max()) >= VOCABULARY + 3


def test_stored_rows_stay_stored(tmp_path: Path) -> None:
    program = program_of(write_checkpoint(tmp_path / "source", "llama"))
    grown = grow(first=97)(program)
    for name, tensor in grown.weights.items():
        if name in {"embedding.weight", "head.weight"}:
            assert isinstance(tensor, Concat)
            assert tensor.parts[0] == program.weights[name]
        else:
            assert isinstance(tensor, Stored)


def test_a_plan_knows_its_new_tokens() -> None:
    plan = run_passes(random_program(layer_spec()), [grow(), grow(parts=((13, 1),), first=14, pad_to_multiple_of=8)])
    assert (plan.new_tokens, plan.suppressed_tokens, plan.claim.tokens) == (range(11, 15), range(15, 16), 11)
    assert torch.equal(value(plan.program, "embedding.weight")[14:15], _mean(value(plan.program, "embedding.weight")))
    none = run_passes(random_program(layer_spec()), [])
    assert (none.new_tokens, none.suppressed_tokens, none.claim.tokens) == (range(0), range(0), None)


def _mean(rows: torch.Tensor) -> torch.Tensor:
    return rows[[13, 1]].mean(0, keepdim=True)


@pytest.mark.parametrize("multiple", [0, -1, 4097])
def test_a_multiple_is_a_small_number(multiple: int) -> None:
    with pytest.raises(RecipeError, match=rf"^pad_to_multiple_of: is {multiple}, it must be from 1 to 4096$"):
        grow(pad_to_multiple_of=multiple)


def rows_of(*shape: int) -> InMemory:
    return InMemory(shape, "F64", torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"first": 12},
            "the model: has 11 tokens, its own tokenizer gives id 11; correct its tokenizer first",
        ),
        (
            {"rows": "r", "given": {"embedding": rows_of(4, 16)}},
            "r: embedding: has shape [4, 16], the new tokens need [3, 16]; give a row for each of them",
        ),
        (
            {"rows": "r", "given": {"embedding": rows_of(3, 16), "head": rows_of(3, 15)}},
            "r: head: has shape [3, 15], the new tokens need [3, 16]; give a row for each of them",
        ),
        (
            {"rows": "r", "given": {"embedding": rows_of(3, 16), "bias": rows_of(3)}},
            "r: bias: is not a part of this model; leave it out",
        ),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], line: str) -> None:
    assert refusal(grow(**options), random_program(layer_spec())) == f"expand-vocab: {line}"


def test_rows_without_a_token_need_a_head_that_leaves_them_short() -> None:
    program = random_program(layer_spec(head=ir.Head(normalised=True)))
    line = "head: divides its rows by their length, so that one without a token may be the likeliest"
    assert refusal(grow(pad_to_multiple_of=8), program) == f"expand-vocab: {line}; run fold-head-norm first"
    assert grow(pad_to_multiple_of=7)(program).spec.vocabulary == 14  # no such row


def test_rows_of_the_width_that_is_needed_are_no_obstacle() -> None:
    """Control of the test above."""
    program = random_program(layer_spec())
    rows = {"embedding": rows_of(3, 16), "head": rows_of(3, 16)}
    assert grow("r", given=rows).requires(program) is None
    assert replace(grow("r", given=rows), pad_to_multiple_of=2)(program).spec.vocabulary == 14
