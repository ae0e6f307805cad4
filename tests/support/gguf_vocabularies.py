"""Vocabularies for GGUF files, as llama.cpp's converter writes them, and texts to compare their tokens."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kept.checkpoint.sentencepiece_model import PieceKind, read_model
from kept.checkpoint.tiktoken import letters

if TYPE_CHECKING:
    from pathlib import Path


SCHOOL = (
    "The tokenizer's rules aren't learned: they're given. "
    "We'll split 2024 words, 1,234,567 numbers and I'd say don't. "
    "def tokenize(text):\n    return text.split()  # spaces\n\n\tif x == 10: print('ten')\r\n "
    "한국어 문장을 나눕니다. 한국어는 재미있다. 我们把句子分开。我们学习中文。 Él comió ñandú über Straße naïve café "
    "HTTPResponse CamelCase snake_case http://example.org/a?b=c&d=e "
    "(one) [two] {three} <four> 'five' \"six\" -- ... !!! "
)
"""Text from which the small vocabulary is trained."""

CONTROLS, USERS = ("<|start|>", "<|end|>", "<s>"), ("<think>", "  ", "[INST]")

LETTERS = letters()

BYTES_LEFT_OUT = (0x04, 0x1D, 0xF1, 0xF2)
"""Bytes without a token, as in public vocabularies."""


def byte_level(merges: int = 300) -> dict[str, Any]:
    """Return a small byte-level BPE vocabulary, trained here so that it does not depend on library versions."""
    words = [[LETTERS[byte] for byte in word.encode()] for word in re.findall(r"\s?\S+|\s+", SCHOOL)]
    tokens = [LETTERS[byte] for byte in range(256) if byte not in BYTES_LEFT_OUT]
    pairs = []
    for _ in range(merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        left, right = min(counts, key=lambda pair: (-counts[pair], pair))
        pairs.append(f"{left} {right}")
        tokens.append(left + right)
        words = [_merged(word, left, right) for word in words]
    kinds = [1] * len(tokens) + [3] * len(CONTROLS) + [4] * len(USERS) + [5]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*tokens, *CONTROLS, *USERS, "[UNUSED_1]"],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": pairs,
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
    }


def _merged(word: list[str], left: str, right: str) -> list[str]:
    out: list[str] = []
    for letter in word:
        if out and out[-1] == left and letter == right:
            out[-1] = left + right
        else:
            out.append(letter)
    return out


def sentencepiece(model_file: Path) -> dict[str, Any]:
    """Return the vocabulary of a `tokenizer.model` as the converter writes it, with some added tokens."""
    pieces = read_model(model_file).pieces
    added = (*CONTROLS[:2], *USERS)
    scores = [piece.score for piece in pieces] + [-1000.0] * len(added)
    kinds = [int(piece.kind) for piece in pieces] + [3, 3] + [4] * len(USERS)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*(piece.text for piece in pieces), *added],
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.unknown_token_id": next(
            at for at, piece in enumerate(pieces) if piece.kind is PieceKind.UNKNOWN
        ),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


TEXTS = (
    "The tokenizer's rules aren't learned: DON'T we'Ll I'D they'RE it's",
    "def tokenize(text):\n    return text.split()  # ok\n\n\n\tif x == 10:\r\n        print('ten')\n",
    "1 12 123 1234 12345 3.14159 1,234,567 ٣٤٥ ⅷ ²½ 0x1F",
    "한국어 문장을 나눕니다.\n한국어는  재미있다! ㅋㅋㅋ",
    "我们把句子分开。我们学习中文——好的！「引」、一二三",  # noqa: RUF001 - intended characters
    "👩‍👩‍👧‍👦 🏳️‍🌈 emoji 🙂🙂 🇰🇷",
    "  leading,   runs of    spaces \t\t tabs \u00a0\u2003\u3000 and trailing   ",
    "<|start|>user\nhi<|end|>\n<think> a<think></think> [INST]x[INST]<s><|end|>",
    "Él comió ñandú über Straße naïve CAFÉ e\u0301 a\u0300\u0301 ǅ ŉ ﬁ ſ Ωμέγα Привет שלום مرحبا",  # noqa: RUF001 - intended characters
    "HTTPResponse CamelCase snake_case http://example.org/a?b=c&d=e (one)[two]{three}<four>--...!!!",
    "\x00\x01\x04 \x1d\x7f \U000422e0a\U0007abcdb 𝔘𝔫𝔦 𐍈",  # noqa: RUF001 - intended characters
    "",
    " ",
    "\n",
    "a",
)
"""Texts compared with llama.cpp: English, code, Korean, Chinese, emoji, white space, special tokens, odd bytes."""
