"""Contents of a checkpoint's weight files: tensors in shards, headers, the index. Deterministic."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kept.checkpoint.json_file import to_json
from kept.checkpoint.safetensors_header import read_header, stated_format
from kept.checkpoint.weights import SINGLE
from kept.ir.tensors import DTYPE_BYTES, Lazy, Stored

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

SUFFIX, FORMAT = ".safetensors", "pt"
"""Suffix and metadata `format` of a safetensors file. transformers 4.45 and 4.57 refuse files without a format."""

SHARD_BYTES = 5_000_000_000
"""The usual size of a shard."""


@dataclass(frozen=True)
class Shard:
    """One safetensors file: its name, and its tensors in the order of their bytes.

    `whole` is an existing file with exactly this content, whose header every transformers accepts.
    """

    name: str
    tensors: tuple[tuple[str, Lazy], ...]
    whole: Path | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for _, tensor in self.tensors)

    @property
    def file_bytes(self) -> int:
        """Bytes of the file."""
        return len(self.header()) + self.nbytes if self.whole is None else self.whole.stat().st_size

    def header(self) -> bytes:
        """The safetensors header, padded to eight bytes as the format's own writer does."""
        entries: dict[str, object] = {"__metadata__": {"format": FORMAT}}
        end = 0
        for name, tensor in self.tensors:
            start, end = end, end + tensor.nbytes
            entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


def shards(tensors: Mapping[str, Lazy], limit: int = SHARD_BYTES) -> list[Shard]:
    """Tensors in files of at most `limit` bytes (a larger tensor has its own), in the order of the mapping.

    Within a file wider dtypes come first and then names in order, as the format's own writer has them.
    """
    groups: list[list[tuple[str, Lazy]]] = [[]]
    held = 0
    for name, tensor in tensors.items():
        if held and held + tensor.nbytes > limit:
            groups.append([])
            held = 0
        groups[-1].append((name, tensor))
        held += tensor.nbytes
    ordered = [tuple(sorted(group, key=lambda item: (-DTYPE_BYTES[item[1].dtype], item[0]))) for group in groups]
    return _named([Shard("", group) for group in ordered])


def _named(parts: list[Shard]) -> list[Shard]:
    """Return the shards under the file names that transformers looks for."""
    if len(parts) == 1:
        return [replace(parts[0], name=SINGLE)]
    return [replace(part, name=f"model-{i:05}-of-{len(parts):05}.safetensors") for i, part in enumerate(parts, 1)]


def unchanged(tensors: Mapping[str, Lazy], source: Mapping[str, Lazy]) -> list[Shard] | None:
    """The source's own files, where they hold exactly these tensors under names that stock tools look for."""
    stored = _in_safetensors(source)
    if stored is None or dict(tensors) != stored:
        return None
    files = sorted({tensor.file for tensor in stored.values()})
    if (len(files) == 1) != (SINGLE in {file.name for file in files}):
        return None
    parts = [(file, tuple((name, one) for name, one in stored.items() if one.file == file)) for file in files]
    return [Shard(file.name, held, _copyable(file, held)) for file, held in parts]


def _in_safetensors(source: Mapping[str, Lazy]) -> dict[str, Stored] | None:
    """Return the source's tensors if all are stored unchanged in safetensors files; None otherwise."""
    stored = {name: one for name, one in source.items() if isinstance(one, Stored) and one.file.suffix == SUFFIX}
    return stored if len(stored) == len(source) else None


def _copyable(file: Path, tensors: Iterable[tuple[str, Stored]]) -> Path | None:
    """Return the file if it can be copied with its header; None if it needs a new header."""
    return file if stated_format(file) == FORMAT and dict(read_header(file)) == dict(tensors) else None


def grown(
    tensors: Mapping[str, Lazy], source: Mapping[str, Lazy], new: Collection[str], limit: int = SHARD_BYTES
) -> list[Shard] | None:
    """The source's own files, with other names of tensors perhaps, and behind them what is `new` in files of its own.

    None where one of the other tensors is not one of the source's, whole and as it is.
    """
    stored, old = _in_safetensors(source), {name: one for name, one in tensors.items() if name not in new}
    if stored is None or not {*old.values()} <= {*stored.values()}:
        return None
    names = {tensor: name for name, tensor in old.items()}
    if len(names) < len(old):  # two names for one stored tensor, such as an embedding that was tied
        return None
    parts = []
    for file in sorted({tensor.file for tensor in stored.values()}):
        held = [(name, tensor) for name, tensor in stored.items() if tensor.file == file]
        kept = [(names[tensor], tensor) for _, tensor in held if tensor in names]
        parts.append(Shard("", tuple(kept), _copyable(file, kept)))
    added = shards({name: tensor for name, tensor in tensors.items() if name in new}, limit)
    return _named([part for part in (*parts, *added) if part.tensors])


def index(parts: list[Shard]) -> bytes | None:
    """The index that names each tensor's file; None where there is one file."""
    if len(parts) == 1:
        return None
    weight_map = {name: part.name for part in parts for name, _ in part.tensors}
    total = sum(part.nbytes for part in parts)
    return to_json({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
