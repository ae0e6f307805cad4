"""A tokenizer that exceeds its limits is an error of one line in every command, in bounded time and memory."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from kept.checkpoint import tokenizer_reader as module
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.checkpoint.tokenizer_worker import load
from kept.cli.root import main
from kept.errors import CheckpointError, InputError
from kept.fence import Limits
from kept.verification.text import difference
from support.stored import (
    PROSE,
    change_json,
    read_json,
    write_json,
    write_readable,
    write_sentencepiece,
    write_tokenizer,
)

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [
    PROSE,
    "",
    "한국어와 中文 🙂",
    "  two  spaces\n\tand a tab",
    "<s> x </s>",
    *(f"{at} ships" for at in range(50)),
]


def doubling(steps: int) -> dict[str, Any]:
    """Return a normalizer that replaces each letter a by 2 ** steps of them."""
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    return {"normalizer": {"type": "Sequence", "normalizers": [step] * steps}}


def backtracking() -> dict[str, Any]:
    """Return a pre-tokenizer whose regex backtracks exponentially."""
    split = {"type": "Split", "pattern": {"Regex": "^(a|a|aa)+$"}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": split}


def made(directory: Path) -> Path:
    (directory / "sentencepiece").mkdir()
    return directory / "sentencepiece"


BOMBS = {"doubling": doubling(40), "backtracking": backtracking()}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMITS", Limits(seconds=1, memory=1 << 29))


@pytest.mark.parametrize(
    ("bomb", "says"), [("doubling", "its tokenizer fails"), ("backtracking", "cannot encode a text")]
)
@pytest.mark.usefixtures("short")
def test_a_tokenizer_that_explodes(tmp_path: Path, bomb: str, says: str) -> None:
    reader = TokenizerReader(write_tokenizer(tmp_path))
    change_json(tmp_path / "tokenizer.json", **BOMBS[bomb])
    assert [*reader.tokenizer.vocabulary][:3], "it loads"
    began, exploding = time.monotonic(), "a" * 60 + "b"
    for read in (
        reader.encoding,
        lambda text: reader.encode_all([text]),
        lambda text: [*reader.tokenizer.words([text])],
    ):
        with pytest.raises(CheckpointError) as raised:
            read(exploding)
        assert str(raised.value).startswith(f"{tmp_path / 'tokenizer.json'}: {says} (")
        assert "\n" not in str(raised.value)
    assert time.monotonic() - began < 30
    assert reader.encode("b") == TokenizerReader(write_tokenizer(tmp_path)).encode("b"), "and the next text is read"


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "command", ["convert SOURCE OUT --dry-run", "check SOURCE", "eval SOURCE", "generate --model SOURCE"]
)
def test_commands_end(tmp_path: Path, command: str) -> None:
    source = write_readable(tmp_path / "source", "llama")
    change_json(source / "tokenizer.json", **doubling(40))
    words = [{"SOURCE": str(source), "OUT": str(tmp_path / "out")}.get(word, word) for word in command.split()]
    if words[0] == "generate":
        words = ["generate", str(source), "--prompt", "a cat sat"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    assert "its tokenizer fails (it " in result.output
    assert "Traceback" not in result.output


def test_ids_and_places_are_those_of_the_library(tmp_path: Path) -> None:
    for directory in (write_tokenizer(tmp_path), write_sentencepiece(made(tmp_path))):
        reader = TokenizerReader(directory)
        assert reader.file is not None
        inside = load(reader.file)
        assert [ids.tolist() for ids in reader.encode_all(TEXTS)] == [one.ids for one in inside.encode_batch(TEXTS)]
        for found, wanted in zip(
            reader.encodings(TEXTS), inside.encode_batch(TEXTS, add_special_tokens=False), strict=True
        ):
            assert found.ids.tolist() == wanted.ids
            assert [tuple(place) for place in found.offsets.tolist()] == wanted.offsets
            assert found.special.tolist() == wanted.special_tokens_mask
        assert reader.decode(reader.encode(PROSE)) == inside.decode(inside.encode(PROSE).ids)
        assert reader.tokenizer.vocabulary == inside.get_vocab()
        assert reader.tokenizer.document == json.loads(inside.to_str())


def test_texts_are_sent_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = TokenizerReader(write_tokenizer(tmp_path))
    whole = reader.encode_all(TEXTS)
    monkeypatch.setattr(module, "TOGETHER", 20)
    assert [ids.tolist() for ids in reader.encode_all(TEXTS)] == [ids.tolist() for ids in whole]


def test_one_process_for_a_file_and_another_when_it_changes(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    one, other = TokenizerReader(tmp_path), TokenizerReader(tmp_path)
    assert one.tokenizer is other.tokenizer
    change_json(tmp_path / "tokenizer.json", pre_tokenizer=None)
    assert TokenizerReader(tmp_path).tokenizer is not one.tokenizer


def test_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has none of tokenizer.json, .* to read text with"):
        TokenizerReader(tmp_path).encode("x")
    assert difference(TokenizerReader(tmp_path), TokenizerReader(tmp_path)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/" * 4000}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}},
        {"added_tokens": [{"id": 2**40, "content": "x"}]},
        {"model": None},
    ],
)
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, changes: dict[str, object]) -> None:
    write_tokenizer(tmp_path)
    document = read_json(tmp_path / "tokenizer.json")
    write_json(tmp_path / "tokenizer.json", {**document, **changes})
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json: (is not a tokenizer|cannot encode a text|its tokenizer fails) \("
    ) as raised:
        TokenizerReader(tmp_path).encode("a text")
    assert "\n" not in str(raised.value)


def test_an_added_token_of_megabytes_is_read(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    document = read_json(tmp_path / "tokenizer.json")
    token = {**document["added_tokens"][0], "id": 500, "content": "x" * (4 << 20)}
    write_json(tmp_path / "tokenizer.json", {**document, "added_tokens": [*document["added_tokens"], token]})
    assert len(TokenizerReader(tmp_path).encode("xyz")) == 3
