"""Perplexity by domain and by position: the stock model's, counted in bytes, paired over passages of text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from transformers import AutoTokenizer

from kept.errors import InputError
from kept.evaluation.perplexity import PASSAGE, measure_text, text_estimates
from kept.evaluation.positions import edges, longest_of, measure_positions, position_estimates
from kept.evaluation.scoring import score_rows
from kept.verification.text import sample_text
from support.logits import stock
from support.models import write_checkpoint
from support.stored import PROSE, write_sentencepiece
from support.subjects import subject, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from kept.evaluation.subject import Subject


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return tiny(tmp_path_factory.mktemp("llama"))


def test_perplexity_is_that_of_transformers(llama: Subject) -> None:
    text = PROSE[:120]
    found = text_estimates(measure_text(llama, "prose", text, None, None))
    ids = AutoTokenizer.from_pretrained(llama.loaded.path)(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        loss = float(stock(llama.loaded.path)(ids, labels=ids).loss)
    assert found["perplexity"].value == pytest.approx(math.exp(loss), rel=1e-6)
    first = 1  # byte, which nothing predicts
    octets = len(text.encode()) - first
    assert found["bits per byte"].value == pytest.approx(loss * (ids.shape[1] - 1) / math.log(2) / octets, rel=1e-6)


def test_passages_add_up_whatever_the_script(llama: Subject) -> None:
    text = sample_text()
    found = measure_text(llama, "sample", text, 64, 32)["passages"]
    assert len(found) == math.ceil(len(text) / PASSAGE)
    assert sum(tokens for _, tokens, _ in found) == len(text.encode()) - 1, "a token is a byte here"
    assert sum(octets for _, _, octets in found) == len(text.encode()) - len(text[0].encode())
    assert all(tokens in range(octets - 4, octets + 5) for _, tokens, octets in found)


def test_another_tokenizer_s_passages_are_the_same(llama: Subject, tmp_path: Path) -> None:
    other = subject(write_sentencepiece(write_checkpoint(tmp_path, "llama", vocab_size=320)))
    text = PROSE * 3
    both = [measure_text(one, "prose", text, None, None)["passages"] for one in (llama, other)]
    assert len(both[0]) == len(both[1])
    for ours, theirs in zip(*both, strict=True):
        assert ours[1] > theirs[1], "fewer tokens"
        assert abs(ours[2] - theirs[2]) < 4, "as many bytes, but for what nothing predicts"


def test_a_window_is_at_most_the_context(llama: Subject) -> None:
    wide = measure_text(llama, "prose", PROSE, 10_000, None)
    assert wide == measure_text(llama, "prose", PROSE, 128, 64)
    assert wide != measure_text(llama, "prose", PROSE, 64, 64)


def test_a_text_that_is_too_short(llama: Subject) -> None:
    with pytest.raises(InputError, match=r"my\.txt: has 1 tokens; give a longer text"):
        measure_text(llama, "my.txt", "x", None, None)


# ------------------------------------------------------------------------------------------------------------ positions


def test_buckets_double() -> None:
    assert edges(5000) == [0, 1024, 2048, 4096, 5000]
    assert edges(2048) == [0, 1024, 2048]
    assert edges(128) == [0, 16, 32, 64, 128]
    assert edges(2) == [0, 1, 2]


def test_a_bucket_s_perplexity_is_that_of_its_positions(llama: Subject) -> None:
    text = PROSE * 2
    found = position_estimates(measure_positions(llama, "prose", text, 128))
    rows = torch.tensor(llama.encode(text)[: len(text) // 128 * 128]).view(-1, 128)
    with torch.inference_mode():
        logits = stock(llama.loaded.path)(rows).logits[:, :-1]
    nats = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), 127)
    wanted = nats[:, 31:63].mean().exp()
    assert found["at 32 to 64"].value == pytest.approx(float(wanted), rel=1e-5), "stock rotations are in float32"
    assert len(found["at 32 to 64"].influences) == len(rows)
    assert found["at 0 to 16"].value == pytest.approx(float(nats[:, :15].mean().exp()), rel=1e-5)


def test_positions_past_the_limit(llama: Subject, tmp_path: Path) -> None:
    assert longest_of(llama, None) == 128
    assert longest_of(llama, 512) == 512, "rotations go on"
    measure_positions(llama, "prose", PROSE, 512)
    with pytest.raises(InputError, match=r"max_length: is 512, but the position embedding of .* has 128 positions"):
        longest_of(tiny(tmp_path, "gpt2"), 512)


def test_a_text_shorter_than_a_window(llama: Subject) -> None:
    with pytest.raises(InputError, match="prose: gives 100 tokens, one window takes 128"):
        measure_positions(llama, "prose", PROSE[:100], 128)


def test_a_window_begins_with_nothing_before_it(llama: Subject) -> None:
    """Negative control: the second window read after the first has other nats."""
    ids = torch.tensor(llama.encode(PROSE)[:128])[None]
    alone = score_rows(llama.model, ids[:, 64:])[0][0]
    after = score_rows(llama.model, ids)[0][0, 64:]
    assert not torch.allclose(alone, after)
