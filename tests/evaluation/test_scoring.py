"""Token losses: windows score each token once, and the nats are those of transformers' own loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.evaluation.scoring import score_hidden, score_rows, score_sliding, windows
from support.foreign import slm_corpus, write_slm
from support.logits import model_of, program_of, some_tokens, stock
from support.models import write_checkpoint
from support.shared_data import needs_data

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("llama"), "llama")


@given(st.integers(2, 200), st.integers(2, 40), st.data())
def test_every_token_is_scored_once_with_enough_before_it(count: int, length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, length - 1))
    found = [*windows(count, length, stride)]
    assert [token for _, first, end in found for token in range(first, end)] == [*range(1, count)]
    assert {end - begin for begin, _, end in found} == {min(length, count)}
    for begin, first, _ in found[1:]:
        assert first - begin >= length - stride


def test_a_short_text_s_nats_are_the_stock_loss(llama: Path) -> None:
    tokens = some_tokens(1, 100)
    nats, best = score_sliding(model_of(program_of(llama)), tokens[0].tolist(), 128, 64)
    with torch.inference_mode():
        theirs = stock(llama)(tokens, labels=tokens)
    assert float(nats.mean()) == pytest.approx(float(theirs.loss), rel=1e-6), "their loss is rounded to float32"
    assert best.tolist() == theirs.logits[0, :-1].argmax(-1).tolist()


def test_windows_of_a_long_text_are_the_stock_model_s(llama: Path) -> None:
    """One token at a time: the stock model on what the window shows, and no batch."""
    ids = some_tokens(1, 61)[0]
    nats, _ = score_sliding(model_of(program_of(llama)), ids.tolist(), 24, 8)
    model = stock(llama)
    for token in range(1, len(ids)):
        begin = max(0, min(-(-(token + 1 - 24) // 8) * 8 if token >= 24 else 0, len(ids) - 24))
        with torch.inference_mode():
            logits = model(ids[None, begin:token]).logits[0, -1]
        assert float(nats[token - 1]) == pytest.approx(float(F.cross_entropy(logits, ids[token])), abs=1e-5), (
            "stock rotations are in float32"
        )


def test_a_long_stride_forgets(llama: Path) -> None:
    """Negative control: with little before a window's tokens their nats are others."""
    ids, model = some_tokens(1, 61)[0].tolist(), model_of(program_of(llama))
    assert not torch.allclose(score_sliding(model, ids, 24, 8)[0], score_sliding(model, ids, 24, 23)[0])


@needs_data
def test_a_text_known_by_heart_costs_nothing(tmp_path: Path) -> None:
    """A model with learned positions that was trained on one text until it knew it."""
    model, ids = model_of(program_of(write_slm(tmp_path))), slm_corpus().tolist()
    assert float(score_sliding(model, ids, 128, 64)[0].mean()) / math.log(2) < 0.01, "bits a character"
    assert float(score_sliding(model, ids, 128, 127)[0].mean()) / math.log(2) == pytest.approx(0.11, abs=0.01)


def test_batches_and_blocks_change_nothing(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, model = some_tokens(1, 90)[0].tolist(), model_of(program_of(llama))
    done: list[int] = []
    whole = score_sliding(model, ids, 16, 8, done.append)
    assert sum(done) == len(ids) - 1
    monkeypatch.setattr("kept.evaluation.scoring.BATCH_TOKENS", 40)
    monkeypatch.setattr("kept.evaluation.scoring.POSITIONS", 3)
    small = score_sliding(model, ids, 16, 8)
    assert torch.allclose(whole[0], small[0], atol=1e-12)
    assert torch.equal(whole[1], small[1])


def test_half_precision_logits_are_summed_in_single(llama: Path) -> None:
    model = model_of(program_of(llama), torch.bfloat16)
    tokens = some_tokens(2, 20)
    nats, _ = score_rows(model, tokens)
    with torch.inference_mode():
        logits = model(tokens)[:, :-1].float()
    wanted = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(2, 19)
    assert torch.allclose(nats, wanted.double(), atol=0.05)
    assert nats.dtype == torch.float64


def test_what_is_read_out_is_in_order(llama: Path) -> None:
    model, tokens = model_of(program_of(llama)), some_tokens(1, 12)
    with torch.inference_mode():
        hidden = model.hidden(tokens)[0, :-1]
    nats, _ = score_hidden(model, hidden.flip(0), tokens[0, 1:].flip(0))
    assert torch.allclose(nats.flip(0), score_rows(model, tokens)[0][0], atol=1e-12)
