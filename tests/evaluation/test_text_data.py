"""Texts of an evaluation from data files: the same text in every format, and no more of it than is asked for."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kept.errors import InputError
from kept.evaluation.text_data import read_texts

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTS = ['Seven ships\nsailed, "north".', "Zwölf Boote;\tund ein Fuß.", "셋"]

JOINED = "\n\n".join(DOCUMENTS)


def write(file: Path, kind: str) -> Path:
    rows = [{"text": one, "other": n} for n, one in enumerate(DOCUMENTS)]
    match kind:
        case "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "json":
            file.write_text(json.dumps(rows, indent=1))
        case "csv":
            quoted = [one.replace('"', '""') for one in DOCUMENTS]
            file.write_text("other,text\n" + "".join(f'{n},"{one}"\n' for n, one in enumerate(quoted)))
        case "jsonl.gz":
            file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        case "jsonl.zst":
            with pa.CompressedOutputStream(str(file), "zstd") as opened:
                opened.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), file)
    return file


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "jsonl.gz", "jsonl.zst", "parquet"])
def test_every_format_gives_the_same_text(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path / f"data.{kind}", kind)
    assert read_texts(file, 10**6, "text") == JOINED
    assert read_texts(file, 40, "text") == JOINED[:40]
    with pytest.raises(InputError, match=rf"data\.{kind}.*--text-field names the one with the text"):
        read_texts(file, 10**6, "body")


def test_plain_text_stays_as_it_is(tmp_path: Path) -> None:
    """Training cuts a text file into pieces, which are joined again; a compressed file and an unknown kind are text."""
    text = "A line of a story.\n\n" * 3000
    for name in ("book.txt", "book", "book.rst"):
        (tmp_path / name).write_text(text)
        assert read_texts(tmp_path / name, 10**6, "text") == text
    (tmp_path / "book.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert read_texts(tmp_path / "book.txt.gz", 10**6, "text") == text


def test_a_directory_is_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.md").write_text("first")
    write(tmp_path / "c.jsonl", "jsonl")
    assert read_texts(tmp_path, 10**6, "text") == f"first\n\nsecond\n\n{JOINED}"


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "enough"}) + "\n" + "no JSON\n")
    assert read_texts(tmp_path / "a.jsonl", 6, "text") == "enough"
    with pytest.raises(InputError, match=r"a\.jsonl: line 2 is not JSON"):
        read_texts(tmp_path / "a.jsonl", 7, "text")


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.distillation.data.text_files.ALWAYS", 1 << 16)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(InputError, match=r"a\.txt\.gz: expands to more than 200 times its size"):
        read_texts(tmp_path / "a.txt.gz", 1 << 30, "text")
