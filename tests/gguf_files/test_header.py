"""Damaged GGUF files are an error of one line in bounded time; split files are read as one."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from kept.errors import CheckpointError
from kept.gguf.header import is_gguf, read_header
from kept.loaded import open_model
from support import ggufs
from support.logits import program_of
from support.models import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def text(value: str) -> bytes:
    """Return a GGUF string."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def start(tensors: int, keys: int, version: int = 3) -> bytes:
    """Return the first 24 bytes of a file."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def entry(name: str, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    """Return a tensor's entry; `shape` has the last axis first."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def array(key: str, kind: int, count: int, content: bytes = b"") -> bytes:
    """Return a key with an array value."""
    return text(key) + struct.pack("<IIQ", 9, kind, count) + content


BAD = {
    "empty": (b"", "is cut short"),
    "another format": (b"PK\x03\x04" + bytes(60), "is not a GGUF file"),
    "the first version": (start(0, 0, 1), "is GGUF version 1; versions 2 and 3 are read"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is big-endian"),
    "2^60 tensors": (start(1 << 60, 0), "claims 1152921504606846976 tensors"),
    "2^60 keys": (start(0, 1 << 60), "claims 1152921504606846976 keys"),
    "a key of 2^60 bytes": (start(0, 1) + struct.pack("<Q", 1 << 60) + bytes(40), "claims 1152921504606846976 bytes"),
    "a key that is not text": (start(0, 1) + struct.pack("<Q", 2) + b"\xff\xfe" + bytes(40), "not UTF-8"),
    "a key twice": (start(0, 2) + 2 * (text("a") + struct.pack("<II", 4, 1)), "has the key 'a' twice"),
    "metadata of no type": (start(0, 1) + text("a") + struct.pack("<IQ", 77, 0), "of type 77"),
    "arrays of arrays": (start(0, 1) + array("a", 9, 1, bytes(12)), "arrays of arrays are not read"),
    "2^60 numbers": (start(0, 1) + array("a", 4, 1 << 60), "claims 1152921504606846976 numbers for 'a'"),
    "2^60 strings": (start(0, 1) + array("a", 8, 1 << 60), "claims 1152921504606846976 strings for 'a'"),
    "no axes": (start(1, 0) + entry("a") + bytes(64), "a tensor 'a' with 0 dimensions"),
    "many axes": (start(1, 0) + entry("a", *[1] * 9) + bytes(64), "a tensor 'a' with 9 dimensions"),
    "an unknown type": (start(1, 0) + entry("a", 32, kind=99) + bytes(64), "a has type 99"),
    "integers": (start(1, 0) + entry("a", 32, kind=26) + bytes(256), "a has type 26"),
    "half a block": (
        start(1, 0) + entry("a", 33, kind=8) + bytes(64),
        "a is Q8_0 with rows of 33, not a multiple of 32",
    ),
    "sizes of 2^40": (start(1, 0) + entry("a", 1 << 40, 1 << 40) + bytes(64), "a has shape"),
    "past the end": (start(1, 0) + entry("a", 4096) + bytes(64), "is cut short: a ends at byte"),
    "an offset of 2^63": (start(1, 0) + entry("a", 4, offset=1 << 63) + bytes(64), "is cut short"),
    "a name twice": (start(2, 0) + 2 * entry("a", 8) + bytes(256), "has the tensor 'a' twice"),
    "over each other": (start(2, 0) + entry("a", 8) + entry("b", 8, offset=16) + bytes(256), "overlaps"),
    "an alignment of 3": (
        start(0, 1) + text("general.alignment") + struct.pack("<II", 4, 3),
        r"has general\.alignment 3, it must be a power of two",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_damage_is_one_line(case: str, tmp_path: Path) -> None:
    raw, said = BAD[case]
    file = tmp_path / "model.gguf"
    file.write_bytes(raw)
    began = time.perf_counter()
    with pytest.raises(CheckpointError, match=said) as error:
        open_model(file)
    assert str(file) in str(error.value)
    assert time.perf_counter() - began < 2


def test_a_file_that_ends_anywhere_in_its_header(tmp_path: Path) -> None:
    made = ggufs.Made("llama", {"block_count": 1, "x": [1, 2], "y": ["a", "b"]}, {"a": np.ones((2, 4), np.float32)})
    raw = ggufs.write(tmp_path / "whole.gguf", made).read_bytes()
    file = tmp_path / "model.gguf"
    for length in range(len(raw) - 1):
        file.write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match=r"model\.gguf: "):
            read_header(file)


def test_millions_of_keys_take_no_time(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(start(0, 2_000_000) + 2_000_000 * (text("") + struct.pack("<II", 4, 1)))
    began = time.perf_counter()
    with pytest.raises(CheckpointError, match="claims 2000000 keys"):
        read_header(file)
    assert time.perf_counter() - began < 2


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.gguf: missing"):
        open_model(tmp_path / "absent.gguf")
    (tmp_path / "directory.gguf").mkdir()
    assert not is_gguf(tmp_path / "directory.gguf")


def test_a_directory_of_files_is_told_to_name_one(parts: tuple[Path, list[Path]]) -> None:
    _, files = parts
    with pytest.raises(
        CheckpointError, match=rf"has GGUF files and no config\.json; name one of them, such as {files[0]}"
    ):
        open_model(files[0].parent)


def test_a_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "sha256-abc").write_bytes(start(0, 0))
    assert is_gguf(tmp_path / "sha256-abc")


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, list[Path]]:
    """Return a checkpoint and its GGUF in three files."""
    directory = write_checkpoint(tmp_path / "llama", "llama")
    made = ggufs.made_of(directory, "llama")
    files = [tmp_path / f"model-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    names = [*made.tensors]
    for number, file in enumerate(files):
        own = {name: made.tensors[name] for name in names[number::3]}
        counts = {"split.no": number, "split.count": 3, "split.tensors.count": len(names)}
        ggufs.write(file, ggufs.Made("llama", made.keys if number == 0 else {}, own, counts))
    return directory, files


def test_split_files_are_one_model(parts: tuple[Path, list[Path]]) -> None:
    directory, files = parts
    for file in files[:2]:
        opened = open_model(file)
        assert opened.files == tuple(files)
        for slot, tensor in program_of(directory).weights.items():
            assert (opened.program.weights[slot].value() == tensor.value()).all(), slot


def test_a_part_that_is_missing_is_named(parts: tuple[Path, list[Path]]) -> None:
    _, files = parts
    files[2].unlink()
    with pytest.raises(CheckpointError, match=r"model-00003-of-00003\.gguf: missing"):
        open_model(files[0])


def test_a_part_under_another_name(parts: tuple[Path, list[Path]]) -> None:
    _, files = parts
    alone = files[0].rename(files[0].with_name("alone.gguf"))
    with pytest.raises(CheckpointError, match=r"alone\.gguf: says that it is one of 3 files"):
        open_model(alone)


def test_the_package_reads_the_same_header(parts: tuple[Path, list[Path]]) -> None:
    _, files = parts
    ours = read_header(files[0])
    theirs = [tensor for file in files for tensor in gguf.GGUFReader(file).tensors]
    assert {t.name: (t.data_offset, tuple(t.shape.tolist()[::-1])) for t in theirs} == {
        name: (tensor.offset, tensor.shape) for name, tensor in ours.tensors.items()
    }
