"""The fast tokenizer gives the ids that byte-pair merging by rank gives, and loads without the code it came with."""

from __future__ import annotations

import base64
import json
import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

import kept
from kept.checkpoint.companion_files import companions, tokenizer_note
from kept.checkpoint.tiktoken import read_ranks, tiktoken_tokenizer
from kept.errors import CheckpointError
from kept.loaded import open_model
from kept.verification.text import sample_text
from support.models import write_checkpoint
from support.stored import booby_trap, write_json

if TYPE_CHECKING:
    from pathlib import Path

TEXT = sample_text()

REMOTE = {
    "model_max_length": 8192,
    "tokenizer_class": "QWenTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
}


def train(size: int = 400) -> dict[bytes, int]:
    """Ranks learned from the sample: 256 bytes, then merges in order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet))
    letters = sorted(alphabet)
    plain = [letter for letter in letters if ord(letter) < 256]
    byte_of = {letter: ord(letter) for letter in plain}
    rest = iter(byte for byte in range(256) if byte not in byte_of.values())
    byte_of |= {letter: next(rest) for letter in letters if ord(letter) >= 256}
    return {bytes(byte_of[c] for c in token): rank for token, rank in tokenizer.get_vocab().items()}


RANKS = train()


def write_tiktoken(directory: Path, ranks: dict[bytes, int] = RANKS) -> Path:
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    (directory / "qwen.tiktoken").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory / "qwen.tiktoken"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiktoken_tokenizer(write_tiktoken(tmp_path_factory.mktemp("tiktoken")))


def reference(text: str) -> list[int]:
    """By definition: words of the composed text, whose neighbours merge while one pair's bytes have a rank."""
    out = []
    for word in regex.findall(PRETOKENIZE_REGEX, unicodedata.normalize("NFC", text)):
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            pairs = [(RANKS.get(left + right, len(RANKS)), at) for at, (left, right) in enumerate(pairwise(parts))]
            rank, at = min(pairs)
            if rank == len(RANKS):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        out += [RANKS[part] for part in parts]
    return out


def test_real_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT).ids
    assert ids == reference(TEXT)
    assert len(ids) < 0.8 * len(TEXT.encode())  # it merges
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", TEXT)


@given(text=st.text() | st.text(alphabet="the of and'sS  \n\r1\uff19é\u0301한국어x_-.;"))
def test_any_text(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("<|", "< |")
    assert tokenizer.encode(text).ids == reference(text)


def test_special_tokens_are_matched_in_text(tokenizer: Tokenizer) -> None:
    size = len(RANKS)
    ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|><|endoftext|><|extra_204|>").ids
    assert ids == [size + 1, *reference("user\nhi"), size + 2, size, size + 207]
    assert tokenizer.decode(ids) == "user\nhi"


def test_stock_transformers_load_what_a_conversion_writes(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "qwen", "qwen", vocab_size=640)
    write_tiktoken(source)
    write_json(source / "tokenizer_config.json", REMOTE)
    booby_trap(source / "tokenization_qwen.py", tmp_path / "marker")
    done = kept.convert(source, tmp_path / "out", verify_tokens=64)
    assert done.notes == ()
    loaded = AutoTokenizer.from_pretrained(done.path, trust_remote_code=False)
    assert loaded(TEXT)["input_ids"] == reference(TEXT)
    assert (loaded.eos_token_id, loaded.model_max_length) == (len(RANKS), 8192)
    assert not (tmp_path / "marker").exists()
    assert (done.path / "qwen.tiktoken").read_bytes() == (source / "qwen.tiktoken").read_bytes()
    assert done.verification is not None
    assert "sample" in done.verification.text


def test_another_rank_gives_other_ids(tmp_path: Path) -> None:
    """Negative control: the order of merges matters."""
    turned = {rank: rank if rank < 256 else 255 + len(RANKS) - rank for rank in RANKS.values()}
    other = tiktoken_tokenizer(write_tiktoken(tmp_path, {token: turned[rank] for token, rank in RANKS.items()}))
    assert [turned[rank] for rank in other.encode(TEXT).ids] != reference(TEXT)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"no vocabulary",
        b"IQ== 0\nIQ== 1\n",
        b"IQ== 0 0\n",
        b"IQ== zero\n",
        b"\xff\xfe 0\n",
        *(b"IQ== 5\n", b"IQ== -1\n"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "qwen.tiktoken").write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"qwen\.tiktoken: is .*; fetch it again$"):
        read_ranks(tmp_path / "qwen.tiktoken")


def test_a_missing_byte_and_a_gap_are_named(tmp_path: Path) -> None:
    """A cut file lacks merges and nothing else: it cannot be told from a smaller vocabulary, but from a wrong one."""
    for ranks in ({t: r for t, r in RANKS.items() if t != b"a"}, {t: r for t, r in RANKS.items() if r != 300}):
        with pytest.raises(CheckpointError, match=r"qwen\.tiktoken: is damaged"):
            read_ranks(write_tiktoken(tmp_path, ranks))
    with pytest.raises(CheckpointError, match=r"missing\.tiktoken: missing"):
        read_ranks(tmp_path / "missing.tiktoken")


def taken(source: Path) -> dict[str, Any]:
    return dict(companions(source, open_model(source).program.spec))


def test_a_tokenizer_that_is_only_code_is_left_behind_with_a_word(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "qwen", "qwen")
    write_json(source / "tokenizer_config.json", REMOTE)
    assert "tokenizer_config.json" not in taken(source)
    done = kept.convert(source, tmp_path / "out", verify_tokens=0)
    (note,) = done.notes
    assert note == tokenizer_note(source, "qwen", "llama")
    assert "its tokenizer is code" in note
    assert "\n" not in note


def test_others_come_along_without_a_word(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "qwen", "qwen")
    assert tokenizer_note(source, "qwen", "llama") is None
    write_json(source / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    assert tokenizer_note(source, "qwen", "llama") is None
    assert json.loads(taken(source)["tokenizer_config.json"]) == {"tokenizer_class": "GPT2Tokenizer"}
