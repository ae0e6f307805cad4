"""Write the files of an output in order, and sum those that are read meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import WriteProgress, digest, paced
from kept.checkpoint.json_file import to_json
from kept.checkpoint.safetensors_writer import Shard, index
from kept.checkpoint.weights import INDEX
from kept.output.input_files import FileSums, input_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.checkpoint.staging import Staging
    from kept.loaded import LoadedModel
    from kept.reporting import Reporter


@dataclass(frozen=True)
class OutputFiles:
    """The files of an output except card and record: shards, config, and companions to copy or with their bytes."""

    shards: list[Shard]
    config: Mapping[str, Any]
    companions: Mapping[str, Path | bytes]

    @property
    def small(self) -> dict[str, Path | bytes]:
        """All files but weights, card and record: a path to copy, or the bytes to write."""
        files: dict[str, Path | bytes] = {"config.json": to_json(self.config), **self.companions}
        listed = index(self.shards)
        return files if listed is None else {**files, INDEX: listed}


def copied_files(companions: Mapping[str, Path | bytes], sums: Mapping[str, str]) -> dict[Path, str]:
    """Return the copied files with the sha256 of each copy; `sums` holds it by the copy's name."""
    return {file: sums[name] for name, file in companions.items() if isinstance(file, Path)}


def write_weights(stage: Staging, parts: list[Shard], source: LoadedModel, reporter: Reporter) -> FileSums:
    """Write the weights and return the sums of the files that were read and written.

    A file that is copied whole is summed once; the source's others by a thread that is a little ahead of the writer.
    """
    total = sum(part.nbytes for part in parts)
    copied = {part.whole.name: part.name for part in parts if part.whole is not None}
    read = input_files(source)
    apart = [file for file in read if file.name not in copied]
    written = WriteProgress()
    with ThreadPoolExecutor(1) as reading:
        pace = paced(written, sum(file.stat().st_size for file in apart) / max(1, total))
        sums = {file.name: reading.submit(digest, file, pace) for file in apart}
        try:
            output = _write_shards(stage, parts, written, reporter)
            written.end()
            found = {name: future.result() for name, future in sums.items()}
        finally:
            written.stop()
            reading.shutdown(wait=False, cancel_futures=True)
    found |= {name: output[copy] for name, copy in copied.items()}
    return FileSums({file.name: found[file.name] for file in read}, output)


def _write_shards(stage: Staging, parts: list[Shard], written: WriteProgress, reporter: Reporter) -> dict[str, str]:
    with reporter.stage("write", sum(part.nbytes for part in parts), "bytes") as advance:

        def progress(count: int) -> None:
            written.advance(count)
            advance(count)

        return {part.name: stage.write_shard(part, progress) for part in parts}


def write_small_files(stage: Staging, files: OutputFiles) -> list[str]:
    """Write all files but weights, card and record, and return their names."""
    for name, content in files.small.items():
        if isinstance(content, bytes):
            stage.write(name, content)
        else:
            stage.copy(name, content)
    return [*files.small]
