"""Documents as ids: tokenised once, mapped from then on."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.distillation.data import token_dataset as module
from kept.distillation.data.documents import TextSource
from kept.distillation.data.mixture import Mixture
from kept.distillation.data.packing import BatchStream, check_stream
from kept.distillation.data.token_dataset import TokenDataset, tokenise
from kept.errors import CheckpointError, InputError
from support.heal_data import write_lines
from support.shared_data import DATA, needs_data
from support.stored import BYTES_VOCABULARY, PROSE, write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TEXTS = ["seven ships", "한국어", "", "🙂", "def f(x):\n    return x\n"]


@pytest.fixture
def reader(tmp_path: Path) -> TokenizerReader:
    (tmp_path / "model").mkdir()
    return TokenizerReader(write_tokenizer(tmp_path / "model"))


@pytest.fixture
def source(tmp_path: Path) -> TextSource:
    (tmp_path / "data").mkdir()
    write_lines(tmp_path / "data" / "b.jsonl", *({"text": text} for text in TEXTS))
    (tmp_path / "data" / "a.txt").write_text(PROSE, encoding="utf-8")
    return TextSource((tmp_path / "data",))


@dataclass
class Watch:
    """Writes down how far each stage came."""

    stages: dict[str, list[int]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        assert unit == "bytes"
        self.stages[name] = [total, 0]

        def advance(count: int) -> None:
            self.stages[name][1] += count

        yield advance


def entries(cache: Path) -> set[str]:
    return {file.name for file in cache.iterdir() if not file.name.startswith(".")}


def test_ids_are_the_reader_s(reader: TokenizerReader, source: TextSource, tmp_path: Path) -> None:
    tokens = tokenise(source, reader, tmp_path / "cache")
    wanted = [PROSE, *filter(None, TEXTS)]
    assert len(tokens.table) == len(wanted)
    for number, text in enumerate(wanted):
        assert tokens.document(number, 0, 10**9).tolist() == reader.encode(text)
        assert tokens.document(number, 2, 4).tolist() == reader.encode(text)[2:4]
    assert len(tokens) == sum(len(reader.encode(text)) for text in wanted)
    assert tokens.lengths().tolist() == [len(reader.encode(text)) for text in wanted]
    assert tokens.largest == int(tokens.ids.max())
    assert [tokens.name(number) for number in range(4)] == ["a.txt:1", "b.jsonl:1", "b.jsonl:2", "b.jsonl:4"]


def test_ids_are_mapped_not_held(reader: TokenizerReader, source: TextSource, tmp_path: Path) -> None:
    tokens = tokenise(source, reader, tmp_path / "cache")
    assert isinstance(tokens.ids, np.memmap)
    assert isinstance(tokens.table, np.memmap)
    assert tokens.ids.dtype == np.uint32
    assert not tokens.ids.flags.writeable


def test_many_documents_are_read_in_batches(
    reader: TokenizerReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = TokenizerReader.encode_all

    def counted(self: TokenizerReader, texts: list[str]) -> list[list[int]]:
        sizes.append(len(texts))
        return whole(self, texts)  # type: ignore[return-value]

    monkeypatch.setattr(TokenizerReader, "encode_all", counted)
    monkeypatch.setattr(module, "BATCH", 1000)
    file = write_lines(tmp_path / "a.jsonl", *({"text": "x" * length} for length in range(1, 100)))
    tokens = tokenise(TextSource((file,)), reader, tmp_path / "cache")
    assert tokens.lengths().tolist() == list(range(1, 100))
    assert sum(sizes) == 99
    assert len(sizes) > 4


def test_it_is_done_once(
    reader: TokenizerReader, source: TextSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tokenise(source, reader, tmp_path / "cache")

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(TokenizerReader, "encode_all", never)
    again = tokenise(source, TokenizerReader(reader.directory), tmp_path / "cache")
    assert (again.ids == first.ids).all()
    moved = tmp_path / "elsewhere"
    (tmp_path / "data").rename(moved)
    assert (tokenise(TextSource((moved,)), reader, tmp_path / "cache").ids == first.ids).all()
    (moved / "a.txt").write_text("seven", encoding="utf-8")
    with pytest.raises(AssertionError):
        tokenise(TextSource((moved,)), reader, tmp_path / "cache")


def test_what_is_read_otherwise_is_another_entry(reader: TokenizerReader, source: TextSource, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    tokenise(source, reader, cache)
    tokenise(TextSource(source.paths, piece=7), reader, cache)
    assert len(entries(cache)) == 2
    (tmp_path / "other").mkdir()
    other = write_tokenizer(tmp_path / "other")
    tokenise(source, TokenizerReader(other), cache)
    assert len(entries(cache)) == 2, "an equal tokenizer elsewhere is the same"
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    tokenise(source, TokenizerReader(other), cache)
    assert len(entries(cache)) == 3
    (tmp_path / "data" / "a.txt").rename(tmp_path / "data" / "aa.txt")
    assert tokenise(source, reader, cache).name(0) == "aa.txt:1"


def test_the_default_place(
    reader: TokenizerReader, source: TextSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    tokenise(source, reader)
    assert len(entries(tmp_path / "home" / "kept" / "tokens")) == 1


def test_progress_is_in_bytes_of_the_files(reader: TokenizerReader, source: TextSource, tmp_path: Path) -> None:
    watch = Watch()
    tokenise(source, reader, tmp_path / "cache", watch)
    total = sum(file.nbytes for file in source.files())
    empty = len('{"text": ""}\n')
    assert watch.stages == {"sum": [total, total], "tokenise": [total, total - empty]}


def test_what_was_changed_is_not_used(reader: TokenizerReader, source: TextSource, tmp_path: Path) -> None:
    tokenise(source, reader, tmp_path / "cache")
    (entry,) = (tmp_path / "cache").glob("[!.]*")
    for name in ("ids.bin", "documents.bin", "about.json"):
        whole = (entry / name).read_bytes()
        (entry / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=r"was changed after it was written \(.*\); remove it"):
            tokenise(source, reader, tmp_path / "cache")
        (entry / name).write_bytes(whole)
    TokenDataset.open(entry)


@pytest.mark.parametrize("text", ["", "\n"])
def test_data_without_text(reader: TokenizerReader, tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text(text, encoding="utf-8")
    file = file if not text else write_lines(tmp_path / "a.jsonl", {"text": ""})
    with pytest.raises(InputError, match=rf"{file.name}: holds no text"):
        tokenise(TextSource((file,)), reader, tmp_path / "cache")
    assert entries(tmp_path / "cache") == set()


def test_a_directory_without_a_tokenizer(source: TextSource, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has none of tokenizer\.json"):
        tokenise(source, TokenizerReader(tmp_path), tmp_path / "cache")


def test_an_invalid_tokenizer_is_refused(reader: TokenizerReader, source: TextSource, tmp_path: Path) -> None:
    (reader.directory / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        tokenise(source, TokenizerReader(reader.directory), tmp_path / "cache")


# --------------------------------------------------------------------------------------------------------- end to end


def test_from_files_to_rows(reader: TokenizerReader, source: TextSource, tmp_path: Path) -> None:
    tokens = tokenise(TextSource(source.paths, piece=100), reader, tmp_path / "cache")
    stream = BatchStream(Mixture({"data": tokens}, hold_out=1), 4, 32)
    check_stream(stream, BYTES_VOCABULARY, 32)
    held = {name for batch in stream.held_out() for name in batch.names}
    batches = [stream.batch_at(step) for step in range(len(tokens) // 128 + 1)]
    assert held
    assert not held & {name for batch in batches for name in batch.names}
    documents = batches[0].documents_BT[0]
    first = batches[0].tokens_BT[0][documents == documents[0]].tolist()
    assert reader.decode(first) in PROSE + "".join(TEXTS)


@needs_data
@pytest.mark.parametrize("domain", ["tinystories", "python"])
def test_real_corpora(domain: str, tmp_path: Path) -> None:
    smallest = min((DATA / "corpora" / domain).glob("*.txt"), key=lambda file: file.stat().st_size)
    reader = TokenizerReader(DATA / "checkpoints" / "orion-9m")
    tokens = tokenise(TextSource((smallest,)), reader, tmp_path / "cache")
    stream = BatchStream(Mixture({domain: tokens}, hold_out=0.05), 2, 512)
    batch, text = stream.batch_at(0), smallest.read_text(encoding="utf-8")
    documents = batch.documents_BT[0]
    first = reader.decode(batch.tokens_BT[0][documents == documents[0]].tolist())
    assert first[10:200] in text
    assert stream.held_out()
