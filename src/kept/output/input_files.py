"""The files that a run reads, and whether they changed meanwhile."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.file_names import COPIED, SETTINGS, TOKENIZERS
from kept.distillation.data.documents import TextSource, named_paths
from kept.distillation.settings_fields import SELF
from kept.errors import CheckpointError
from kept.passes.expand_vocabulary import ExpandVocabulary
from kept.passes.layer_norm_to_rms import MEASURED
from kept.passes.replace_branches import ReplaceBranches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.loaded import LoadedModel
    from kept.recipe import Recipe

CHANGED = "changed during the run; nothing was written, run it again"


@dataclass(frozen=True)
class InputSnapshot:
    """The inputs of a run at its start: size and mtime of weights and text, sha256 of small files."""

    files: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    sums: Mapping[Path, str] = field(default_factory=dict)

    @classmethod
    def take(cls, source: LoadedModel, recipe: Recipe) -> InputSnapshot:
        """Return the present state of the source's files and of the recipe's text. Missing files are left out."""
        files = [*model_files(source), *_files_of_passes(recipe), *_calibration_files(recipe)]
        if recipe.text is not None:
            files.append(Path(recipe.text))
        small = [file for file in (*input_files(source), *_files_of_passes(recipe)) if file not in source.files]
        versions = {file: size_and_mtime(file) for file in files if file.is_file()}
        return cls(versions, {file: digest(file) for file in small})

    def check(self, copies: Mapping[Path, str]) -> None:
        """Raise CheckpointError for the first input that changed, or that differs from its copy's sha256."""
        for file, before in self.files.items():
            _require(file)
            if size_and_mtime(file) != before:
                raise CheckpointError(f"{file}: {CHANGED}")
        for file, digested in {**self.sums, **copies}.items():
            _require(file)
            if digest(file) != digested:
                raise CheckpointError(f"{file}: {CHANGED}")


class FileSums(NamedTuple):
    """The sha256 of every file that was read and of every file that was written, by file name."""

    source: dict[str, str]
    output: dict[str, str]


def _require(file: Path) -> None:
    if not file.is_file():
        raise CheckpointError(f"{file}: disappeared during the run; nothing was written, fetch it again")


def input_files(source: LoadedModel) -> list[Path]:
    """Return the files of a source that determine an output: config, weights and tokenizer files."""
    texts = (source.path / name for name in (*COPIED, *SETTINGS))
    return [*model_files(source), *(file for file in texts if file.is_file() and source.unpacked is None)]


def model_files(source: LoadedModel) -> list[Path]:
    """Return the files that determine a source's function: config and weights. A GGUF file holds both."""
    return [*([] if source.unpacked is not None else [source.path / "config.json"]), *source.files]


def fingerprint(source: LoadedModel, recipe: Recipe) -> dict[str, object]:
    """Return what identifies a conversion: an unfinished output of any other one is begun anew."""
    read = [*model_files(source), *_files_of_passes(recipe), *_calibration_files(recipe)]
    if (recipe.norm in MEASURED or recipe.truncates) and recipe.text is not None:
        read.append(Path(recipe.text))
    own = {*source.files}
    files = {
        str(file.name if file in own or file.parent == source.path else file): size_and_mtime(file) for file in read
    }
    given = [one.record() for one in _replacements(recipe) if one.file is None]
    made = {"recipe": recipe.to_dict(), **({"branches": given} if given else {})}
    return {"kept": version("kept"), "source": str(source.source.resolve()), "files": files, **made}


def _replacements(recipe: Recipe) -> list[ReplaceBranches]:
    return [one for one in recipe.passes if isinstance(one, ReplaceBranches)]


def _files_of_passes(recipe: Recipe) -> list[Path]:
    """Return the files that passes read: tokenizers of new tokens, rows of embeddings, replaced branches."""
    grown = [one for one in recipe.passes if isinstance(one, ExpandVocabulary)]
    named = [Path(one.tokenizer) / name for one in grown for name in TOKENIZERS]
    replaced = (Path(one.file) for one in _replacements(recipe) if one.file is not None)
    files = (*named, *(Path(one.embedding_init) for one in grown), *replaced)
    return [file for file in files if os.path.isfile(file)]  # noqa: PTH113 - Path.is_file raises for a long name


def _calibration_files(recipe: Recipe) -> list[Path]:
    """Return the files of the calibration texts. Raises InputError for one that is missing."""
    paths = {} if recipe.data == (SELF,) else named_paths(recipe.data)
    return [file.path for path in paths.values() for file in TextSource((path,)).files()]


def size_and_mtime(file: Path) -> tuple[int, int]:
    """Return a file's size in bytes and its modification time in nanoseconds, which change when it is written."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns
