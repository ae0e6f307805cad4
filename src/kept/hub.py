"""A hub id where a path would do: `org/name` or `org/name@revision` becomes a directory in the hub client's cache.

Only files that a conversion reads are fetched: no code, and pickled weights only if there are no others. The client
(huggingface-hub) resumes a connection that breaks, keeps finished files between runs, and follows its own variables:
HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, ...
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from kept.checkpoint.file_names import COPIED
from kept.checkpoint.json_file import json_if_there
from kept.checkpoint.licences import LICENCE_WORDS
from kept.checkpoint.templates import FOLDER
from kept.checkpoint.weights import PICKLE, PICKLES, SINGLE, candidates, listed_names
from kept.errors import CheckpointError, printable

ID = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>(?!.*\.\.)[\w./-]+))?", re.ASCII)

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""Files of a LoRA adapter."""

OTHERS = ("config.json", "generation_config.json", "tokenizer_config.json", "README.md", *ADAPTER)

NEVER = ["*/*/*", "*/*.safetensors", "*.py", *PICKLES]
"""Folders inside a repository hold other formats of the same weights, or licences."""

INSIDE = ["*/*"]
"""Pattern of files in folders, which are never fetched as weights."""


def local(source: str | Path) -> Path:
    """The directory of a source: a path that exists is itself, what looks like a hub id is fetched.

    Raises CheckpointError where there is neither, where the hub does not give it, and without network.
    """
    if not str(source):
        raise CheckpointError("the path of the model is empty; name a directory, a GGUF file or a hub id")
    path, match = Path(source), ID.fullmatch(str(source))
    if match is None or path.exists():
        return path
    small = [*OTHERS, *COPIED, f"{FOLDER}/*.jinja", *(f"*{_any_case(word)}*" for word in LICENCE_WORDS)]
    folder = _fetch(str(source), match["name"], match["revision"], small, NEVER)
    config = folder / "config.json"
    for first in candidates(folder, json_if_there(config)):
        _fetch(str(source), match["name"], folder.name, [first], INSIDE)
        if (folder / first).is_file():
            listed = listed_names(folder / first) if first.endswith(".index.json") else []
            if listed:
                _fetch(str(source), match["name"], folder.name, listed, INSIDE)
            return folder
    if (folder / ADAPTER[0]).is_file():
        return folder
    where = "on the hub, nor, if that is offline, in its cache"
    raise CheckpointError(f"{source}: has no {SINGLE}, {PICKLE} or an index of either {where}")


def cached(source: str) -> Path | None:
    """Return the directory of a path or hub id that a file names; None if it is not local. Nothing is fetched."""
    path, match = Path(source), ID.fullmatch(source)
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a long name
        return path
    if match is None:
        return None
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - needed for hub ids only

    try:
        folder = Path(snapshot_download(match["name"], revision=match["revision"], local_files_only=True))
    except Exception:  # noqa: BLE001 - the client's errors have no common class
        return None
    return folder if (folder / "config.json").is_file() else None


def name_of(directory: Path) -> str:
    """Return the name of a source for records: the directory's name, or the id and commit in a hub cache."""
    directory = Path(os.path.realpath(directory))
    repository = directory.parent.parent.name
    if directory.parent.name == "snapshots" and repository.startswith("models--"):
        return f"{repository.removeprefix('models--').replace('--', '/', 1)}@{directory.name}"
    return printable(directory.name)


def _fetch(source: str, name: str, revision: str | None, patterns: list[str], never: list[str]) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - needed for hub ids only
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415 - the same

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=never))
    except Exception as error:  # noqa: BLE001 - which kinds there are is the client's, and its HTTP library's
        raise CheckpointError(f"{source}: is not a directory here; as a hub id, {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return the reason and the way out for an error of the hub client, special errors first."""
    from huggingface_hub import errors  # noqa: PLC0415 - the same

    reasons: tuple[tuple[type[Exception], str], ...] = (
        (
            errors.GatedRepoError,
            "the hub gives it only to those who accepted its terms: accept them there and set HF_TOKEN",
        ),
        (
            errors.RepositoryNotFoundError,
            "the hub has no such repository, or hides it: check the name, or set HF_TOKEN",
        ),
        (errors.RevisionNotFoundError, "the hub has no such revision of it"),
        (
            errors.LocalEntryNotFoundError,
            "it is not in the cache, and the hub cannot be reached: check the path, or go online",
        ),
        (errors.HFValidationError, "it is no name that the hub has"),
    )
    known = next((reason for kind, reason in reasons if isinstance(error, kind)), None)
    if known is not None:
        return known
    if isinstance(error, OSError) and error.strerror:
        return f"the hub's client cannot store it ({error.strerror}); free space or permissions?"
    lines = str(error).splitlines() or [""]
    return f"the hub did not give it ({type(error).__name__}: {lines[0]}); the same command continues"


def _any_case(word: str) -> str:
    """A pattern for a word in any case."""
    return "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in word)
