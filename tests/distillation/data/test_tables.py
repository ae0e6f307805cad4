"""JSON arrays, tables and compressed files: the same documents as JSON lines, and damage that is named."""

from __future__ import annotations

import csv
import gzip
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from kept.distillation.data import text_files
from kept.distillation.data.documents import TextSource, named_paths
from kept.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ("one", 'two, "quoted"\nin two lines', "세 번째\t탭", "x" * 3000, "five")


def texts(path: Path, **settings: Any) -> list[str]:
    return [document.text for document in TextSource((path,), **settings).documents()]


def written(path: Path, content: str) -> Path:
    """Write a file, compressed as its name says."""
    data = content.encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = pa.Codec("zstd").compress(data, asbytes=True)
    path.write_bytes(data)
    return path


def array(rows: object, **how: Any) -> str:
    return json.dumps(rows, ensure_ascii=False, **how)


@pytest.mark.parametrize("how", [{}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("mark", ["", "\ufeff", "\n\n  "])
def test_an_array_has_the_documents_of_its_lines(tmp_path: Path, how: dict[str, Any], mark: str) -> None:
    rows = [{"text": text, "n": [{"]": 1}]} for text in TEXTS]
    assert texts(written(tmp_path / "a.json", mark + array(rows, **how))) == [*TEXTS]
    lines = "\n".join(array(row) for row in rows)
    assert texts(written(tmp_path / "b.json", lines)) == [*TEXTS]
    assert texts(written(tmp_path / "c.json", "[]")) == []


def test_an_array_longer_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.distillation.data.tables.PART", 7)
    assert texts(written(tmp_path / "a.json", array([{"text": text} for text in TEXTS], indent=1))) == [*TEXTS]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('[{"text": "a"}, 3]', "element 2 of the array is not a JSON object"),
        ('[{"text": "a"}, {"text": ', "element 2 of the array is not JSON"),
        ('[{"text": "a"}] {}', "has text after the end of its array"),
        ('[{"text": "a"}, {"other": "b"}]', "element 2 has no field 'text', only other; --text-field"),
        ('[{"text": "a"}', "element 2 of the array is not JSON"),
    ],
)
def test_a_damaged_array_is_named(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(InputError, match=rf"a\.json: {told}"):
        texts(written(tmp_path / "a.json", content))


def test_an_element_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.distillation.data.tables.PART", 7)
    monkeypatch.setattr("kept.distillation.data.tables.LONGEST", 1000)
    with pytest.raises(InputError, match="element 1 of the array has more than"):
        texts(written(tmp_path / "a.json", array([{"text": "x" * 2000}])))


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_has_a_document_a_row(tmp_path: Path, suffix: str, separator: str, end: str) -> None:
    file = tmp_path / f"a{suffix}"
    with file.open("w", newline="", encoding="utf-8-sig") as out:
        table = csv.writer(out, delimiter=separator, lineterminator=end)
        table.writerows([("id", "text"), *enumerate(TEXTS)])
    assert texts(file) == [*TEXTS]
    assert texts(file, field="id") == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("id,words\n1,a\n", "the row that ends in line 2 has no field 'text', only id, words; --text-field"),
        ("id,text\n1,a\n2\n", "the row that ends in line 3 has no text in 'text' but null"),
        ("id,text\n1,a,b\n", "line 2 has more fields than the header; quote its text"),
        ("text,id,text\na,1,b\n", "has two columns 'text'; rename or drop one"),
        ('id,text\n1,"a\n', "line 2 is not a row of a table"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(InputError, match=rf"a\.csv: {told}"):
        texts(written(tmp_path / "a.csv", content))


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_a_compressed_file_has_the_same_documents(tmp_path: Path, name: str, compression: str) -> None:
    content = {
        "a.txt": "a line\n\nanother\n",
        "a.jsonl": "\n".join(array({"text": text}) for text in TEXTS),
        "a.json": array([{"text": text} for text in TEXTS]),
        "a.csv": "text\nfirst\nsecond\n",
    }[name]
    plain = written(tmp_path / name, content)
    packed = written(tmp_path / f"{name}.{compression}", content)
    assert texts(packed) == texts(plain) != []
    assert sum(one.nbytes for one in TextSource((packed,)).documents()) <= packed.stat().st_size
    assert [*named_paths([str(packed)])] == ["a"]


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_file_that_expands_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    monkeypatch.setattr(text_files, "ALWAYS", 1000)
    packed = written(tmp_path / f"a.txt.{compression}", "0" * 3_000_000)
    with pytest.raises(InputError, match=r"expands to more than 200 times its size"):
        texts(packed)


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_damaged_compressed_file_is_named(tmp_path: Path, compression: str) -> None:
    packed = written(tmp_path / f"a.txt.{compression}", "some text\n" * 2000)
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(InputError, match=rf"a\.txt\.{compression}: cannot be decompressed"):
        texts(packed)
    packed.write_bytes(b"no such format")
    with pytest.raises(InputError, match=rf"a\.txt\.{compression}: cannot be decompressed"):
        texts(packed)


def test_parquet_files_have_a_compression_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.parquet\.gz: is none of \.txt"):
        texts(written(tmp_path / "a.parquet.gz", "x"))
