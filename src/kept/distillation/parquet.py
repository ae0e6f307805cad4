"""Columns of a parquet file, read in a fenced process: a file of kilobytes can hold gigabytes.

A page says how large it becomes, a dictionary stands for its entries as often as rows name them, and lists nest. So
rows are decoded by a child with bounded memory, which hands them on a few megabytes at a time.
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
"""Rows that are decoded at a time, where they are small."""

BATCH = 32 << 20
"""Bytes of decoded rows at a time, by what the file says of itself."""

PART = 1 << 20
"""Bytes of the file that are read at a time."""

REPLY = 4 << 20
"""Characters after which rows are handed on."""

LIMITS = Limits(seconds=120, memory=2 << 30)


class Table:
    """Serves the rows of one file after another. Lives in the fenced process."""

    def __init__(self) -> None:
        import pyarrow as pa  # noqa: PLC0415 - in the child only

        pa.set_memory_pool(pa.system_memory_pool())  # others reserve more than they use
        self._lines: Iterator[str] = iter(())

    def open(self, path: str, longest: int) -> list[Any]:
        """Open a file whose rows may have `longest` characters. Returns the names of its columns and its row count."""
        import pyarrow.parquet as pq  # noqa: PLC0415 - the same

        self._path, self._longest = path, longest
        opened = Path(path).open("rb")  # noqa: SIM115 - it lives as long as its rows; pyarrow takes no path of any bytes
        self._file = pq.ParquetFile(opened, buffer_size=PART, pre_buffer=False)
        return [self._file.schema_arrow.names, int(self._file.metadata.num_rows)]

    def select(self, columns: list[str]) -> None:
        """Read these columns from the first row on."""
        self._lines = self._written(columns)

    def more(self) -> tuple[None, bytes]:
        """The next rows as lines of JSON objects; nothing at the end. What JSON does not have is null."""
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
                        much = f"more than {self._longest >> 20} MB; cut it into several"
                        raise InputError(f"{self._path}: row {number} has {much}")
                    yield line


def _null(_: object) -> None:
    """What stands for a date, bytes, ..."""


def _at_a_time(group: Any, names: Sequence[str]) -> int:  # noqa: ANN401 - metadata of pyarrow's
    """How many rows of a group to decode at a time, by what the file says of their size."""
    columns = [group.column(number) for number in range(group.num_columns)]
    size: int = sum(one.total_uncompressed_size for one in columns if one.path_in_schema.split(".")[0] in names)
    rows: int = group.num_rows
    return max(1, min(ROWS, BATCH * rows // max(1, size)))


_idle: list[Worker] = []
"""Fenced processes that wait for the next file."""


def rows(path: Path, choose: Callable[[Sequence[str]], list[str]], longest: int) -> Iterator[Any]:
    """The number of rows, and then each as a mapping of the columns that `choose` takes of those that are there.

    Raises InputError naming the file for what is damaged, has more than `longest` characters in a row, or takes more
    memory or time than is given.
    """
    if find_spec("pyarrow") is None:
        raise InputError(f"{path}: pyarrow is needed to read it: pip install 'kept[heal]'")
    worker = _idle.pop() if _idle else Worker("kept.distillation.parquet:Table", limits=LIMITS)
    try:
        names, count = worker.call("open", str(path.absolute()), longest).value
        worker.call("select", choose(names))
        yield count
        while lines := worker.call("more").data:
            yield from map(json.loads, lines.split(b"\n"))
    except FenceError as error:
        why = str(error)
        raise InputError(f"{path}: cannot be read as a parquet file ({why}); write it anew with smaller rows") from None
    finally:
        _idle.append(worker)
