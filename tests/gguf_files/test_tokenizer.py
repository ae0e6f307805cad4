"""Tokenizers rebuilt from metadata give llama.cpp's ids, written by `compat/gguf_files.py --golden`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from kept.checkpoint.chat_template import Conversation, Template
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.demo import model_path
from kept.errors import CheckpointError
from kept.gguf.pretokenizers import PRE_TOKENIZERS
from kept.loaded import open_model
from support import gguf_vocabularies, ggufs
from support.golden import GOLDENS

if TYPE_CHECKING:
    from pathlib import Path

GOLDEN: dict[str, list[list[int]]] = json.loads((GOLDENS / "gguf-ids.json").read_text(encoding="utf-8"))["ids"]

SMALL = gguf_vocabularies.byte_level()


def file_of(name: str, folder: Path, **keys: Any) -> Path:
    """Return a GGUF file with the vocabulary of a golden."""
    file = folder / f"{name.replace(' ', '-')}.gguf"
    if not name.startswith("sentencepiece"):
        return ggufs.with_tokenizer(file, SMALL, ggml__pre=name, **keys)
    prefix = {"ggml__add_space_prefix": False} if name.endswith("no prefix") else {}
    return ggufs.with_tokenizer(
        file, gguf_vocabularies.sentencepiece(model_path() / "tokenizer.model"), **prefix, **keys
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_ids_are_llama_cpps(name: str, tmp_path: Path) -> None:
    directory = open_model(file_of(name, tmp_path)).path
    reader = TokenizerReader(directory)
    assert [reader.encode(text, special=False) for text in gguf_vocabularies.TEXTS] == GOLDEN[name][:-1]
    assert reader.encode(gguf_vocabularies.TEXTS[0]) == GOLDEN[name][-1]


def test_every_pre_tokenizer_has_a_golden() -> None:
    assert {*PRE_TOKENIZERS.values()} == {PRE_TOKENIZERS[name] for name in GOLDEN if name in PRE_TOKENIZERS}


@pytest.mark.parametrize("name", ["llama3", "sentencepiece"])
def test_transformers_loads_it_with_its_settings(name: str, tmp_path: Path) -> None:
    keys = {
        "ggml__eos_token_id": 2,
        "ggml__eot_token_id": 5,
        "ggml__add_eos_token": True,
        "chat_template": "{{ eos_token }}",
    }
    opened = open_model(file_of(name, tmp_path, **keys))
    tokenizer = AutoTokenizer.from_pretrained(opened.path)
    assert tokenizer(gguf_vocabularies.TEXTS[0])["input_ids"] == [*GOLDEN[name][-1], 2]
    assert tokenizer(gguf_vocabularies.TEXTS[7], add_special_tokens=False)["input_ids"] == GOLDEN[name][7]
    assert opened.program.spec.tokens.eos == (2, 5)
    assert tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False) == tokenizer.eos_token
    decoded = tokenizer.decode(tokenizer("<think>")["input_ids"], skip_special_tokens=True)
    assert isinstance(decoded, str)
    assert decoded.strip() == "<think>"


def test_several_templates_keep_their_names(tmp_path: Path) -> None:
    keys = {"chat_template": "{{ bos_token }}", "chat_template.tool_use": "tools"}
    opened = open_model(file_of("gpt-2", tmp_path, **keys))
    tokenizer = AutoTokenizer.from_pretrained(opened.path)
    assert {*tokenizer.chat_template} == {"default", "tool_use"}
    template = Template.of(opened.path)
    assert template is not None
    assert template.render(Conversation([])) == "<|start|>"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"ggml__pre": "kimi-k2"}, "its pre-tokenizer 'kimi-k2' is not supported"),
        ({"ggml__model": "t5"}, "tokenizers of type 't5' are not supported"),
        ({"ggml__model": "llama"}, "no scores for its SentencePiece model"),
    ],
)
def test_a_tokenizer_that_is_not_rebuilt_is_reported_as_missing(
    keys: dict[str, str], said: str, tmp_path: Path
) -> None:
    named = {**SMALL, **{f"tokenizer.{key.replace('__', '.')}": value for key, value in keys.items()}}
    opened = open_model(ggufs.with_tokenizer(tmp_path / "model.gguf", named))
    assert TokenizerReader(opened.path).file is None
    assert said in opened.remark


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tokens", ["a", "a"], r"tokenizer\.ggml\.tokens: has 'a' twice"),
        ("tokens", ["x" * 5000], r"tokenizer\.ggml\.tokens: has a token of more than 4096"),
        ("token_type", [1], r"tokenizer\.ggml\.token_type: has 1 entries for"),
        ("merges", [1, 2], r"tokenizer\.ggml\.merges: is not a list of the expected type"),
    ],
)
def test_damage_is_one_line_that_names_the_key(key: str, value: list[Any], said: str, tmp_path: Path) -> None:
    file = ggufs.with_tokenizer(tmp_path / "model.gguf", {**SMALL, f"tokenizer.ggml.{key}": value})
    with pytest.raises(CheckpointError, match=said) as error:
        open_model(file)
    assert str(file) in str(error.value)


def test_scores_that_are_not_numbers(tmp_path: Path) -> None:
    pieces = gguf_vocabularies.sentencepiece(model_path() / "tokenizer.model")
    pieces["tokenizer.ggml.scores"][7] = float(np.nan)
    with pytest.raises(CheckpointError, match=r"tokenizer\.ggml\.scores: holds NaN or infinity"):
        open_model(ggufs.with_tokenizer(tmp_path / "model.gguf", pieces))
