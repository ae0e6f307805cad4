"""Opening a checkpoint: every damaged, missing or dangerous file is one line that names it, and nothing is run."""

from __future__ import annotations

import builtins
import io
import json
import pickle
import re
import struct
from typing import TYPE_CHECKING, Any, Self

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kept.checkpoint.file_access import POINTER
from kept.checkpoint.json_file import LARGEST_JSON
from kept.checkpoint.reader import open_checkpoint
from kept.checkpoint.safetensors_header import read_header
from kept.errors import CheckpointError
from kept.families import FAMILIES
from kept.loaded import open_model
from support.models import write_checkpoint
from support.stored import INDEX, change_json, entry, read_json, split_into_shards, write_json, write_raw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = entry("F32", [2], [0, 8])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "orion", "orion")


@pytest.fixture
def sharded(checkpoint: Path) -> Path:
    return split_into_shards(checkpoint, 3)


def refusal(path: Path) -> str:
    """The one line with which a directory is refused."""
    with pytest.raises(CheckpointError) as caught:
        open_model(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def header_refusal(file: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        list(read_header(file))
    message = str(caught.value)
    assert "\n" not in message
    assert file.name in message
    return message


# ------------------------------------------------------------------------------------------------------ what is good


def test_tensors_are_those_of_the_format_s_own_reader(checkpoint: Path) -> None:
    wanted = load_file(checkpoint / "model.safetensors")
    found = open_checkpoint(checkpoint).tensors
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].shape == tuple(tensor.shape)
        assert torch.equal(found[name].read(), tensor), name


def test_shards_read_like_one_file(checkpoint: Path) -> None:
    whole = {name: tensor.read() for name, tensor in open_checkpoint(checkpoint).tensors.items()}
    opened = open_checkpoint(split_into_shards(checkpoint, 3))
    assert [file.name for file in opened.files] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert opened.tensors.keys() == whole.keys()
    assert all(torch.equal(opened.tensors[name].read(), whole[name]) for name in whole)


def test_shards_without_an_index_are_no_model(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    message = refusal(sharded)
    assert (
        "orion: has no model.safetensors, pytorch_model.bin or an index of either, only model-00001-of-00003" in message
    )
    assert message.endswith("which transformers does not load: fetch the index, or rename a file that is whole")


def test_every_dtype_and_a_tensor_without_elements(tmp_path: Path) -> None:
    tensors = {str(dtype)[6:]: torch.ones(3, 2, dtype=dtype) for dtype in (torch.float64, torch.float16)}
    save_file({**tensors, "bfloat16": torch.ones(1, dtype=torch.bfloat16), "none": torch.empty(0, 4)}, tmp_path / "x")
    found = dict(read_header(tmp_path / "x"))
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "float64": "F64",
        "float16": "F16",
        "bfloat16": "BF16",
        "none": "F32",
    }
    assert found["none"].read().shape == (0, 4)


def test_opening_reads_headers_only(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = checkpoint / "model.safetensors"
    (length,) = struct.unpack("<Q", file.read_bytes()[:8])
    read: list[int] = []
    for place in (io, builtins):  # pathlib uses io.open
        monkeypatch.setattr(place, "open", lambda *a, _open=place.open, **k: _Counting(_open(*a, **k), read))
    open_checkpoint(checkpoint)
    config = (checkpoint / "config.json").stat().st_size
    small = len(POINTER)  # a config this small is first tested for a git-lfs pointer
    assert sum(read) - config - small == 8 + length < file.stat().st_size / 10


class _Counting:
    """An open file that notes how much is read from it."""

    def __init__(self, file: Any, read: list[int]) -> None:
        self.file, self.counts = file, read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def fileno(self) -> int:
        return int(self.file.fileno())

    def read(self, count: int = -1) -> Any:
        data = self.file.read(count)
        self.counts.append(len(data) if isinstance(data, bytes) else 0)
        return data


# --------------------------------------------------------------------------------------------------- the directory


def test_no_such_directory(tmp_path: Path) -> None:
    assert "nowhere: is not a directory" in refusal(tmp_path / "nowhere")


def test_a_file_in_place_of_the_directory(checkpoint: Path) -> None:
    assert "config.json: is not a directory" in refusal(checkpoint / "config.json")


def test_missing_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    assert re.search(r"config\.json: missing", refusal(checkpoint))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[1]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
    ],
    ids=["cut short", "empty", "not UTF-8", "nested without end", "list", "null"],
)
def test_config_that_is_not_an_object(checkpoint: Path, content: bytes, reason: str) -> None:
    (checkpoint / "config.json").write_bytes(content)
    message = refusal(checkpoint)
    assert "config.json" in message
    assert reason in message


def test_config_that_is_a_directory(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    (checkpoint / "config.json").mkdir()
    assert "config.json: cannot be read" in refusal(checkpoint)


def test_no_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert refusal(checkpoint).endswith("orion: has no model.safetensors, pytorch_model.bin or an index of either")


@pytest.mark.parametrize(("name", "near"), [("orio", "orion"), ("lama", "llama"), ("mistrall", "mistral")])
def test_an_unknown_family_names_the_nearest(checkpoint: Path, name: str, near: str) -> None:
    change_json(checkpoint / "config.json", model_type=name)
    message = refusal(checkpoint)
    assert f"model_type {name!r} is not a family that kept reads" in message
    assert message.endswith(f"did you mean {near}?")


@pytest.mark.parametrize("name", ["llama4", "mistral3", "gemma3_text", "starcoder", "qwen2_vl"])
def test_a_close_name_of_another_generation_is_not_suggested(checkpoint: Path, name: str) -> None:
    """A suggestion would invite the user to change model_type to a wrong family."""
    change_json(checkpoint / "config.json", model_type=name)
    assert "did you mean" not in refusal(checkpoint)


def test_a_family_like_no_other_lists_those_there_are(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", model_type="xyz")
    message = refusal(checkpoint)
    assert ", ".join(FAMILIES) in message
    assert "did you mean" not in message


def test_no_family(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", model_type=None, architectures=None)
    assert "config.json: has no model_type" in refusal(checkpoint)


@pytest.mark.parametrize("value", [3, ["orion"], {}, True])
def test_a_family_that_is_not_a_string(checkpoint: Path, value: object) -> None:
    change_json(checkpoint / "config.json", model_type=value)
    assert "config.json: model_type is " in refusal(checkpoint)


# ------------------------------------------------------------------------------------------------------- never run


class _Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "pytorch_model.bin",
            "pytorch_model.bin: is not a zip archive; if torch before 1.6 wrote it, load it in a",
        ),
        *((name, f"only {name}, which transformers does not load") for name in ("model.pt", "a.00.pth", "last.ckpt")),
    ],
)
def test_a_pickle_is_refused_and_never_opened(checkpoint: Path, tmp_path: Path, name: str, reason: str) -> None:
    (checkpoint / "model.safetensors").rename(tmp_path / "elsewhere")
    marker = tmp_path / "marker"
    (checkpoint / name).write_bytes(pickle.dumps(_Bomb(marker)))
    message = refusal(checkpoint)
    assert reason in message
    assert not marker.exists()
    pickle.loads((checkpoint / name).read_bytes()).close()  # noqa: S301 - the bomb does work
    assert marker.exists()


def test_a_pickle_beside_safetensors_is_ignored(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "marker")))
    open_model(checkpoint)
    assert not (tmp_path / "marker").exists()


# ---------------------------------------------------------------------------------------------------------- shards


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors: missing; the index lists it" in refusal(sharded)


def test_a_link_to_nothing(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors").symlink_to("blobs/gone")
    assert "model.safetensors: cannot be read (No such file" in refusal(checkpoint)


@pytest.mark.parametrize("cut", [1, 1000])
def test_a_truncated_shard(sharded: Path, cut: int) -> None:
    file = sharded / "model-00003-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-cut])
    message = refusal(sharded)
    assert "model-00003-of-00003.safetensors: is cut short" in message
    assert "fetch it again" in message


def test_bytes_after_the_last_tensor(checkpoint: Path) -> None:
    with (checkpoint / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert "model.safetensors: has bytes after its last tensor" in refusal(checkpoint)


def test_a_tensor_stored_twice(sharded: Path) -> None:
    first, second = (sharded / f"model-0000{i}-of-00003.safetensors" for i in (1, 2))
    twice = min(load_file(first))
    save_file({**load_file(second), twice: load_file(first)[twice]}, second)
    message = refusal(sharded)
    assert message.startswith(f"{twice}: stored twice, in {first.name} and {second.name}")


@pytest.mark.parametrize("place", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "a\0b"])
def test_an_index_cannot_name_a_file_elsewhere(sharded: Path, place: str) -> None:
    (sharded.parent / "x.safetensors").write_bytes((sharded / "model-00001-of-00003.safetensors").read_bytes())
    weight_map = read_json(sharded / INDEX)["weight_map"]
    write_json(sharded / INDEX, {"weight_map": {**weight_map, "extra": place}})
    assert re.search("is not a file in the same directory|missing; the index lists it", refusal(sharded))


@pytest.mark.parametrize("index", [{}, {"weight_map": 3}, {"weight_map": {"a": 3}}, {"weight_map": ["a"]}])
def test_an_index_without_a_map(sharded: Path, index: object) -> None:
    write_json(sharded / INDEX, index)
    assert f"{INDEX}: has no weight_map" in refusal(sharded)


def test_an_index_that_is_not_json(sharded: Path) -> None:
    (sharded / INDEX).write_text("{", encoding="utf-8")
    assert f"{INDEX}: cannot be read as JSON" in refusal(sharded)


# --------------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize("size", [0, 7])
def test_a_file_too_short_for_a_header(tmp_path: Path, size: int) -> None:
    (tmp_path / "x").write_bytes(b"\0" * size)
    assert "too short to be a safetensors file" in header_refusal(tmp_path / "x")


@pytest.mark.parametrize("length", [9, 2**40, 2**64 - 1])
def test_a_header_longer_than_the_file(tmp_path: Path, length: int) -> None:
    write_raw(tmp_path / "x", {}, b"123456", length=length)
    assert f"its header claims {length} bytes" in header_refusal(tmp_path / "x")


def test_a_header_longer_than_the_format_allows(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.write(struct.pack("<Q", LARGEST_JSON + 1))
        file.truncate(LARGEST_JSON + 100)
    assert f"its header claims {LARGEST_JSON + 1} bytes" in header_refusal(tmp_path / "x")


@pytest.mark.parametrize("header", [b"{", b"\xff\xff", b"", b"[" * 100_000], ids=["cut", "bytes", "empty", "nested"])
def test_a_header_that_is_not_json(tmp_path: Path, header: bytes) -> None:
    assert "its header cannot be read as JSON" in header_refusal(write_raw(tmp_path / "x", header))


@pytest.mark.parametrize("header", [[], 3, None, "text"])
def test_a_header_that_is_not_an_object(tmp_path: Path, header: object) -> None:
    assert "its header is not a JSON object" in header_refusal(write_raw(tmp_path / "x", header))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": GOOD, "b": entry("F32", [2], [4, 12])}, "b overlaps another tensor or leaves a gap"),
        ({"a": GOOD, "b": GOOD}, "b overlaps another tensor or leaves a gap"),
        ({"a": GOOD, "b": entry("F32", [1], [12, 16])}, "b overlaps another tensor or leaves a gap"),
        ({"a": entry("F32", [2], [4, 12])}, "a overlaps another tensor or leaves a gap"),
        ({"a": entry("F32", [4], [0, 16]), "b": entry("F32", [2], [16, 24])}, "is cut short"),
        ({"a": GOOD}, "has bytes after its last tensor"),
        ({"a": entry("F32", [4], [-4, 12])}, "a has a malformed shape or offsets"),
        ({"a": entry("F32", [2], [0])}, "a has a malformed shape or offsets"),
        ({"a": entry("F32", [2], [0, 8, 16])}, "a has a malformed shape or offsets"),
        ({"a": entry("F32", [2], [0, 8.0])}, "a has a malformed shape or offsets"),
        ({"a": entry("F32", [2], None)}, "a has a malformed shape or offsets"),
        ({"a": entry("F32", 2, [0, 8])}, "a has a malformed shape or offsets"),
        ({"a": entry("F32", [-2, -1], [0, 8])}, "a has a malformed shape or offsets"),
        ({"a": entry("F32", [True, 2], [0, 8])}, "a has a malformed shape or offsets"),
        ({"a": entry("F32", ["2"], [0, 8])}, "a has a malformed shape or offsets"),
        ({"a": entry("F4", [2], [0, 16])}, "a has dtype 'F4'; tensors may be F64, F32, F16, BF16, I64, "),
        ({"a": entry("C64", [2], [0, 16])}, "a has dtype 'C64'"),
        ({"a": entry("float32", [4], [0, 16])}, "a has dtype 'float32'"),
        ({"a": entry(None, [4], [0, 16])}, "a has dtype None"),
        ({"a": entry(["F32"], [4], [0, 16])}, "a has dtype ['F32']"),
        ({"a": entry("F32", [3], [0, 16])}, "a has 16 bytes, which does not match shape [3] and dtype F32"),
        ({"a": entry("BF16", [4], [0, 16])}, "a has 16 bytes, which does not match shape [4] and dtype BF16"),
        ({"a": entry("F32", [4], [16, 0])}, "a has -16 bytes"),
        ({"a": entry("F32", [2**62, 2**62], [0, 16])}, "a has 16 bytes"),
        ({"a": 3}, "the header entry of a is not an object"),
        ({"a": {}}, "a has dtype None"),
    ],
)
def test_a_header_that_disagrees_with_its_bytes(tmp_path: Path, header: object, reason: str) -> None:
    assert reason in header_refusal(write_raw(tmp_path / "x", header, b"\0" * 16))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 20) | st.sampled_from(["F32", "BF16", "a", ""]) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=6,
)
ENTRIES = JSON | st.fixed_dictionaries({"dtype": JSON, "shape": JSON, "data_offsets": JSON})


@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRIES), st.integers(0, 16))
def test_no_header_does_anything_but_open_or_be_refused(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], size: int
) -> None:
    file = write_raw(tmp_path_factory.getbasetemp() / "fuzzed", header, b"\0" * size)
    try:
        found = dict(read_header(file))
    except CheckpointError:
        return
    assert sum(tensor.nbytes for tensor in found.values()) == size
    assert found.keys() == header.keys() - {"__metadata__"}


@given(st.data())
def test_no_damaged_byte_does_anything_but_open_or_be_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    text = bytearray(json.dumps({"a": GOOD, "b": entry("F32", [2, 1], [8, 16])}).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    file = write_raw(tmp_path_factory.getbasetemp() / "damaged", bytes(text), b"\0" * 16)
    try:
        list(read_header(file))
    except CheckpointError as error:
        assert file.name in str(error)  # noqa: PT017 - most damage is refused, some is none


def test_a_file_that_shrinks_after_it_was_opened(checkpoint: Path) -> None:
    tensors = open_checkpoint(checkpoint).tensors
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: ends before its tensors do"):
        tensors["model.norm.weight"].read()
