"""The fast tokenizer gives SentencePiece's ids and text, and loads without the code that came with it."""

from __future__ import annotations

import io
import json
import random
import struct
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from kept.checkpoint.sentencepiece import Kind, fast_tokenizer, read_model, tokenizer_files, tokenizer_of
from kept.errors import CheckpointError

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data" / "corpora"
TRAINED = REPOSITORY / "src" / "kept" / "demo" / "model" / "tokenizer.model"

ENGLISH = """\
It was a bright cold day in April, and the clocks were striking thirteen. The old fisherman had not caught a single
fish for eighty-four days; "Perhaps today," he said, "for every day is a new day." Whatever our souls are made of,
his and mine are the same. All happy families are alike; each unhappy family is unhappy in its own way. There was no
possibility of taking a walk that day. We had been wandering, indeed, in the leafless shrubbery an hour in the morning;
but since dinner the cold winter wind had brought with it clouds so sombre, and a rain so penetrating, that further
out-door exercise was now out of the question. I was glad of it: I never liked long walks, especially on chilly days.
"""

KOREAN = """\
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았으며 서로
형제애의 정신으로 행동하여야 한다. 컴포넌트는 화면을 이루는 작은 조각이며, 상태가 바뀌면 다시 그려집니다. 오늘은 날씨가
맑아서 친구와 함께 강가를 걸었다. 우리는 매일 아침 같은 길을 걷지만 같은 풍경을 두 번 보지는 않는다. 안녕하세요, 반갑습니다.
"""

CHINESE = """\
人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。今天的天气很好，我们一起去公园散步。
学而时习之，不亦说乎？有朋自远方来，不亦乐乎？模型的参数很多，训练的时间很长，但是结果很好。
"""

CODE = '''\
class Cache:
    """Keys and values of the tokens so far."""

    def __init__(self, size: int = 1024) -> None:
        self.keys = [None] * size
        self.values = {}

    def update(self, key, value):
        for index in range(len(self.keys)):
            if self.keys[index] is None:
                self.keys[index] = key
\t\treturn self.values.get(key, value)

if __name__ == "__main__":
    print(Cache(size=16).update("a", 1) or x != 0x1F)
'''

PROSE = [ENGLISH, KOREAN, CHINESE, CODE]

ODD = [
    "",
    " ",
    "   ",
    "\n",
    "\t\t",
    "▁",
    "▁▁ ▁",
    " leading",
    "   leading three",
    "trailing ",
    "trailing three   ",
    "two  three   four    ",
    "tab\tand\t\ttabs\t",
    "\nline\n\n\nlines\r\nwindows\r\n",
    "no\u00a0break",
    "ideographic\u3000space\u3000\u3000",
    "zero\u200bwidth\u200cnon\u200djoiner\ufeff",
    "\u2028\u2029\u0085",
    "a▁b ▁ c▁",
    "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 ☕️ 🇰🇷",
    "cafe\u0301 e\u0323\u0302 n\u0303 vie\u0323\u0302t",
    "\u1112\u1161\u11ab\u1100\u1173\u11af",
    "か\u3099き\u3099",
    "𒀀𒀁 ꦲꦏ ᚠᛇᚻ ፊደል 𝔘𝔫𝔦",
    "ﬁne ｆｕｌｌ ①② ½ ㎏ ～ …",
    "العربية हिन्दी ไทย",
    "<0x41> <0xFF> <0x> ＜0x41＞",
    "\x00\x01\x1f\x7f",
    "x" * 300,
    " " * 100 + "y",
    "I'm don't 1234567890 3.14 a==b!=c",
]


@dataclass(frozen=True)
class Pair:
    """SentencePiece and what was made of its model."""

    file: Path
    theirs: sentencepiece.SentencePieceProcessor
    ours: Tokenizer

    def agree(self, text: str) -> None:
        ids = self.theirs.encode(text)
        assert self.ours.encode(text, add_special_tokens=False).ids == ids
        if self.theirs.unk_id() not in ids:
            assert self.ours.decode(ids) == self.theirs.decode(ids)


LLAMA = {
    "model_type": "bpe",
    "normalization_rule_name": "identity",
    "byte_fallback": True,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
}
SYMBOLS = ["<|im_start|>", "<|im_end|>", "<|im_start|>user", "\n", "①", "▁▁▁", "a.b*", "[x]\\"]

VARIANTS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "no_prefix": LLAMA | {"add_dummy_prefix": False},
    "unknowns": LLAMA | {"byte_fallback": False, "character_coverage": 0.98},
    "nfkc": {"model_type": "bpe"},
    "nfkc_bytes": {"model_type": "bpe", "byte_fallback": True, "remove_extra_whitespaces": False},
    "folded": {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc_cf"},
    "unigram": {"model_type": "unigram"},
    "unigram_bytes": LLAMA | {"model_type": "unigram"},
    "symbols": LLAMA | {"user_defined_symbols": SYMBOLS, "control_symbols": ["<control>"]},
    "symbols_nfkc": {"model_type": "bpe", "user_defined_symbols": SYMBOLS},
    "symbols_unigram": {"model_type": "unigram", "user_defined_symbols": SYMBOLS},
}


def train(file: Path, **options: Any) -> Path:
    written = io.BytesIO()
    lines = [line for text in PROSE for line in text.splitlines() if line]
    vocab_size = 900 if options["model_type"] == "bpe" else 1000
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 3),
        model_writer=written,
        **({"vocab_size": vocab_size, "hard_vocab_limit": False, "num_threads": 1, "minloglevel": 2} | options),
    )
    file.write_bytes(written.getvalue())
    return file


def pair_of(file: Path) -> Pair:
    return Pair(file, sentencepiece.SentencePieceProcessor(model_file=str(file)), fast_tokenizer(file))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    home = tmp_path_factory.mktemp("models")
    return {name: pair_of(train(home / f"{name}.model", **options)) for name, options in VARIANTS.items()}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("text", [*PROSE, *ODD])
def test_ids_and_text_are_sentencepieces(pairs: dict[str, Pair], name: str, text: str) -> None:
    pairs[name].agree(text)
