"""Arrow files are decoded within bounds, and rows come back as they were stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kept.errors import InputError
from kept.evaluation import arrow
from kept.evaluation.arrow import table_rows
from kept.fence import Limits

if TYPE_CHECKING:
    from pathlib import Path

ROWS: list[dict[str, Any]] = [
    {"question": "Why? é\u2028", "choices": ["a", "b"], "answer": 1},
    {"question": "", "choices": [], "answer": None},
]


def write(file: Path, *batches: pa.RecordBatch, compression: str | None = None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, batches[0].schema, options=options) as stream:
        for batch in batches:
            stream.write_batch(batch)
    return file


def test_rows_are_what_was_stored(tmp_path: Path) -> None:
    assert table_rows(write(tmp_path / "a.arrow", pa.RecordBatch.from_pylist(ROWS))) == ROWS


def test_rows_of_a_parquet_file(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert table_rows(tmp_path / "a.parquet") == ROWS


def test_a_compressed_file_that_expands_beyond_the_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "LIMITS", Limits(seconds=20, memory=256 << 20))
    batch = pa.RecordBatch.from_pylist([{"question": "x" * (1 << 26)}])
    bomb = write(tmp_path / "bomb.arrow", *[batch] * 8, compression="zstd")
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(
        InputError, match=r"bomb\.arrow: cannot be read as an Arrow or Parquet file \(it needs more than 256 MB"
    ):
        table_rows(bomb)


@pytest.mark.parametrize("content", [b"", b"no arrow", b"ARROW1\0\0" + bytes(100)])
def test_a_file_of_another_format(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.arrow").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.arrow: cannot be read as an Arrow or Parquet file"):
        table_rows(tmp_path / "a.arrow")
