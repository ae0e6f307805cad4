"""The documents of a task: from a directory of local files, or from the hub's cache. Nothing is downloaded or run.

`DIR/TASK`, `DIR/ORG/NAME/CONFIG`, `DIR/ORG/NAME`, `DIR/NAME/CONFIG` and `DIR/NAME` are searched for the files of a
dataset, each in the hub's layout or in that of `datasets.save_to_disk`. `DIR/NAME/CONFIG.jsonl` and files in published
formats (`documents.PUBLISHED`) have only the documents to evaluate.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import digest
from kept.errors import InputError
from kept.evaluation import documents
from kept.evaluation.arrow import table_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Rows = list[dict[str, Any]]

SPLITS = ("train", "validation", "test", "dev")

FOLDERS = {"cais/mmlu": "mmlu/mmlu_no_train"}
"""Further directories of datasets, in each the configurations."""

ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".parquet", ".arrow", ".csv", ".tsv")

PLACES = ("{split}{end}", "{split}-*{end}", "{split}/*{end}", "data/{split}{end}", "data/{split}-*{end}")
"""Patterns of the paths of a split's files, relative to the directory of its dataset."""


@dataclass(frozen=True)
class DatasetName:
    """The dataset that a task names: its path on the hub, its configuration, and further options of the loader."""

    task: str
    path: str
    config: str | None
    options: Mapping[str, Any]


@dataclass(frozen=True)
class LocalDataset:
    """Files by split. The split "" has the documents to evaluate, whatever the task calls their split."""

    files: Mapping[str, Sequence[Path]]
    read: Callable[[Path], Rows]

    def key(self) -> dict[str, str]:
        """Return the checksum of each file by name."""
        files = chain.from_iterable(self.files.values())
        return {f"{file.parent.name}/{file.name}": digest(file) for file in files}

    def rows(self) -> dict[str, Rows]:
        """Return the documents of each split. Raises InputError naming a file that cannot be read."""
        return {split: [row for file in files for row in self.read(file)] for split, files in self.files.items()}


def find(name: DatasetName, data: Path, splits: Sequence[str]) -> LocalDataset | None:
    """Return the local files of a dataset; None if there are none."""
    published = documents.published(name.path, name.config, data)
    if published is not None:
        file, read = published
        return LocalDataset({"": [file]}, read)
    for folder in _folders(name):
        found = _splits(data, folder, splits)
        if found:
            return LocalDataset(found, read_rows)
    single = [name.path.rpartition("/")[2], *([name.config] if name.config else [])]
    files = [data.joinpath(*single[:-1], single[-1] + end) for end in ENDINGS]
    return next((LocalDataset({"": [file]}, read_rows) for file in files if _inside(file, data)), None)


def where(name: DatasetName, data: Path) -> str:
    """Return where the files of a dataset would be, and how to get them."""
    return (
        f"{name.task}: its documents ({name.path}) are neither in {data / name.path} nor in the hub's cache; "
        f"get them with: hf download {name.path} --repo-type dataset --local-dir {data / name.path}"
    )


def from_hub_cache(name: DatasetName) -> Any:  # noqa: ANN401 - datasets ships no types
    """Return a dataset of the hub's cache, by split; None if it is not there. Scripts of a dataset are never run."""
    from datasets import load_dataset  # noqa: PLC0415 - an optional dependency

    options = {key: value for key, value in name.options.items() if key != "trust_remote_code"}
    with _offline():
        try:
            return load_dataset(name.path, name.config, **options)
        except Exception:  # noqa: BLE001 - datasets raises many kinds for what is not there
            return None


def read_rows(file: Path) -> Rows:
    """Return the rows of a file by its ending. Raises InputError naming the file."""
    if file.suffix in {".parquet", ".arrow"}:
        return table_rows(file)
    if file.suffix in {".csv", ".tsv"}:
        return list(documents.table(file, "," if file.suffix == ".csv" else "\t"))
    return [*documents.json_lines(file)]


def _folders(name: DatasetName) -> Iterator[str]:
    short = name.path.rpartition("/")[2]
    yield name.task
    for path in dict.fromkeys((name.path, short, FOLDERS.get(name.path, short))):
        if name.config is not None:
            yield f"{path}/{name.config}"
        yield path


def _splits(data: Path, folder: str, splits: Sequence[str]) -> dict[str, list[Path]]:
    found = {}
    for split in dict.fromkeys((*splits, *SPLITS)):
        patterns = (place.format(split=split, end=end) for place in PLACES for end in ENDINGS)
        files = (sorted(file for file in _glob(data / folder, p) if _inside(file, data)) for p in patterns)
        some = next((one for one in files if one), [])
        if some:
            found[split] = some
    return found


def _glob(folder: Path, pattern: str) -> Iterator[Path]:
    return folder.glob(pattern) if folder.is_dir() else iter(())


def _inside(file: Path, data: Path) -> bool:
    """Whether a path is a file that lies in the directory of the data, links resolved; caches of the hub are links."""
    return file.is_file() and file.resolve().is_relative_to(data.resolve())


@contextmanager
def _offline() -> Iterator[None]:
    """Forbid the libraries of the hub to use the network."""
    import datasets.config  # noqa: PLC0415 - an optional dependency
    import huggingface_hub.constants  # noqa: PLC0415 - the same

    held = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = held


def required(name: DatasetName, data: Path | None, splits: Sequence[str]) -> LocalDataset | None:
    """Return the local files of a dataset; None if it is only in the hub's cache. Raises InputError if in neither."""
    found = None if data is None else find(name, data, splits)
    if found is None and from_hub_cache(name) is None:
        raise InputError(where(name, data or Path("DIR")) + ("; then give --data DIR" if data is None else ""))
    return found
