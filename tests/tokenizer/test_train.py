"""Trained tokenizers: of which kind, from what, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoTokenizer

import kept
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.errors import InputError, KeptError, OutputError
from kept.tokenizer.bpe import BYTE_LEVEL, CHARACTERS
from support.stored import read_json
from support.tokenizers_of import ENGLISH, KOREAN, corpus, inside, of_a_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", [BYTE_LEVEL, CHARACTERS])
def test_any_text_round_trips(kind: str, tmp_path: Path) -> None:
    done = kept.train_tokenizer([corpus(tmp_path, KOREAN)], tmp_path / "out", vocab_size=340, kind=kind)
    reader = TokenizerReader(done.path)
    for text in (KOREAN, ENGLISH, "漢字 and \U0001f600\n\n  two  spaces", "<0x41>"):
        assert reader.decode(reader.encode(text)) == text
    assert (done.kind, done.tokens, inside(reader.directory).get_vocab_size()) == (kind, 340, 340)
    assert [inside(reader.directory).token_to_id(name) for name in ("<unk>", "<s>", "</s>")] == [0, 1, 2]
    assert done.per_character == len(reader.encode(KOREAN * 6)) / len(KOREAN * 6)
    stock = AutoTokenizer.from_pretrained(done.path)
    assert (stock(KOREAN).input_ids, stock.bos_token_id, stock.eos_token_id) == (reader.encode(KOREAN), 1, 2)


def test_more_tokens_read_a_text_with_fewer(tmp_path: Path) -> None:
    text = corpus(tmp_path, ENGLISH)
    rates = [
        kept.train_tokenizer([text], tmp_path / str(size), vocab_size=size, kind=BYTE_LEVEL).per_character
        for size in (300, 320, 340)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


def test_pieces_end_at_spaces_where_nothing_cuts(tmp_path: Path) -> None:
    """A model without a pre-tokenizer reads a text as one word; its pieces are words all the same."""
    done = kept.train_tokenizer([corpus(tmp_path, ENGLISH)], tmp_path / "out", vocab_size=370, kind=CHARACTERS)
    pieces = inside(done.path).get_vocab()
    assert "▁the" in pieces
    assert not [piece for piece in pieces if "▁" in piece[1:]]


def test_a_tokenizer_like_a_model_s_cuts_and_writes_as_it_does(tmp_path: Path) -> None:
    for kind in (BYTE_LEVEL, CHARACTERS):
        model = of_a_model(tmp_path / kind, kind)
        done = kept.train_tokenizer([corpus(tmp_path, KOREAN)], tmp_path / f"{kind}-new", vocab_size=340, like=model)
        documents = [read_json(path / "tokenizer.json") for path in (model, done.path)]
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            assert documents[0][part] == documents[1][part]
        assert done.kind == kind


def test_any_kind_of_source_is_read(tmp_path: Path) -> None:
    whole = kept.train_tokenizer([corpus(tmp_path, ENGLISH)], tmp_path / "whole", vocab_size=320).path
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"content": ENGLISH * 6}), encoding="utf-8")
    parts = kept.train_tokenizer([lines], tmp_path / "parts", vocab_size=320, text_field="content").path
    assert (whole / "tokenizer.json").read_bytes() == (parts / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"vocab_size": 259}, "vocab_size: is 259, it must be at least 260: every byte is a token"),
        ({"vocab_size": 10**12}, f"vocab_size: is {10**12}, it must be at most 4194304"),
        ({"vocab_size": 10**25}, f"vocab_size: is {10**25}, it must be at most 4194304"),
        ({"vocab_size": 4000}, "vocab_size: is 4000, the text has pieces for"),
        ({"kind": "unigram"}, "kind: is 'unigram'; it must be one of byte-level, byte-fallback"),
        ({"kind": BYTE_LEVEL, "like": "here"}, "kind: is that of the model; leave out kind, or like"),
        ({"like": "/nowhere"}, "/nowhere: is not a directory; name one with a tokenizer"),
        ({"texts": ["/nowhere/no.txt"]}, "/nowhere/no.txt: does not exist; name a file or a directory of documents"),
        ({"texts": []}, "data: holds no file; name one of"),
    ],
)
def test_what_is_refused(options: dict[str, Any], line: str, tmp_path: Path) -> None:
    given = {"texts": [corpus(tmp_path, ENGLISH)], **options}
    with pytest.raises(KeptError) as error:
        kept.train_tokenizer(out=tmp_path / "out", **given)
    assert str(error.value).startswith(line)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


def test_an_empty_text(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(InputError, match=r"the text has pieces for 259 tokens; give more text$"):
        kept.train_tokenizer([empty], tmp_path / "out", vocab_size=300, kind=BYTE_LEVEL)


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already; choose another output"):
        kept.train_tokenizer([corpus(tmp_path, ENGLISH)], tmp_path)
