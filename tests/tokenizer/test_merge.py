"""Merged tokenizers: what the model read it reads as before, and the new language takes fewer tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

import kept
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.errors import CheckpointError, InputError, OutputError
from kept.tokenizer.bpe import BYTE_LEVEL, CHARACTERS, apply_merges
from kept.tokenizer.growth import growth
from kept.tokenizer.merge import NOT_BUILT, merges_of
from kept.verification.text import sample_text
from support.shared_data import DATA, needs_data
from support.stored import change_json, read_json, write_json, write_sentencepiece
from support.tokenizers_of import ENGLISH, GERMAN, KOREAN, change_model, corpus, inside, of_a_model

if TYPE_CHECKING:
    from pathlib import Path

KINDS = (BYTE_LEVEL, CHARACTERS)


class Merged:
    """A model's tokenizer, a new one, and both merged."""

    def __init__(self, directory: Path, kind: str, text: str, size: int = 380) -> None:
        self.kind, self.text = kind, text
        self.model = of_a_model(directory / "model", kind)
        new = kept.train_tokenizer([corpus(directory, text)], directory / "new", vocab_size=size, like=self.model)
        self.new = new.path
        self.done = kept.merge_tokenizers(self.model, self.new, directory / "merged")
        self.before, self.after = TokenizerReader(self.model), TokenizerReader(self.done.path)
        self.had, self.has = (inside(reader.directory).get_vocab() for reader in (self.before, self.after))
        self.first = len(self.had)

    def ids(self, text: str) -> tuple[list[int], list[int]]:
        return self.before.encode(text), self.after.encode(text)


@pytest.fixture(scope="module", params=[(kind, text) for kind in KINDS for text in (KOREAN, GERMAN)])
def merged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Merged:
    return Merged(tmp_path_factory.mktemp("merged"), *request.param)


TEXTS = st.lists(
    st.sampled_from([*ENGLISH.split(), *KOREAN.split(), *GERMAN.split(), " ", "\n", "  ", "<s>", "é", "漢"])
)
"""Words of all languages, glued and not."""


def test_old_ids_keep_their_meaning_and_new_ones_follow(merged: Merged) -> None:
    assert merged.had.items() <= merged.has.items()
    assert sorted(merged.has.values()) == [*range(len(merged.has))]
    assert (merged.done.before, merged.done.after) == (len(merged.had), len(merged.has))
    assert merged.done.after - merged.done.before > 40


def test_everything_around_the_model_stays(merged: Merged) -> None:
    before, after = (read_json(path / "tokenizer.json") for path in (merged.model, merged.done.path))
    assert {**before, "model": None} == {**after, "model": None}
    assert after["model"]["merges"][: len(before["model"]["merges"])] == before["model"]["merges"]


def test_every_new_piece_is_made_and_is_made_of_old_ones(merged: Merged) -> None:
    """By the library, not by our own merging."""
    pieces = [piece for piece in merged.has if piece not in merged.had]
    for piece in pieces:
        (token,) = inside(merged.after.directory).model.tokenize(piece)
        assert token.id == merged.has[piece]
    found = growth(merged.model, merged.done.path)
    assert (found.first, len(found.parts)) == (merged.first, len(pieces))
    spelled = {at: piece for piece, at in merged.had.items()}
    for piece, at in merged.has.items():
        if at >= merged.first:
            parts = [spelled[part] for part in found.parts[at - merged.first]]
            assert b"".join(map(_bytes, parts)) == piece.encode()


def _bytes(piece: str) -> bytes:
    """Return the bytes of a piece: single bytes are written as `<0x0A>`."""
    return bytes([int(piece[3:5], 16)]) if len(piece) == 6 and piece.startswith("<0x") else piece.encode()


@given(words=TEXTS)
def test_a_text_round_trips_and_is_cut_as_before_without_new_pieces(merged: Merged, words: list[str]) -> None:
    text = "".join(words)
    old, new = merged.ids(text)
    assert inside(merged.after.directory).decode(new, skip_special_tokens=False) == inside(
        merged.before.directory
    ).decode(old, skip_special_tokens=False)
    if max(new) < merged.first:
        assert new == old
    assert len(new) <= len(old)


def test_the_new_language_takes_fewer_tokens(merged: Merged) -> None:
    old, new = merged.ids(merged.text)
    assert len(new) < 0.8 * len(old)
    (count,) = merged.done.token_counts
    assert count.characters > 100
    assert count.per_character == (count.before / count.characters, count.after / count.characters)
    assert count.before == len(merged.before.encode(sample_text(), special=False))
    assert count.after == len(merged.after.encode(sample_text(), special=False))


def test_stock_transformers_reads_it_alike(merged: Merged) -> None:
    stock = AutoTokenizer.from_pretrained(merged.done.path)
    for text in (ENGLISH, KOREAN, GERMAN):
        assert stock(text).input_ids == merged.after.encode(text)
    assert (len(stock), stock.bos_token_id, stock.eos_token_id) == (len(merged.has), 1, 2)


def test_merging_in_front_would_cut_old_pieces_anew(tmp_path: Path) -> None:
    """Negative control: the same merges with the new ones first."""
    made = Merged(tmp_path, CHARACTERS, GERMAN)
    before, after = (read_json(path / "tokenizer.json") for path in (made.model, made.done.path))
    count, merges = len(before["model"]["merges"]), after["model"]["merges"]
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    write_json(wrong / "tokenizer.json", after)
    change_model(wrong, merges=[*merges[count:], *merges[:count]])

    def whole(reader: TokenizerReader) -> set[str]:
        return {piece for piece in made.had if len(inside(reader.directory).model.tokenize(piece)) == 1}

    assert whole(made.after) == whole(made.before)
    assert whole(TokenizerReader(wrong)) < whole(made.before)


# ------------------------------------------------------------------------------------------------------ what is chosen


def test_the_first_pieces_are_taken(tmp_path: Path) -> None:
    made = Merged(tmp_path, CHARACTERS, KOREAN)
    few = kept.merge_tokenizers(made.model, made.new, tmp_path / "few", max_added_tokens=10)
    assert few.after == few.before + 10
    found = inside(few.path).get_vocab()
    assert [found[piece] for piece in sorted(made.has, key=made.has.__getitem__)[: few.after]] == [*range(few.after)]


def test_the_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    made = Merged(tmp_path, BYTE_LEVEL, KOREAN)
    again = kept.merge_tokenizers(made.model, made.new, tmp_path / "again").path
    assert (again / "tokenizer.json").read_bytes() == (made.done.path / "tokenizer.json").read_bytes()


def test_pieces_across_words_are_left_out(tmp_path: Path) -> None:
    """A new tokenizer that does not cut at spaces: what the model's never sees whole is no piece of it."""
    model = of_a_model(tmp_path / "model", BYTE_LEVEL)
    new = of_a_model(tmp_path / "new", BYTE_LEVEL, KOREAN, 360)
    document = read_json(new / "tokenizer.json")
    vocab = document["model"]["vocab"]
    change_model(
        new,
        vocab={**vocab, "eĠ": len(vocab), "eĠs": len(vocab) + 1},
        merges=[*document["model"]["merges"], ["e", "Ġ"], ["eĠ", "s"]],
    )
    done = kept.merge_tokenizers(model, new, tmp_path / "out")
    assert done.skipped["are split by the pre-tokenizer"] == 2
    assert not {"eĠ", "eĠs"} & inside(done.path).get_vocab().keys()


def test_pieces_that_hold_a_special_token_are_left_out(tmp_path: Path) -> None:
    model = of_a_model(tmp_path / "model", CHARACTERS)
    new = of_a_model(tmp_path / "new", CHARACTERS, KOREAN, 360)
    vocab = read_json(new / "tokenizer.json")["model"]["vocab"]
    change_model(new, vocab={**vocab, "a</s>": len(vocab)})
    assert kept.merge_tokenizers(model, new, tmp_path / "out").skipped["are split by the pre-tokenizer"] == 1


def test_a_piece_that_no_merges_make_is_counted(tmp_path: Path) -> None:
    """It has all characters of a word and none of the merges between them."""
    model = of_a_model(tmp_path / "model", CHARACTERS)
    new = of_a_model(tmp_path / "new", CHARACTERS, KOREAN, 360)
    vocab = read_json(new / "tokenizer.json")["model"]["vocab"]
    change_model(new, vocab={**vocab, "xqxqxq": len(vocab), "x": len(vocab) + 1, "q": len(vocab) + 2})
    done = kept.merge_tokenizers(model, new, tmp_path / "out")
    assert done.skipped[NOT_BUILT] >= 1
    found = inside(done.path).get_vocab()
    assert ("x" in found, "q" in found, "xqxqxq" in found) == (True, True, False)


def test_added_tokens_keep_their_ids(tmp_path: Path) -> None:
    """Tokens beyond the pieces, as Qwen and Llama 3 have them: the library counts on from the pieces when it loads."""
    model = of_a_model(tmp_path / "model", BYTE_LEVEL)
    document = read_json(model / "tokenizer.json")
    size = len(document["model"]["vocab"])
    more = [{**document["added_tokens"][0], "id": size + at, "content": f"<|{at}|>"} for at in range(3)]
    change_json(model / "tokenizer.json", added_tokens=[*document["added_tokens"], *more])
    new = kept.train_tokenizer([corpus(tmp_path, KOREAN)], tmp_path / "new", vocab_size=380, like=model).path
    done = kept.merge_tokenizers(model, new, tmp_path / "out")
    found = TokenizerReader(done.path)
    assert [found.encode(f"<|{at}|>")[1:] for at in range(3)] == [[size], [size + 1], [size + 2]]
    assert done.before == size + 3
    assert growth(model, done.path).first == size + 3
    stock = AutoTokenizer.from_pretrained(done.path)
    assert stock.convert_tokens_to_ids(["<|0|>", "<|2|>"]) == [size, size + 2]
    assert stock(KOREAN).input_ids == found.encode(KOREAN)


def test_words_that_are_pieces_need_no_merges(tmp_path: Path) -> None:
    """`ignore_merges`, as Llama 3 has it."""
    model = change_model(of_a_model(tmp_path / "model", BYTE_LEVEL), ignore_merges=True)
    new = kept.train_tokenizer([corpus(tmp_path, KOREAN)], tmp_path / "new", vocab_size=380, like=model).path
    done = kept.merge_tokenizers(model, new, tmp_path / "out")
    before, after = TokenizerReader(model), TokenizerReader(done.path)
    assert len(after.encode(KOREAN)) < 0.8 * len(before.encode(KOREAN))
    assert after.decode(after.encode(KOREAN)) == before.decode(before.encode(KOREAN))


def test_merges_written_as_texts_stay_texts(tmp_path: Path) -> None:
    """The form that older versions of the library write, and the only one that they read."""
    model = of_a_model(tmp_path / "model", BYTE_LEVEL)
    merges = read_json(model / "tokenizer.json")["model"]["merges"]
    change_model(model, merges=[" ".join(pair) for pair in merges])
    new = kept.train_tokenizer([corpus(tmp_path, KOREAN)], tmp_path / "new", vocab_size=380, like=model).path
    done = kept.merge_tokenizers(model, new, tmp_path / "out")
    found = read_json(done.path / "tokenizer.json")["model"]["merges"]
    assert len(found) > len(merges)
    assert all(isinstance(pair, str) for pair in found)
    assert len(TokenizerReader(done.path).encode(KOREAN)) < len(TokenizerReader(model).encode(KOREAN))


def test_a_bare_tokenizer_model_grows_too(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    write_sentencepiece(model)
    new = kept.train_tokenizer([corpus(tmp_path, KOREAN)], tmp_path / "new", vocab_size=380, like=model).path
    done = kept.merge_tokenizers(model, new, tmp_path / "out")
    before, after = TokenizerReader(model), TokenizerReader(done.path)
    assert inside(before.directory).get_vocab().items() <= inside(after.directory).get_vocab().items()
    assert len(after.encode(KOREAN)) < 0.7 * len(before.encode(KOREAN))
    assert after.decode(after.encode(KOREAN)) == before.decode(before.encode(KOREAN))
    assert not (done.path / "tokenizer.model").exists()
    assert AutoTokenizer.from_pretrained(done.path)(KOREAN).input_ids == after.encode(KOREAN)


@needs_data
@pytest.mark.parametrize("name", ["orion-9m", "stories260k"])
def test_real_models_learn_to_read_korean(name: str, tmp_path: Path) -> None:
    model, text = DATA / "checkpoints" / name, (DATA / "corpora/korean/react_docs_ko.md").read_text(encoding="utf-8")
    part = tmp_path / "ko.txt"
    part.write_text(text[:60_000], encoding="utf-8")
    new = kept.train_tokenizer([part], tmp_path / "new", vocab_size=1500, like=model).path
    done = kept.merge_tokenizers(model, new, tmp_path / "out", texts=[part])
    before, after = TokenizerReader(model), TokenizerReader(done.path)
    assert inside(before.directory).get_vocab().items() <= inside(after.directory).get_vocab().items()
    assert done.token_counts[0].after < 0.4 * done.token_counts[0].before
    assert inside(after.directory).decode(after.encode(text[:5000]), skip_special_tokens=False) == inside(
        before.directory
    ).decode(before.encode(text[:5000]), skip_special_tokens=False)
    found = growth(model, done.path)
    assert found.first == len(inside(before.directory).get_vocab())
    assert all(len(parts) > 0 and max(parts) < found.first for parts in found.parts)


# ---------------------------------------------------------------------------------------------------------- how merges


def test_pairs_are_found_between_known_texts() -> None:
    assert merges_of(["a", "b"], {"ab"}.__contains__) == [("a", "b")]
    assert merges_of(["a", "b", "c"], {"abc"}.__contains__) is None
    assert merges_of(["a", "b", "c"], {"bc", "abc"}.__contains__) == [("b", "c"), ("a", "bc")]
    assert merges_of(["a", "b", "c", "d"], {"ab", "cd", "abcd"}.__contains__) == [("a", "b"), ("c", "d"), ("ab", "cd")]
    assert merges_of(["a"], set().__contains__) == []


@given(st.text(alphabet="thers ", max_size=12))
def test_our_merging_is_the_library_s(merged: Merged, text: str) -> None:
    word = text.replace(" ", "")
    merges = [tuple(pair) for pair in json.loads(inside(merged.after.directory).to_str())["model"]["merges"]]
    ranks: Any = {pair: rank for rank, pair in enumerate(merges)}
    if word:
        found = [token.value for token in inside(merged.after.directory).model.tokenize(word)]
        assert apply_merges(word, ranks) == found


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("pair")
    return of_a_model(directory / "model", CHARACTERS), of_a_model(directory / "new", BYTE_LEVEL, KOREAN)


def test_kinds_that_differ(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model, new = pair
    with pytest.raises(InputError) as error:
        kept.merge_tokenizers(model, new, tmp_path / "out")
    assert str(error.value) == f"{new}: is byte-level, {model} is byte-fallback; train it with --like {model}"
    assert not [*tmp_path.iterdir()]


def test_nothing_new(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = pair
    with pytest.raises(InputError, match=r"has no piece that .* lacks and can make; there is nothing to merge$"):
        kept.merge_tokenizers(model, model, tmp_path / "out")


@pytest.mark.parametrize("kind", ["Unigram", "WordPiece", "WordLevel"])
def test_other_algorithms(pair: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    from tokenizers import Tokenizer, models

    made = {
        "Unigram": models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0),
        "WordPiece": models.WordPiece({"[UNK]": 0, "a": 1}),
        "WordLevel": models.WordLevel({"a": 0}, "a"),
    }
    other = tmp_path / "other"
    other.mkdir()
    Tokenizer(made[kind]).save(str(other / "tokenizer.json"))
    line = rf"tokenizer\.json: is a {kind} tokenizer, and only BPE grows by merges; use a BPE model$"
    for one, two in ((other, pair[1]), (pair[1], other)):
        with pytest.raises(InputError, match=line):
            kept.merge_tokenizers(one, two, tmp_path / "out")


def test_marked_pieces(pair: tuple[Path, Path], tmp_path: Path) -> None:
    marked = of_a_model(tmp_path / "marked", BYTE_LEVEL)
    change_model(marked, end_of_word_suffix="</w>", merges=[])
    with pytest.raises(InputError, match=r"marks its pieces \(end_of_word_suffix\), which is not merged"):
        kept.merge_tokenizers(marked, pair[1], tmp_path / "out")


def test_nothing_is_written_into_the_model(pair: tuple[Path, Path]) -> None:
    with pytest.raises(OutputError, match=r"out: lies inside the model .*model; choose a place outside of it$"):
        kept.merge_tokenizers(*pair, pair[0] / "out")


def test_what_is_missing_or_damaged(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = pair
    with pytest.raises(InputError, match=r"nowhere: is not a directory; name one with a tokenizer"):
        kept.merge_tokenizers(model, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: has none of tokenizer\.json, tokenizer\.model, "):
        kept.merge_tokenizers(model, tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is not a tokenizer"):
        kept.merge_tokenizers(model, tmp_path / "empty", tmp_path / "out")


def test_numbers_and_places(tmp_path: Path) -> None:
    made = Merged(tmp_path, CHARACTERS, KOREAN)
    with pytest.raises(InputError, match=r"^max_added_tokens: is 0, it must be at least 1$"):
        kept.merge_tokenizers(made.model, made.new, tmp_path / "out", max_added_tokens=0)
    with pytest.raises(OutputError, match="exists already"):
        kept.merge_tokenizers(made.model, made.new, made.done.path)
    with pytest.raises(InputError, match=r"no\.txt: cannot be read"):
        kept.merge_tokenizers(made.model, made.new, tmp_path / "out", texts=[tmp_path / "no.txt"])
    assert not (tmp_path / "out").exists()
