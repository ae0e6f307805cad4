"""Writing an output's files, and knowing that what they were made from did not change meanwhile."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import Gauge, digest, paced
from kept.checkpoint.file_names import COPIED, SETTINGS, TOKENIZERS
from kept.checkpoint.json_file import to_json
from kept.checkpoint.safetensors_writer import Shard, index
from kept.checkpoint.weights import INDEX
from kept.errors import CheckpointError
from kept.passes.expand_vocabulary import ExpandVocabulary
from kept.passes.layer_norm_to_rms import MEASURED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.checkpoint.staging import Staging
    from kept.loaded import LoadedModel
    from kept.recipe import Recipe
    from kept.reporting import Reporter


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run at its start: size and mtime of weights and text, sha256 of small files."""

    files: Mapping[Path, tuple[int, int]]
    sums: Mapping[Path, str] = field(default_factory=dict)

    @classmethod
    def found(cls, source: LoadedModel, recipe: Recipe) -> Inputs:
        """The source's files, and the recipe's text. What is missing is for others to say."""
        files = [*decisive(source), *_for_tokens(recipe)]
        if recipe.text is not None:
            files.append(Path(recipe.text))
        small = [file for file in (*described(source), *_for_tokens(recipe)) if file not in source.files]
        return cls({file: stamp(file) for file in files if file.is_file()}, {file: digest(file) for file in small})

    def check(self, copies: Mapping[Path, str]) -> None:
        """Raise CheckpointError for the first input that changed, or that differs from its copy's sha256."""
        for file, before in self.files.items():
            if _there(file) and stamp(file) != before:
                raise CheckpointError(f"{file}: {CHANGED}")
        check_copies({**self.sums, **copies})


CHANGED = "changed during the run; nothing was written, run it again"


def check_copies(sums: Mapping[Path, str]) -> None:
    """Raise CheckpointError for the first file whose sha256 differs."""
    for file, before in sums.items():
        if _there(file) and digest(file) != before:
            raise CheckpointError(f"{file}: {CHANGED}")


def copies(extra: Mapping[str, Path | bytes], sums: Mapping[str, str]) -> dict[Path, str]:
    """Return the copied files with the sha256 of each copy; `sums` holds it by the copy's name."""
    return {file: sums[name] for name, file in extra.items() if isinstance(file, Path)}


def _there(file: Path) -> bool:
    if not file.is_file():
        raise CheckpointError(f"{file}: disappeared during the run; nothing was written, fetch it again")
    return True


def described(source: LoadedModel) -> list[Path]:
    """The files of a source that decide what an output is: config, weights, and what reads text."""
    texts = (source.path / name for name in (*COPIED, *SETTINGS))
    return [*decisive(source), *(file for file in texts if file.is_file() and source.unpacked is None)]


def decisive(source: LoadedModel) -> list[Path]:
    """Return the files that determine a source's function: config and weights. A GGUF file holds both."""
    return [*([] if source.unpacked is not None else [source.path / "config.json"]), *source.files]


def fingerprint(source: LoadedModel, recipe: Recipe) -> dict[str, object]:
    """What makes two runs the same: an unfinished output of any other run is begun anew."""
    read = [*decisive(source), *_for_tokens(recipe)]
    if recipe.norm in MEASURED and recipe.text is not None:
        read.append(Path(recipe.text))
    own = {*source.files}
    files = {str(file.name if file in own or file.parent == source.path else file): stamp(file) for file in read}
    return {"kept": version("kept"), "source": str(source.source.resolve()), "files": files, "recipe": recipe.to_dict()}


def _for_tokens(recipe: Recipe) -> list[Path]:
    """The tokenizers of a recipe's new tokens, and their rows."""
    grown = [one for one in recipe.passes if isinstance(one, ExpandVocabulary)]
    named = [Path(one.tokenizer) / name for one in grown for name in TOKENIZERS]
    files = (*named, *(Path(one.rows) for one in grown))
    return [file for file in files if os.path.isfile(file)]  # noqa: PTH113 - a name of any length is no error


def write_weights(
    stage: Staging, parts: list[Shard], source: LoadedModel, reporter: Reporter
) -> dict[str, dict[str, str]]:
    """Write the weights. Returns the sha256 of what was read (`source`) and written (`output`) by file name.

    A file that is copied whole is summed once; the source's others by a thread that is a little ahead of the writer.
    """
    total = sum(part.nbytes for part in parts)
    copied = {part.whole.name: part.name for part in parts if part.whole is not None}
    read = described(source)
    apart = [file for file in read if file.name not in copied]
    gauge = Gauge()
    with ThreadPoolExecutor(1) as reading:
        pace = paced(gauge, sum(file.stat().st_size for file in apart) / max(1, total))
        sums = {file.name: reading.submit(digest, file, pace) for file in apart}
        try:
            with reporter.stage("write", total, "bytes") as advance:

                def progress(count: int) -> None:
                    gauge.advance(count)
                    advance(count)

                wrote = {part.name: stage.write_shard(part, progress) for part in parts}
            gauge.end()
            found = {name: future.result() for name, future in sums.items()}
        finally:
            gauge.stop()
            reading.shutdown(wait=False, cancel_futures=True)
    found |= {name: wrote[copy] for name, copy in copied.items()}
    return {"source": {file.name: found[file.name] for file in read}, "output": wrote}


def write_small(
    stage: Staging, parts: list[Shard], config: dict[str, Any], extra: Mapping[str, Path | bytes]
) -> list[str]:
    """Write all but weights, card and record, first: what is wrong with them shows before hours of work. The names."""
    files = small_files(parts, config, extra)
    for name, content in files.items():
        if isinstance(content, bytes):
            stage.write(name, content)
        else:
            stage.copy(name, content)
    return [*files]


def small_files(
    parts: list[Shard], config: dict[str, Any], extra: Mapping[str, Path | bytes]
) -> dict[str, Path | bytes]:
    """All but weights, card and record: a file to copy, or the bytes to write."""
    files: dict[str, Path | bytes] = {"config.json": to_json(config), **extra}
    listed = index(parts)
    return files if listed is None else {**files, INDEX: listed}


def stamp(file: Path) -> tuple[int, int]:
    """What tells that a file changed, without reading it: its size, and when it was written, in nanoseconds."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns
