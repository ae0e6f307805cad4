"""Documents in Arrow and Parquet files, decoded in a fenced process: a small file can expand to gigabytes."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.evaluation.documents import LARGEST
from kept.fence import FenceError, Limits, Worker

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = Limits(seconds=60, memory=1 << 30)
"""Limits of the fenced process for one file."""


class ArrowReader:
    """Decodes files inside the fenced process."""

    def rows(self, path: str) -> tuple[None, bytes]:
        """Return the rows of a file as a JSON list of objects.

        Raises InputError if they take more than `LARGEST` characters, and pyarrow's errors for a damaged file.
        """
        import pyarrow as pa  # noqa: PLC0415 - only the child needs it

        # Threads need stacks and pools of their own, and bounded memory has no room for them.
        options = pa.ipc.IpcReadOptions(use_threads=False)
        pa.set_memory_pool(pa.system_memory_pool())
        if path.endswith(".parquet"):
            import pyarrow.parquet as pq  # noqa: PLC0415 - the same

            text = json.dumps(pq.read_table(path, use_threads=False).to_pylist())
        else:
            with pa.OSFile(path) as file, pa.ipc.open_stream(file, options=options) as stream:
                text = json.dumps(stream.read_all().to_pylist())
        if len(text) > LARGEST:
            raise InputError(f"{path}: has more than {LARGEST >> 20} MB of text; fetch it again")
        return None, text.encode()


def table_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file, or of an Arrow stream. Raises InputError naming the file."""
    with closing(Worker("kept.evaluation.arrow:ArrowReader", limits=LIMITS)) as worker:
        try:
            found: list[dict[str, Any]] = json.loads(worker.call("rows", str(file.absolute())).data)
        except FenceError as error:
            raise InputError(f"{file}: cannot be read as an Arrow or Parquet file ({error}); fetch it again") from None
    return found
