"""The fast tokenizer gives SentencePiece's ids and text, and loads without the code that came with it."""

# ruff: noqa: RUF001 - the texts are in many scripts

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import time
import unicodedata
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from kept.checkpoint.sentencepiece import fast_tokenizer, tokenizer_of
from kept.checkpoint.sentencepiece_files import tokenizer_files
from kept.checkpoint.sentencepiece_model import PieceKind, read_model
from kept.errors import CheckpointError

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data" / "corpora"
TRAINED = REPOSITORY / "src" / "kept" / "demo" / "orion-2m" / "tokenizer.model"

ENGLISH = """\
It was a bright cold day in April, and the clocks were striking thirteen. The old fisherman had not caught a single
fish for eighty-four days; "Perhaps today," he said, "for every day is a new day." Whatever our souls are made of,
his and mine are the same. All happy families are alike; each unhappy family is unhappy in its own way. There was no
possibility of taking a walk that day. We had been wandering, indeed, in the leafless shrubbery an hour in the morning;
but since dinner the cold winter wind had brought with it clouds so sombre, and a rain so penetrating, that further
out-door exercise was now out of the question. I was glad of it: I never liked long walks, especially on chilly days.
"""

KOREAN = """\
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았으며
서로 형제애의 정신으로 행동하여야 한다. 컴포넌트는 화면을 이루는 작은 조각이며, 상태가 바뀌면 다시 그려집니다. 오늘은
날씨가 맑아서 친구와 함께 강가를 걸었다. 우리는 매일 아침 같은 길을 걷지만 같은 풍경을 두 번 보지는 않는다.
안녕하세요, 반갑습니다.
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
    theirs: sentencepiece.SentencePieceProcessor = field(repr=False)
    ours: Tokenizer = field(repr=False)

    def agree(self, text: str) -> None:
        ids = self.theirs.encode(text)
        assert self.ours.encode(text, add_special_tokens=False).ids == ids
        self.decode_alike(ids)

    def agree_but_for_ties(self, text: str) -> None:
        """A unigram model may split `sss` as `s` `ss` or as `ss` `s`: rounding decides."""
        ids, ours = self.theirs.encode(text), self.ours.encode(text, add_special_tokens=False).ids
        assert sum(map(self.theirs.get_score, ours)) == pytest.approx(sum(map(self.theirs.get_score, ids)), abs=1e-3)
        assert len(ours) == len(ids)
        assert self.theirs.decode(ours) == self.theirs.decode(ids)
        self.decode_alike(ids)

    def decode_alike(self, ids: list[int]) -> None:
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
def test_ids_and_text_are_sentencepieces(pairs: dict[str, Pair], name: str) -> None:
    for text in [*PROSE, *ODD]:
        if name == "unigram_bytes" and text.startswith(" " * 100):
            pairs[name].agree_but_for_ties(text)
        else:
            pairs[name].agree(text)


FRAGMENTS = sorted({word for text in PROSE for word in text.split(" ")} | {text for text in ODD if len(text) < 60})
NAMES = ("<s>", "</s>", "<unk>", "<control>")


def spells_no_name(text: str) -> bool:
    return not any(name in text for name in NAMES)


def without_marks(text: str) -> str:
    return "".join(c for c in text if unicodedata.category(c)[0] != "M" and c not in "\u200c\u200d")


pieces_of_text = st.text(max_size=8) | st.sampled_from([*FRAGMENTS, *SYMBOLS, " ", "  ", "▁", "\r\n", "<0x41>"])
any_text = st.lists(pieces_of_text, max_size=12).map("".join).filter(spells_no_name)
unmarked_text = any_text.map(without_marks)


@pytest.mark.parametrize("name", ["llama", "no_prefix", "unknowns", "symbols"])
@settings(deadline=None, max_examples=150)
@given(text=any_text)
def test_any_text_in_bpe(pairs: dict[str, Pair], name: str, text: str) -> None:
    pairs[name].agree(text)


@pytest.mark.parametrize("name", ["nfkc", "nfkc_bytes", "folded"])
@settings(deadline=None, max_examples=100)
@given(text=unmarked_text)
def test_any_text_under_a_character_map(pairs: dict[str, Pair], name: str, text: str) -> None:
    pairs[name].agree(text)


@pytest.mark.parametrize("name", ["unigram", "unigram_bytes"])
@settings(deadline=None, max_examples=100)
@given(text=unmarked_text)
def test_any_text_in_unigram(pairs: dict[str, Pair], name: str, text: str) -> None:
    pairs[name].agree_but_for_ties(text)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_ids_decode_alike(pairs: dict[str, Pair], data: st.DataObject) -> None:
    pair = pairs["llama"]
    normal = [at for at, piece in enumerate(read_model(pair.file).pieces) if piece.kind is PieceKind.NORMAL]
    pair.decode_alike(data.draw(st.lists(st.sampled_from(normal), max_size=20)))


def test_reserved_names_in_text(pairs: dict[str, Pair]) -> None:
    """Hugging Face's own conversions do the same: SentencePiece reads them as characters."""
    ours = pairs["symbols"].ours
    assert ours.encode("a<s>b<unk></s><control>").tokens == ["▁a", "<s>", "▁b", "<unk>", "</s>", "<control>"]
    assert ours.decode(ours.encode("a<s>b").ids) == "a b"
    assert ours.decode(ours.encode("a<s>b").ids, skip_special_tokens=False) == "a<s> b"


@pytest.fixture(scope="module")
def trained() -> Pair:
    if not TRAINED.exists():
        pytest.skip(f"{TRAINED} does not exist")
    return pair_of(TRAINED)


def test_the_demo_tokenizer(trained: Pair) -> None:
    for text in [*PROSE, *ODD]:
        trained.agree(text)


@pytest.mark.parametrize("name", ["llama", "nfkc", "symbols"])
@pytest.mark.parametrize(
    "part", ["english/standardebooks.txt", "korean/react_docs_ko.md", "python/encode_httpx.py.txt"]
)
def test_real_text(pairs: dict[str, Pair], request: pytest.FixtureRequest, name: str, part: str) -> None:
    if not (DATA / part).exists():
        pytest.skip(f"{DATA / part} does not exist")
    text = (DATA / part).read_bytes()[:200_000].decode("utf-8", errors="ignore")
    pairs[name].agree(text)
    if TRAINED.exists():
        request.getfixturevalue("trained").agree(text)


# What would not be noticed if any of this were wrong: each change below must break the equality above.


def disagreements(pair: Pair, tokenizer: Tokenizer) -> int:
    return sum(tokenizer.encode(text).ids != pair.theirs.encode(text) for text in [*PROSE, *ODD])


@pytest.mark.parametrize("name", ["llama", "unigram"])
def test_shuffled_scores_give_other_ids(pairs: dict[str, Pair], name: str) -> None:
    model = read_model(pairs[name].file)
    scores = [piece.score for piece in model.pieces if piece.kind is PieceKind.NORMAL]
    random.Random(0).shuffle(scores)
    shuffled = iter(scores)
    pieces = tuple(replace(p, score=next(shuffled)) if p.kind is PieceKind.NORMAL else p for p in model.pieces)
    assert disagreements(pairs[name], tokenizer_of(model)) == 0
    assert disagreements(pairs[name], tokenizer_of(replace(model, pieces=pieces))) > 3


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"dummy_prefix": False}),
        ("llama", {"trim": True}),
        ("llama", {"byte_fallback": False}),
        ("llama", {"escape": False}),
        ("nfkc", {"charsmap": b""}),
        ("nfkc", {"trim": False}),
    ],
)
def test_every_setting_matters(pairs: dict[str, Pair], name: str, change: dict[str, Any]) -> None:
    assert disagreements(pairs[name], tokenizer_of(replace(read_model(pairs[name].file), **change))) > 3


# Models written by hand, as protobuf.


def entry(number: int, value: float | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def proto(
    pieces: list[tuple[str, float, PieceKind]], trainer: bytes = entry(3, 2), normalizer: bytes = b"", rest: bytes = b""
) -> bytes:
    entries = (entry(1, entry(1, text) + entry(2, score) + entry(3, int(kind))) for text, score, kind in pieces)
    return b"".join(entries) + entry(2, trainer) + entry(3, normalizer) + rest


LETTERS = [("<unk>", 0.0, PieceKind.UNKNOWN), *((letter, -9.0, PieceKind.NORMAL) for letter in "▁abc")]


def test_a_hand_written_model(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    pieces = [*LETTERS, ("▁a", -1.0, PieceKind.NORMAL), ("ab", -0.5, PieceKind.NORMAL), ("▁ab", -2.0, PieceKind.NORMAL)]
    file.write_bytes(proto(pieces))
    pair = pair_of(file)
    assert pair.ours.encode("ab abc").tokens == ["▁ab", "▁ab", "c"]
    for text in ("ab abc", "a", "aabb bbaa", "", " x  ab "):
        pair.agree(text)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "no SentencePiece model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1520000\n", "no SentencePiece model"),
        (b"<!doctype html><html></html>", "no SentencePiece model"),
        (bytes(range(256)), "no SentencePiece model"),
        (b"\xff" * 1_000_000, "no SentencePiece model"),
        (proto([*LETTERS, LETTERS[1]]), "there twice"),
        (proto([*LETTERS, ("", 0.0, PieceKind.NORMAL)]), "empty"),
        (proto(LETTERS[1:]), "unknown piece"),
        (proto([*LETTERS, ("x", float("nan"), PieceKind.NORMAL)]), "score"),
        (proto(LETTERS, entry(3, 2) + entry(35, 1)), "byte pieces"),
        (proto([*LETTERS, ("<0x41>", 0.0, PieceKind.BYTE)]), "byte pieces"),
        (proto(LETTERS, normalizer=entry(2, b"\x07\x00\x00\x00abc")), "character map"),
        (proto(LETTERS, entry(3, 3)), "WORD"),
        (proto(LETTERS, entry(3, 4)), "CHAR"),
        (proto(LETTERS, entry(3, 9)), "no SentencePiece model"),
        (proto(LETTERS, entry(3, 2) + entry(24, 1)), "treat_whitespace_as_suffix"),
        (proto([*LETTERS, ("ab", -1.0, PieceKind.UNUSED)]), "unused"),
        (proto(LETTERS, rest=entry(5, entry(2, b"map"))), "denormalizer_spec"),
    ],
)
def test_refuses_in_one_line_that_names_the_file(tmp_path: Path, raw: bytes, says: str) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(raw)
    with pytest.raises(CheckpointError) as refused:
        fast_tokenizer(file)
    message = str(refused.value)
    assert message.startswith(f"{file}: ")
    assert says in message
    assert "\n" not in message


def test_refuses_every_cut(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    whole = pairs["llama"].file.read_bytes()
    file = tmp_path / "tokenizer.model"
    for size in [*range(0, len(whole), 199), len(whole) - 3]:
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            fast_tokenizer(file)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_checkpoint_error_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(proto([*LETTERS, ("ab", -1.0, PieceKind.NORMAL)]))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "tokenizer.model"
    file.write_bytes(raw)
    try:
        fast_tokenizer(file).encode("ab ab")
    except CheckpointError as error:
        assert str(file) in str(error)  # noqa: PT017 - either outcome is right


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: missing"):
        tokenizer_files(tmp_path)


def test_orions_size_takes_seconds(tmp_path: Path) -> None:
    letters = "▁abcdefghijklmnopqrstuvwxyz"
    words = ("".join(word) for size in range(1, 5) for word in product(letters, repeat=size))
    pieces = [(word, -float(at), PieceKind.NORMAL) for at, word in enumerate(islice(words, 84_607))]
    file = tmp_path / "tokenizer.model"
    file.write_bytes(proto([LETTERS[0], *pieces]))
    start = time.perf_counter()
    written = tokenizer_files(tmp_path)
    assert time.perf_counter() - start < 15
    tokenizer = Tokenizer.from_buffer(written["tokenizer.json"])
    assert tokenizer.get_vocab_size() == 84_608
    text = "the quick brown fox jumps over the lazy dog"
    assert tokenizer.encode(text).ids == sentencepiece.SentencePieceProcessor(model_file=str(file)).encode(text)


# The files, as stock transformers read them.

TEMPLATE = "{{ bos_token }}{% for m in messages %}Human: {{ m['content'] }}\n\nAssistant: {{ eos_token }}{% endfor %}"

ORION = {
    "auto_map": {"AutoTokenizer": ["tokenization_orion.OrionTokenizer", None]},
    "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": True, "rstrip": False},
    "chat_template": TEMPLATE,
    "clean_up_tokenization_spaces": True,
    "eos_token": "</s>",
    "model_max_length": 4096,
    "pad_token": None,
    "sp_model_kwargs": {},
    "tokenizer_class": "OrionTokenizer",
    "unk_token": "<unk>",
}


def source(home: Path, pair: Pair, **files: Any) -> Path:
    """A directory with a tokenizer.model, code that must not run and these JSON files."""
    shutil.copy(pair.file, home / "tokenizer.model")
    (home / "tokenization_orion.py").write_text(f"open({str(home / 'ran')!r}, 'w').close()\nraise SystemExit\n")
    for name, content in files.items():
        (home / f"{name}.json").write_text(json.dumps(content))
    return home


def load(directory: Path) -> Any:
    """Write the files into the directory and open it as anybody would."""
    from transformers import AutoTokenizer

    for name, content in tokenizer_files(directory).items():
        (directory / name).write_bytes(content)
    return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


@pytest.mark.parametrize("model_type", [None, "llama", "mistral", "starcoder2"])
def test_stock_transformers_load_it_and_run_no_code(tmp_path: Path, pairs: dict[str, Pair], model_type: str) -> None:
    pair = pairs["llama"]
    source(tmp_path, pair, tokenizer_config=ORION, **({"config": {"model_type": model_type}} if model_type else {}))
    loaded = load(tmp_path)
    for text in [*PROSE, *ODD]:
        ids = loaded(text).input_ids
        assert ids == [1, *pair.theirs.encode(text)]
        assert loaded.decode(ids, skip_special_tokens=True) == pair.theirs.decode(ids[1:])
    assert loaded("a", "b").input_ids == [1, *pair.theirs.encode("a"), 1, *pair.theirs.encode("b")]
    assert set(loaded("a")) == {"input_ids", "attention_mask"}
    assert (loaded.bos_token, loaded.eos_token, loaded.unk_token, loaded.pad_token) == ("<s>", "</s>", "<unk>", None)
    assert loaded.model_max_length == 4096
    assert len(loaded) == len(pair.theirs)
    assert not (tmp_path / "ran").exists()


def test_nothing_of_the_remote_code_is_left(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    source(tmp_path, pairs["llama"], tokenizer_config=ORION)
    config = json.loads(tokenizer_files(tmp_path)["tokenizer_config.json"])
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["clean_up_tokenization_spaces"] is False
    assert not {"auto_map", "sp_model_kwargs"} & set(config)
    assert not (tmp_path / "ran").exists()


def test_the_chat_template_renders(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    loaded = load(source(tmp_path, pairs["llama"], tokenizer_config=ORION))
    rendered = loaded.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert rendered == "<s>Human: Hi\n\nAssistant: </s>"
    ids = loaded(rendered, add_special_tokens=False).input_ids
    assert ids == [1, *pairs["llama"].theirs.encode("Human: Hi\n\nAssistant: "), 2]


@pytest.mark.parametrize(("bos", "eos"), [(True, True), (False, True), (False, False), (None, None)])
def test_first_and_last_token_are_put_where_the_source_puts_them(
    tmp_path: Path, pairs: dict[str, Pair], *, bos: bool | None, eos: bool | None
) -> None:
    asked = {"add_bos_token": bos, "add_eos_token": eos}
    config = ORION | {key: value for key, value in asked.items() if value is not None}
    loaded = load(source(tmp_path, pairs["llama"], tokenizer_config=config))
    first, last = [1] if bos in {True, None} else [], [2] if eos else []
    assert loaded("fish").input_ids == [*first, *pairs["llama"].theirs.encode("fish"), *last]


def test_a_model_file_alone_is_enough(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    loaded = load(source(tmp_path, pairs["llama"]))
    assert (loaded.bos_token, loaded.eos_token, loaded.unk_token) == ("<s>", "</s>", "<unk>")
    assert loaded("fish").input_ids == [1, *pairs["llama"].theirs.encode("fish")]


def test_added_tokens_keep_their_ids(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    size = len(pairs["llama"].theirs)
    listed = {
        str(size + 1): {"content": "<|user|>", "special": False, "rstrip": True, "lstrip": False, "normalized": True},
        str(size): {"content": "<pad>", "special": True},
        str(size + 2): {"content": "<|system|>", "special": True},
        "2": {"content": "</s>", "special": True},
    }
    named = {"pad_token": "<pad>", "additional_special_tokens": ["<|end|>"]}
    loaded = load(source(tmp_path, pairs["llama"], tokenizer_config=ORION | named | {"added_tokens_decoder": listed}))
    assert loaded.convert_tokens_to_ids(["<pad>", "<|user|>", "<|system|>", "<|end|>"]) == [*range(size, size + 4)]
    encode = pairs["llama"].theirs.encode
    text = "one <|user|>   two<|system|><|end|>"
    assert loaded(text).input_ids == [1, *encode("one "), size + 1, *encode("two"), size + 2, size + 3]
    assert loaded.decode(loaded(text).input_ids, skip_special_tokens=True) == "one <|user|> two"
    assert loaded.pad_token_id == size


def test_older_files_say_the_same(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    size = len(pairs["llama"].theirs)
    loaded = load(
        source(
            tmp_path,
            pairs["llama"],
            tokenizer_config={"bos_token": "</s>", "auto_map": ORION["auto_map"]},
            special_tokens_map={"bos_token": {"content": "<s>"}, "pad_token": "<pad>"},
            added_tokens={"<pad>": size + 1, "<sep>": size},
        )
    )
    assert (loaded.bos_token, loaded.pad_token_id) == ("<s>", size + 1)
    assert loaded.convert_tokens_to_ids("<sep>") == size


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"added_tokens_decoder": {"7": {"content": "<new>"}}}, "'<new>'"),
        ({"added_tokens_decoder": {"7": 8}}, "8"),
        ({"added_tokens_decoder": ["<new>"]}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"seven": "<new>"}}, "seven"),
        ({"additional_special_tokens": "<new>"}, "additional_special_tokens"),
        ({"bos_token": None, "add_bos_token": True}, "add_bos_token"),
        ({"eos_token": 5}, "5"),
    ],
)
def test_settings_that_contradict_the_model_are_named(
    tmp_path: Path, pairs: dict[str, Pair], config: dict[str, Any], says: str
) -> None:
    source(tmp_path, pairs["llama"], tokenizer_config=ORION | config)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: ") as refused:
        tokenizer_files(tmp_path)
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["llama", "symbols", "unigram"])
def test_the_same_bytes_every_time(tmp_path: Path, pairs: dict[str, Pair], name: str) -> None:
    source(tmp_path, pairs[name], tokenizer_config=ORION)
    assert tokenizer_files(tmp_path) == tokenizer_files(tmp_path)


def test_merges_are_written_as_every_version_reads_them(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    source(tmp_path, pairs["llama"])
    merges = json.loads(tokenizer_files(tmp_path)["tokenizer.json"])["model"]["merges"]
    assert merges
    assert all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges)
    (tmp_path / "tokenizer.model").write_bytes(
        proto([*LETTERS, (" ", -3.0, PieceKind.NORMAL), ("a ", -1.0, PieceKind.NORMAL)])
    )
    assert json.loads(tokenizer_files(tmp_path)["tokenizer.json"])["model"]["merges"] == [["a", " "]]


UNUSED = "[UNUSED_TOKEN_1]"


def test_a_token_listed_under_a_reserved_piece_takes_its_place(tmp_path: Path) -> None:
    """InternLM2's chat models are like this: the model file says `[UNUSED_TOKEN_146]`, the settings `<|im_start|>`."""
    pair = pair_of(train(tmp_path / "reserved.model", **LLAMA, user_defined_symbols=[UNUSED, "<reserved_1>"]))
    at, behind = pair.theirs.piece_to_id(UNUSED), pair.theirs.piece_to_id("<reserved_1>")
    listed = {str(at): {"content": "<|im_start|>", "special": True}, str(behind): {"content": "<|tool|>"}}
    loaded = load(source(tmp_path, pair, tokenizer_config=ORION | {"added_tokens_decoder": listed}))
    assert len(loaded) == len(pair.theirs)
    encode = pair.theirs.encode
    assert loaded("<|im_start|>two<|tool|>").input_ids == [1, at, *encode("two"), behind]
    assert loaded.decode([at, behind]) == "<|im_start|><|tool|>"
    assert loaded.decode([at, *encode("two"), behind], skip_special_tokens=True) == "two<|tool|>"
