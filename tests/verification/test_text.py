"""The tokens that a pair is compared on: the user's text, the built-in sample, or random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.errors import CheckpointError, InputError
from kept.verification.text import LONGEST, SAMPLE, sample, sample_text
from support.stored import BYTES_VOCABULARY, PROSE, write_sentencepiece, write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = BYTES_VOCABULARY


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "my.txt"
    file.write_text(PROSE, encoding="utf-8")
    return file


# ------------------------------------------------------------------------------------------------------------ sample


def test_random_tokens_where_there_is_no_tokenizer(tmp_path: Path) -> None:
    found = sample(tmp_path, 97, 128, 300)
    assert found.origin == "random tokens (the checkpoint has no tokenizer)"
    assert found.tokens_BT.shape == (2, 128)
    assert int(found.tokens_BT.min()) >= 0
    assert int(found.tokens_BT.max()) < 97
    assert len(found.tokens_BT.unique()) > 80
    assert torch.equal(found.tokens_BT, sample(tmp_path, 97, 128, 300).tokens_BT), "the same ones each time"


def test_the_built_in_sample(directory: Path) -> None:
    found = sample(directory, VOCABULARY, 128, 256)
    assert found.origin == SAMPLE
    assert found.tokens_BT.shape == (2, 128)
    assert TokenizerReader(directory).decode(found.tokens_BT.flatten().tolist()) == sample_text()[:256]


def test_the_built_in_sample_has_prose_code_and_other_scripts() -> None:
    text = sample_text()
    assert "def " in text
    assert any("\uac00" <= character <= "\ud7a3" for character in text)
    assert any("\u4e00" <= character <= "\u9fff" for character in text)


def test_the_user_s_text(directory: Path, text: Path) -> None:
    found = sample(directory, VOCABULARY, 128, 64, text)
    assert found.origin == str(text)
    assert found.tokens_BT.shape == (1, 64)
    assert TokenizerReader(directory).decode(found.tokens_BT[0].tolist()) == PROSE[:64]


def test_a_tokenizer_is_made_from_a_model_file(tmp_path: Path, text: Path) -> None:
    write_sentencepiece(tmp_path)
    found = sample(tmp_path, VOCABULARY, 16, 16, text)
    assert TokenizerReader(tmp_path).decode(found.tokens_BT[0].tolist()) in PROSE


@pytest.mark.parametrize(
    ("count", "context", "shape"),
    [(512, 4096, (2, LONGEST)), (700, 4096, (2, LONGEST)), (100, 4096, (1, 100)), (512, 100, (5, 100)), (2, 8, (1, 2))],
)
def test_rows_are_of_equal_length_within_the_context(tmp_path: Path, count: int, context: int, shape: object) -> None:
    assert sample(tmp_path, 97, context, count).tokens_BT.shape == shape


def test_a_text_shorter_than_what_was_asked_is_taken_as_it_is(directory: Path, text: Path) -> None:
    text.write_text("seven ships", encoding="utf-8")
    assert sample(directory, VOCABULARY, 128, 512, text).tokens_BT.shape == (1, 11)


@pytest.mark.parametrize("content", ["", "a"])
def test_a_text_too_short(directory: Path, text: Path, content: str) -> None:
    text.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"my\.txt: has {len(content)} tokens; give a longer text"):
        sample(directory, VOCABULARY, 128, 512, text)


def test_a_text_that_does_not_exist(directory: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.txt: cannot be read \(No such file"):
        sample(directory, VOCABULARY, 128, 512, directory / "gone.txt")


def test_a_text_that_is_a_directory(directory: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        sample(directory, VOCABULARY, 128, 512, directory)


def test_a_text_that_is_not_utf8(directory: Path, text: Path) -> None:
    text.write_bytes("größer".encode("latin-1"))
    with pytest.raises(InputError, match=r"my\.txt: is not UTF-8 text"):
        sample(directory, VOCABULARY, 128, 512, text)


def test_a_text_without_a_tokenizer(tmp_path: Path, text: Path) -> None:
    with pytest.raises(InputError, match=r"has none of tokenizer\.json, tokenizer\.model, qwen\.tiktoken"):
        sample(tmp_path, 97, 128, 512, text)


def test_a_tokenizer_of_another_model(directory: Path) -> None:
    with pytest.raises(InputError, match=r"its tokenizer gives id \d+, the model has 97 tokens"):
        sample(directory, 97, 128, 512)


def test_an_invalid_tokenizer_is_refused(tmp_path: Path) -> None:
    for content in ("{", "{}", "[]"):
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"tokenizer\.json: is not a tokenizer \("):
            sample(tmp_path, 97, 128, 512)


# ------------------------------------------------------------------------------------------------------------ reader


def test_text_to_ids_and_back(directory: Path) -> None:
    reader = TokenizerReader(directory)
    for text in ("seven ships", "한국어", "🙂", " a  b\n"):
        assert reader.decode(reader.encode(text)) == text


def test_ids_stand_for_themselves_where_there_is_no_tokenizer(tmp_path: Path) -> None:
    assert TokenizerReader(tmp_path).decode([3, 14, 15]) == "3 14 15"


def test_a_continuation_keeps_the_space_it_begins_with(tmp_path: Path) -> None:
    reader = TokenizerReader(write_sentencepiece(tmp_path))
    old, new = reader.encode("The keeper"), reader.encode("counted seven")
    assert reader.continuation(old, new) == " counted seven"
