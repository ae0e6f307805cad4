"""Pass keys: hidden where they should be, in prompts as long as asked, and found only by who says them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kept.errors import InputError
from kept.evaluation import passkey
from kept.evaluation.passkey import (
    DEPTHS,
    answer_tokens,
    is_correct,
    lengths,
    measure_passkey,
    passkey_estimates,
    passkey_prompt,
)
from support.subjects import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.evaluation.subject import Subject

LIMIT = 1500


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return tiny(tmp_path_factory.mktemp("llama"), max_position_embeddings=LIMIT)


def test_lengths_double_up_to_the_limit() -> None:
    assert lengths(5000) == [1024, 2048, 4096, 5000]
    assert lengths(2048) == [1024, 2048]
    assert lengths(700) == [700]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("length", [400, 1024, LIMIT])
def test_a_key_is_hidden_at_its_depth(llama: Subject, length: int, depth: float) -> None:
    made = passkey_prompt(llama, length, depth, "0 0")
    assert length - 80 < len(made.prompt) + answer_tokens(llama) <= length
    text = llama.reader.decode([*made.prompt])
    assert text.count(made.key) == 2
    assert text.endswith("The pass key is")
    before, _, after = text.partition(passkey.KEY[:10])
    sentences = [part.count(passkey.FILLER.strip()) for part in (before, after)]
    assert abs(sentences[0] / sum(sentences) - depth) < 0.06 + (0.3 if length == 400 else 0)


def test_a_seed_decides_the_key(llama: Subject) -> None:
    keys = {passkey_prompt(llama, 500, 0.5, seed).key for seed in ("0 0", "0 1", "1 0")}
    assert len(keys) == 3
    assert passkey_prompt(llama, 500, 0.5, "0 0") == passkey_prompt(llama, 500, 0.5, "0 0")


@pytest.mark.parametrize(
    ("answer", "found"), [(" 12345.", True), ("12345", True), ("it is 12345", True), ("123456", False), ("", False)]
)
def test_only_the_key_is_right(answer: str, *, found: bool) -> None:
    assert is_correct(answer, "12345") is found


def test_a_model_that_reads_finds_them(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that reads the whole prompt finds all keys, one with a short memory only the near ones."""

    def looks(_: object, prompts: Sequence[Sequence[int]], __: int) -> list[list[int]]:
        text = llama.reader.decode([*prompts[0]])[-seen:]
        key = text.partition("The pass key is ")[2][:5]
        return [llama.encode(f" {key}")]

    monkeypatch.setattr(passkey, "generate", looks)
    seen = 10_000
    found = passkey_estimates(measure_passkey(llama, LIMIT, 2, 0))
    assert {e.value for e in found.values()} == {1.0}
    seen = 150
    found = passkey_estimates(measure_passkey(llama, LIMIT, 2, 0))
    assert found["at depth 1.0"].value == 1
    assert found["at depth 0.0"].value == 0
    assert found["overall"].value == pytest.approx(0.2)
    assert len(found["overall"].influences) == len(lengths(LIMIT)) * len(DEPTHS) * 2


def test_a_random_model_finds_none(llama: Subject) -> None:
    assert passkey_estimates(measure_passkey(llama, 512, 1, 0))["overall"].value == 0


def test_what_does_not_fit(llama: Subject) -> None:
    with pytest.raises(InputError, match=r"max_length: is 1501, but the context of .* is 1500 tokens"):
        measure_passkey(llama, LIMIT + 1, 1, 0)
    with pytest.raises(InputError, match="100 tokens are too few for a passkey prompt"):
        measure_passkey(llama, 100, 1, 0)
