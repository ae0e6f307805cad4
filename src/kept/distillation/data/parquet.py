"""Read columns of a parquet file in a fenced process, because a file of kilobytes can decode to gigabytes.

Compressed pages, dictionary encoding and nested lists all expand. The rows are therefore decoded by a child process
with bounded memory, which sends them a few megabytes at a time.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.fence import FenceError, Limits, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROWS = 1024
"""Maximum number of rows that are decoded at once."""

BATCH = 32 << 20
"""Target size of the rows that are decoded at once, in bytes, by the sizes that the file declares."""

PART = 1 << 20
"""Bytes of the file that are read at once."""

REPLY = 4 << 20
"""Characters after which a reply is sent."""

LIMITS = Limits(seconds=120, memory=2 << 30)
"""Limits of the fenced process for one call."""


class ParquetReader:
    """Reads one parquet file after another. Runs in the fenced process."""

    def __init__(self) -> None:
        import pyarrow as pa  # noqa: PLC0415 - in the child only

        pa.set_memory_pool(pa.system_memory_pool())  # other memory pools reserve more than they use
        self._lines: Iterator[str] = iter(())

    def open(self, path: str, longest: int) -> list[Any]:
        """Open a file whose rows have at most `longest` characters. Returns the column names and the number of rows."""
        import pyarrow.parquet as pq  # noqa: PLC0415 - the same

        self._path, self._longest = path, longest
        opened = Path(path).open("rb")  # noqa: SIM115 - stays open; pyarrow refuses a path that is not UTF-8
        self._file = pq.ParquetFile(opened, buffer_size=PART, pre_buffer=False)
        return [self._file.schema_arrow.names, int(self._file.metadata.num_rows)]

    def select(self, columns: list[str]) -> None:
        """Choose the columns to read and start at the first row."""
        self._lines = self._written(columns)

    def more(self) -> tuple[None, bytes]:
        """Return the next rows as JSON lines; empty at the end. A value without a JSON form is null."""
        found, size = [], 0
        for line in self._lines:
            found.append(line)
            size += len(line)
            if size >= REPLY:
                break
        return None, "\n".join(found).encode("utf-8", "surrogatepass")

    def _written(self, columns: list[str]) -> Iterator[str]:
        number = 0
        for group in range(self._file.num_row_groups):
            count = _at_a_time(self._file.metadata.row_group(group), columns)
            for batch in self._file.iter_batches(count, row_groups=[group], columns=columns, use_threads=False):
                for at in range(batch.num_rows):
                    number += 1
                    row = {name: batch.column(name)[at].as_py() for name in columns}
                    line = json.dumps(row, default=_null, ensure_ascii=False)
                    if len(line) > self._longest:
                        much = f"more than {self._longest >> 20} MB; split it"
                        raise InputError(f"{self._path}: row {number} has {much}")
                    yield line


def _null(_: object) -> None:
    """Return null for a value without a JSON form, such as a date or bytes."""


def _at_a_time(group: Any, names: Sequence[str]) -> int:  # noqa: ANN401 - pyarrow has no types
    """Return the number of rows of a row group to decode at once, by the size that the file declares."""
    columns = [group.column(number) for number in range(group.num_columns)]
    size: int = sum(one.total_uncompressed_size for one in columns if one.path_in_schema.split(".")[0] in names)
    rows: int = group.num_rows
    return max(1, min(ROWS, BATCH * rows // max(1, size)))


_idle: list[Worker] = []
"""Idle fenced processes, reused for the next file."""


def rows(path: Path, choose: Callable[[Sequence[str]], list[str]], longest: int) -> Iterator[Any]:
    """Yield the number of rows, then each row as a mapping of the columns that `choose` selects from all names.

    Raises InputError naming the file if it is damaged, has a row of more than `longest` characters, or exceeds the
    limits on memory and time.
    """
    if find_spec("pyarrow") is None:
        raise InputError(f"{path}: pyarrow is needed to read it: pip install 'kept[heal]'")
    worker = _idle.pop() if _idle else Worker("kept.distillation.data.parquet:ParquetReader", limits=LIMITS)
    try:
        names, count = worker.call("open", str(path.absolute()), longest).value
        worker.call("select", choose(names))
        yield count
        while lines := worker.call("more").data:
            yield from map(json.loads, lines.split(b"\n"))
    except FenceError as error:
        why = str(error)
        raise InputError(f"{path}: cannot be read as a parquet file ({why}); rewrite it with smaller rows") from None
    finally:
        _idle.append(worker)
