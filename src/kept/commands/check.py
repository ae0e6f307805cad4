"""One checkpoint alone: is it whole, is it what its record says, is every weight a number, does its tokenizer fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.checkpoint.adapter import is_adapter
from kept.checkpoint.file_access import check_companions
from kept.checkpoint.file_names import TOKENIZERS
from kept.checkpoint.json_file import read_json
from kept.checkpoint.reader import COMPANIONS, Checkpoint, tensors_in
from kept.checkpoint.weights import Weights, find_weights, left_out, some, weight_map
from kept.commands.check_bytes import check_bytes, check_unlisted, file_sums, stored_in
from kept.commands.check_code import check_code
from kept.commands.findings import Findings
from kept.errors import CheckpointError, printable
from kept.families import FAMILIES, family_of
from kept.formatting import amount
from kept.gguf.header import is_gguf
from kept.hub import local
from kept.loaded import open_model
from kept.quantised.source import unquantised
from kept.reporting import Progress, Reporter, reporter_of
from kept.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kept.ir.tensors import Lazy

    Advance = Callable[[int], None]

SETTINGS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Small JSON files that loaders read where they are there."""

IDS = ("bos_token_id", "eos_token_id")
"""Ids that must be tokens. A padding id that is none (-1) is common, and means that there is no padding."""


@dataclass(frozen=True, repr=False)
class CheckReport(Summarised):
    """The result of a check: files that were read, and findings.

    `damage` has one line for everything that is wrong; `remarks` what is missing without being wrong, and what could
    therefore not be checked. `summed` counts the files that were compared with `kept.json`.
    """

    path: str
    family: str | None
    tensors: int
    nbytes: int
    summed: int
    damage: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """One phrase."""
        count = len(self.damage)
        return f"damaged: {count} finding{'s' if count > 1 else ''}" if count else "sound"

    def summary(self) -> dict[str, str]:
        """Return the verdict and what was read."""
        read = f"{self.tensors} tensors, {amount(self.nbytes, 'bytes')}"
        first = {"damage": self.damage[0]} if self.damage else {}
        return {"path": self.path, "family": self.family or "unknown", "read": read, "verdict": self.verdict, **first}


def check(path: str | Path, *, progress: Progress = False) -> CheckReport:
    """Check a checkpoint directory, a GGUF file or a LoRA adapter with its base.

    Headers, index, config, sums, weights and tokenizer are checked. Memory does not grow with the checkpoint.

    Args:
        path: a checkpoint directory, a GGUF file, a LoRA adapter or a hub id.
        progress: True shows bars on stderr; or a `kept.Reporter`.

    Returns:
        The report. `damage` has one line for every fault; it is empty for a sound checkpoint.

    Raises:
        CheckpointError: `path` is none of these.

    Example:
        ```python
        assert not kept.check("out/llama").damage
        ```
    """
    directory = local(path)
    if not is_gguf(directory) and not directory.is_dir():
        raise CheckpointError(f"{directory}: is not a directory; give the path of a checkpoint")
    if is_gguf(directory) or is_adapter(directory):
        return _opened(directory, reporter_of(progress))
    found = Findings()
    found.attempt(check_companions, directory, COMPANIONS)
    config = found.attempt(read_json, directory / "config.json")
    weights = found.attempt(find_weights, directory, config) or _as_far_as_there(directory)
    files = [*weights.files]
    tensors, whole = _tensors(files, found)
    if weights.index is not None:
        _index(weights.index, tensors, found)
    beside = left_out(directory, weights)
    if beside:
        found.remarks.append(f"not read, as transformers loads none of it: {some(beside)}")
    vocabulary = _meaning(*_dequantised(directory, config, tensors, found), found, whole=whole)
    sums = file_sums(directory, found)
    if sums is not None:
        check_unlisted(directory, files, sums, found)
    family = config.get("model_type") if config else None
    check_code(directory, family, sums or {}, found)
    check_bytes(files, tensors, sums or {}, found, reporter_of(progress))
    for name in SETTINGS:
        if (directory / name).exists():
            found.attempt(read_json, directory / name)
    _tokens(directory, vocabulary, found)
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    family = family if isinstance(family, str) else None
    damage = tuple(dict.fromkeys(map(printable, found.damage)))
    return CheckReport(str(directory), family, len(tensors), nbytes, len(sums or {}), damage, tuple(found.remarks))


def _opened(path: Path, reporter: Reporter) -> CheckReport:
    """Check a GGUF file, or an adapter merged into its base."""
    found = Findings()
    opened = found.attempt(open_model, path)
    if opened is None:
        return CheckReport(str(path), None, 0, 0, 0, tuple(found.damage), ())
    tensors, vocabulary = opened.checkpoint.tensors, opened.program.spec.vocabulary
    check_bytes([*opened.files], tensors, {}, found, reporter)
    _tokens(opened.path, vocabulary, found)
    remarks = opened.notes
    nbytes = sum(part.stat().st_size for part in opened.files)
    return CheckReport(str(path), opened.family.name, len(tensors), nbytes, 0, tuple(found.damage), remarks)


def _as_far_as_there(directory: Path) -> Weights:
    """Return the safetensors files of a directory whose weights are incomplete."""
    files = (file for file in sorted(directory.glob("*.safetensors")) if file.is_file() and not file.is_symlink())
    return Weights(tuple(files))


def _tensors(files: list[Path], found: Findings) -> tuple[dict[str, Lazy], bool]:
    """Every tensor of the files whose headers are whole, and whether all are."""
    tensors: dict[str, Lazy] = {}
    before = len(found.damage)
    for file, there in found.attempt(lambda: [*tensors_in(files)]) or ():
        for name, tensor in (found.attempt(dict, there) or {}).items():
            if name in tensors:
                found.damage.append(f"{name}: stored twice, in {stored_in(tensors[name]).name} and {file.name}")
            tensors[name] = tensor
    return tensors, len(found.damage) == before


def _index(index: Path, tensors: Mapping[str, Lazy], found: Findings) -> None:
    """Hold the index against the headers: one line for each file about which they differ."""
    listed = found.attempt(weight_map, index) or {}
    stored = {name: stored_in(tensor).name for name, tensor in tensors.items()}
    read = set(stored.values())
    for file in sorted(set(listed.values()) & read):
        missing = [name for name, place in listed.items() if place == file and stored.get(name) != file]
        extra = [name for name, place in stored.items() if place == file and listed.get(name) != file]
        if missing:
            found.damage.append(f"{index}: looks for {_some(missing)} in {file}, which has no such tensor")
        if extra:
            found.damage.append(f"{index}: leaves out {_some(extra)} of {file}")


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _dequantised(
    directory: Path, config: Mapping[str, Any] | None, tensors: Mapping[str, Lazy], found: Findings
) -> tuple[Mapping[str, Any] | None, Mapping[str, Lazy]]:
    """Return config and tensors of the model that a quantised checkpoint stores; unchanged if it is not quantised."""
    if config is None:
        return config, tensors
    whole = found.attempt(unquantised, Checkpoint(directory, config, tensors, ()))
    return (None, tensors) if whole is None else (whole.config, whole.tensors)


def _meaning(
    config: Mapping[str, Any] | None, tensors: Mapping[str, Lazy], found: Findings, *, whole: bool
) -> int | None:
    """Hold config and tensors against each other; the size of the vocabulary, where it is known."""
    if config is None:
        return None
    name = config.get("model_type")
    if isinstance(name, str) and name not in FAMILIES:
        found.remarks.append(f"model_type {name!r} is not a family that kept reads: tensors were not held against it")
        size = config.get("vocab_size")
        return size if type(size) is int else None
    family = found.attempt(family_of, config)
    if family is None:
        return None
    spec = found.attempt(family.read_config, config)
    if spec is not None and whole:
        found.attempt(family.read, config, tensors)
    return None if spec is None else spec.vocabulary


def _tokens(directory: Path, vocabulary: int | None, found: Findings) -> None:
    """Load the tokenizer, and hold its ids and the special ones against the vocabulary."""
    from kept.checkpoint.tokenizer_reader import TokenizerReader  # noqa: PLC0415 - imports torch, which takes a second

    for settings in (directory / "config.json", directory / "generation_config.json"):
        if vocabulary is not None and settings.is_file():
            found.remarks.extend(found.attempt(_special_ids, settings, vocabulary) or ())
    reader = TokenizerReader(directory)
    if reader.file is None:
        found.remarks.append(f"none of {', '.join(TOKENIZERS)}: it takes token ids only")
        return
    vocabulary_of = found.attempt(lambda: reader.tokenizer.vocabulary)
    if vocabulary_of is None:
        return
    found.attempt(reader.encode, "Once upon a time")
    largest = max(vocabulary_of.values(), default=-1)
    if vocabulary is not None and largest >= vocabulary:
        found.damage.append(f"{directory}: its tokenizer gives id {largest}, the model has {vocabulary} tokens")


def _special_ids(file: Path, vocabulary: int) -> list[str]:
    """Return a remark for each special token id outside the vocabulary; transformers accepts such ids.

    Raises CheckpointError if an id is not an integer.
    """
    settings, out = read_json(file), []
    for key in IDS:
        ids = settings.get(key)
        for one in ids if isinstance(ids, list) else [ids]:
            if one is not None and type(one) is not int:
                raise CheckpointError(f"{file}: {key} is {one!r}, it must be a token id")
            if one is not None and not 0 <= one < vocabulary:
                out.append(f"{file.name}: {key} is {one}, the model has tokens 0 to {vocabulary - 1}: it is never met")
    return out
