"""Running layer by layer is running the whole model, whatever the spec, the blocks of the head and the dtype."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings

from kept.errors import CheckpointError
from kept.families import TARGETS
from kept.ir.tensors import Computed
from kept.passes.legalize import legalise
from kept.passes.rules import Options
from kept.verification import streamed, streamed_linear
from kept.verification.streamed import StreamedRun
from support.logits import logits, model_of, program_of, random_program, some_tokens
from support.models import write_checkpoint
from support.specs import VOCABULARY, specs
from support.spies import noting
from support.tiny import TINY

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir import spec as ir
    from kept.ir.program import Program

TOKENS = some_tokens(2, 9)


def streamed_logits(program: Program, tokens: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    run = StreamedRun(program, dtype)
    *_, last_BTD = run.streams(tokens)
    return torch.stack([run.logits(x_TD) for x_TD in last_BTD])


@given(specs())
@settings(max_examples=25)
def test_any_spec(spec: ir.Spec) -> None:
    program = random_program(spec)
    tokens = some_tokens(2, 7, VOCABULARY)
    torch.testing.assert_close(streamed_logits(program, tokens), logits(program, tokens), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", TINY)
def test_every_family(tmp_path: Path, family: str) -> None:
    program = program_of(write_checkpoint(tmp_path, family))
    torch.testing.assert_close(streamed_logits(program, TOKENS), logits(program, TOKENS), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    program = program_of(write_checkpoint(tmp_path, "orion", dtype=dtype))
    wanted = logits(program, TOKENS, dtype)
    found = streamed_logits(program, TOKENS, dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted)


def test_the_streams_are_those_of_the_model(tmp_path: Path) -> None:
    program = program_of(write_checkpoint(tmp_path, "starcoder2"))
    streams = [*StreamedRun(program, torch.float64).streams(TOKENS)]
    assert len(streams) == program.spec.depth + 1
    for found, wanted in zip(streams, model_of(program).streams(TOKENS), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_plan_is_run_before_a_byte_of_it_is_written(tmp_path: Path) -> None:
    program = program_of(write_checkpoint(tmp_path, "orion"))
    plan = legalise(program, TARGETS["llama"].violations, Options())
    found, wanted = streamed_logits(plan.program, TOKENS), streamed_logits(program, TOKENS)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("elements", "threads"), [(1, 1), (64, 3), (1000, 2)])
def test_matrices_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elements: int, threads: int) -> None:
    program = program_of(write_checkpoint(tmp_path, "orion"))
    plan = legalise(program, TARGETS["llama"].violations, Options())
    wanted = streamed_logits(program, TOKENS)
    monkeypatch.setattr(streamed_linear, "HELD_ELEMENTS", elements)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.testing.assert_close(streamed_logits(program, TOKENS), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(streamed_logits(plan.program, TOKENS), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_that_ends_early_is_an_error_on_any_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    program = program_of(write_checkpoint(tmp_path, "llama"))
    monkeypatch.setattr(streamed_linear, "HELD_ELEMENTS", 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    (file,) = tmp_path.glob("*.safetensors")
    os.truncate(file, file.stat().st_size - 100)
    with pytest.raises(CheckpointError, match="ends before its tensors do"):
        streamed_logits(program, TOKENS)


def test_a_table_whose_rows_are_mixed_is_read_as_a_whole(tmp_path: Path) -> None:
    program = program_of(write_checkpoint(tmp_path, "orion"))
    table = program.weights["embedding.weight"]
    turned = Computed(table.shape, table.dtype, lambda rows: rows.flip(0), (table,))
    changed = program.updated(program.spec, {"embedding.weight": turned})
    assert not turned.by_rows
    torch.testing.assert_close(streamed_logits(changed, TOKENS), logits(changed, TOKENS), rtol=1e-12, atol=1e-12)


def test_one_layer_s_weights_are_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(write_checkpoint(tmp_path, "orion"))
    filled: list[str] = []
    note = noting(streamed.fill, lambda _, __, at, *___: filled.append(at))  # type: ignore[attr-defined]
    monkeypatch.setattr(streamed, "fill", note)
    seen = [[*filled] for _ in StreamedRun(program, torch.float64).streams(TOKENS)]
    assert seen == [[], ["layers.0."], ["layers.0.", "layers.1."], ["layers.0.", "layers.1.", "layers.2."]]


def test_only_the_rows_of_the_tokens_are_read(tmp_path: Path) -> None:
    program = program_of(write_checkpoint(tmp_path, "orion"))
    table = program.weights["embedding.weight"]
    read: list[int] = []

    def watched(rows: torch.Tensor) -> torch.Tensor:
        read.append(rows.shape[0])
        return rows

    changed = program.updated(
        program.spec, {"embedding.weight": Computed(table.shape, table.dtype, watched, (table,), local=True)}
    )
    next(StreamedRun(changed, torch.float64).streams(torch.tensor([[5, 9, 5, 5]])))
    assert sum(read) == 2
