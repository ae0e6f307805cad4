"""Weights in `.bin` files: the same tensors as in safetensors; pickles that ask for other functions are refused."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner

import kept
from kept.checkpoint.pickled import _checked, read_pickles
from kept.checkpoint.reader import open_checkpoint
from kept.cli.root import main
from kept.commands.check import check
from kept.errors import CheckpointError
from kept.fence import Limits, Worker
from kept.ir.tensors import Stored
from support.models import write_checkpoint
from support.stored import read_json, tensors_of, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

INDEX = "pytorch_model.bin.index.json"

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "baichuan": {"z_loss_weight": 0, "vocab_size": 125, "model_max_length": 128},
    "internlm": {"bias": True},
}
"""Baichuan 2 (normalised head) and InternLM (attention biases); both were published as pickles only."""


def as_pickles(source: Path, out: Path, shards: int = 1) -> Path:
    """Write a copy of a checkpoint with its weights in `.bin` files, by torch.save."""
    out.mkdir()
    (out / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = tensors_of(source)
    if shards == 1:
        torch.save(OrderedDict(tensors), out / "pytorch_model.bin")
        return out
    listed: dict[str, str] = {}
    for part in range(shards):
        file = f"pytorch_model-{part + 1:05}-of-{shards:05}.bin"
        mine = {name: tensors[name] for name in sorted(tensors)[part::shards]}
        torch.save(mine, out / file)
        listed |= dict.fromkeys(mine, file)
    write_json(out / INDEX, {"metadata": {}, "weight_map": listed})
    return out


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("family", SHAPES)
def test_a_checkpoint_is_its_twin_in_safetensors(tmp_path: Path, family: str, shards: int) -> None:
    source = write_checkpoint(tmp_path / "safe" / "source", family, dtype=torch.bfloat16, **SHAPES[family])
    pickled = as_pickles(source, tmp_path / "source", shards)
    (pickled / "training_args.bin").write_bytes(b"x")
    wanted, found = tensors_of(source), open_checkpoint(pickled)
    assert found.left_out == ("training_args.bin",)
    assert len(found.files) == shards
    assert found.tensors.keys() == wanted.keys()
    assert all(isinstance(tensor, Stored) for tensor in found.tensors.values()), "bytes are copied, not computed"
    assert all(torch.equal(found.tensors[name].read(), wanted[name]) for name in wanted)
    outs = [kept.convert(one, tmp_path / f"{number}", verify_tokens=0) for number, one in enumerate((source, pickled))]
    assert (outs[0].path / "model.safetensors").read_bytes() == (outs[1].path / "model.safetensors").read_bytes()
    assert (outs[0].path / "config.json").read_bytes() == (outs[1].path / "config.json").read_bytes()
    assert outs[1].record["source"]["files"].keys() == {"config.json", *(file.name for file in found.files)}
    same = kept.convert(pickled, tmp_path / "same", to="same", verify_tokens=16).path
    assert [file.name for file in same.iterdir() if file.suffix in {".bin", ".safetensors"}] == ["model.safetensors"]
    assert all(torch.equal(tensors_of(same)[name], wanted[name]) for name in wanted)


def test_safetensors_go_before_pickles(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    (source / "pytorch_model.bin").write_bytes(b"never opened")
    found = open_checkpoint(source)
    assert found.files == (source / "model.safetensors",)
    assert found.left_out == ("pytorch_model.bin",)


def test_a_checkpoint_of_pickles_is_checked(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "safe", "llama")
    pickled = as_pickles(source, tmp_path / "source", 2)
    assert check(pickled).verdict == "sound"
    file = pickled / "pytorch_model-00002-of-00002.bin"
    tensors = torch.load(file, weights_only=True)
    name = min(tensors)
    tensors[name].view(-1)[0] = float("nan")
    torch.save(tensors, file)
    assert check(pickled).damage == (f"{file}: {name} holds 1 NaN",)
    listed = read_json(pickled / INDEX)
    write_json(pickled / INDEX, {**listed, "weight_map": {**listed["weight_map"], name: file.name.replace("2-", "1-")}})
    assert any(f"{INDEX}: looks for {name} in" in line for line in check(pickled).damage)


def test_views_of_every_kind(tmp_path: Path) -> None:
    whole = torch.randn(9, 6)
    tensors = {
        "whole": whole,
        "tied": whole,
        "rows": whole[2:5],
        "transposed": whole.T,
        "columns": whole[:, 1:4],
        "every other": whole[::2, ::3],
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "one row": torch.randn(1, 7).T,
        "parameter": torch.nn.Parameter(torch.randn(3).half()),
        "empty": torch.empty(0, 4),
        "double": torch.randn(2).double(),
    }
    torch.save(tensors, tmp_path / "a.bin")
    found = dict(read_pickles([tmp_path / "a.bin"])[tmp_path / "a.bin"])
    assert found.keys() == tensors.keys()
    assert found["whole"] == found["tied"]
    for name, tensor in tensors.items():
        assert torch.equal(found[name].read(), tensor), name
        assert torch.equal(found[name].value("float64"), tensor.double()), name
    in_order = {name for name, tensor in found.items() if isinstance(tensor, Stored)}
    assert in_order == {name for name, tensor in tensors.items() if tensor.is_contiguous()}


# ------------------------------------------------------------------------------------------------ pickles that run code


class _Bomb:
    """An object that runs `touch MARKER` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.system, (f"touch {self.marker}",))


class _Call:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, Any]:
        return self.call


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One fenced process for all tests, because it imports torch."""
    worker = Worker("kept.checkpoint.pickle_worker:Unpickler", limits=Limits(seconds=60, memory=2 << 30))
    yield worker
    worker.close()


def complaint(worker: Worker, file: Path) -> str:
    with pytest.raises(kept.KeptError) as caught:
        worker.call("tensors", str(file))
    message = str(caught.value)
    assert "\n" not in message
    return message


WHERE = {
    "last": lambda bomb: {"a": torch.ones(2), "z": bomb},
    "first": lambda bomb: {"a": bomb, "z": torch.ones(2)},
    "name": lambda bomb: {bomb: torch.ones(2)},
    "alone": lambda bomb: bomb,
    "in a list": lambda bomb: {"a": [torch.ones(2), [bomb]]},
    "in an ordered dict": lambda bomb: OrderedDict(a=torch.ones(2), state=OrderedDict(b=bomb)),
    "beside a state dict": lambda bomb: {"state_dict": {"a": torch.ones(2)}, "args": bomb},
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_trap_is_named_and_not_sprung(worker: Worker, tmp_path: Path, where: str, *, zipped: bool) -> None:
    file, marker = tmp_path / "a.bin", tmp_path / "marker"
    torch.save(WHERE[where](_Bomb(marker)), file, _use_new_zipfile_serialization=zipped)
    said = complaint(worker, file)
    wanted = (
        "a pickle that asks for posix.system, which is not a tensor; nothing in it was run"
        if zipped
        else "is not a zip"
    )
    assert wanted in said
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "the trap does work"


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (_Call(eval, "1"), "eval"),
        (_Call(getattr, [], "append"), "getattr"),
        (_Call(pickle.loads, b"."), "pickle.loads"),
        (_Call(torch.load, "x"), "torch.serialization.load"),
        (_Call(torch.hub.load, "x", "y"), "torch.hub.load"),
    ],
)
def test_whatever_else_is_asked_for_is_named(worker: Worker, tmp_path: Path, call: _Call, named: str) -> None:
    torch.save({"a": call}, tmp_path / "a.bin")
    assert f"a pickle that asks for {named}, which is not a tensor" in complaint(worker, tmp_path / "a.bin")


def test_a_trap_in_one_of_the_shards(tmp_path: Path) -> None:
    source = as_pickles(write_checkpoint(tmp_path / "safe", "llama"), tmp_path / "source", 3)
    file, marker = source / "pytorch_model-00002-of-00003.bin", tmp_path / "marker"
    torch.save({**torch.load(file, weights_only=True), "trap": _Bomb(marker)}, file)
    result = CliRunner().invoke(main, ["plan", str(source)])
    assert result.exit_code == 2
    assert f"{file}: a pickle that asks for posix.system" in result.output
    assert not marker.exists()


# -------------------------------------------------------------------------------------------------------- damaged files


def rewritten(file: Path, *, compressed: str = "", **contents: bytes) -> Path:
    """Rewrite an archive with new contents for some entries, by the last part of their names, or one compressed."""
    with zipfile.ZipFile(file) as archive:
        entries = [(one.filename, archive.read(one)) for one in archive.infolist()]
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries:
            last = name.rsplit("/", 1)[1]
            method = zipfile.ZIP_DEFLATED if last == compressed else zipfile.ZIP_STORED
            archive.writestr(name, contents.get(f"at_{last}".replace(".", "_"), content), method)
    return file


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    torch.save({"a": torch.ones(64), "b": torch.zeros(64)}, tmp_path / "a.bin")
    return tmp_path / "a.bin"


@pytest.mark.parametrize("entry", ["0", "data.pkl"])
def test_a_compressed_entry(worker: Worker, plain: Path, entry: str) -> None:
    assert f"/{entry}), which torch does not write" in complaint(worker, rewritten(plain, compressed=entry))


def test_an_archive_that_grows_when_it_is_read(worker: Worker, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * (200 << 20))
    assert (tmp_path / "a.bin").stat().st_size < 1 << 20
    assert "has a compressed entry (a/data.pkl)" in complaint(worker, tmp_path / "a.bin")


@pytest.mark.parametrize("size", [0, 4, 255, 257, 4096])
def test_a_storage_of_another_size_than_its_entry(worker: Worker, plain: Path, size: int) -> None:
    """torch takes the size from the pickle and reads past the end of the entry."""
    file = rewritten(plain, at_0=b"\0" * size)
    assert len(torch.load(file, weights_only=True, mmap=True)["a"]) == 64
    assert "has tensors that do not match the entries of its zip archive" in complaint(worker, file)


def test_an_object_that_asks_for_memory(worker: Worker, tmp_path: Path) -> None:
    torch.save({"a": _Call(bytearray, 1 << 40)}, tmp_path / "a.bin")
    assert "memory" in complaint(worker, tmp_path / "a.bin")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"PK\x03\x04" + b"\0" * 100, b"version https://git-lfs", b"\x80"]
)
def test_what_is_no_archive(worker: Worker, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    assert complaint(worker, tmp_path / "a.bin").startswith(("is not a zip archive; ", "is damaged ("))


def test_an_operation_that_torch_does_not_know(worker: Worker, plain: Path) -> None:
    """The message must not repeat torch's advice to load the file with weights_only=False."""
    found = complaint(worker, rewritten(plain, at_data_pkl=b"\x80\x020."))
    assert found == "is not a pickle of weights (Unsupported operand 48); nothing in it was run"


@pytest.mark.parametrize("cut", [1, 30, 300, 600])
def test_a_file_that_is_cut_short(worker: Worker, plain: Path, cut: int) -> None:
    plain.write_bytes(plain.read_bytes()[:-cut])
    assert "is damaged (" in complaint(worker, plain)


def test_a_big_endian_file(worker: Worker, plain: Path) -> None:
    assert "was written on a big-endian machine" in complaint(worker, rewritten(plain, at_byteorder=b"big"))


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ({"model": {"a": torch.ones(2)}, "epoch": 3}, "holds dict under 'model' where transformers expects tensors"),
        ({"a": torch.ones(2), "step": 3}, "holds int under 'step' where transformers expects tensors alone"),
        ([torch.ones(2)], "holds list, not a state dict"),
        (torch.ones(2), "holds Tensor, not a state dict"),
        ({3: torch.ones(2)}, "3 is of dtype torch.float32 and layout torch.strided, which is not read"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "'a' is of dtype torch.complex64"),
        ({"a": torch.ones(2).to_sparse()}, "'a' is of dtype torch.float32 and layout torch.sparse_coo"),
    ],
)
def test_what_is_no_state_dict_of_weights(worker: Worker, tmp_path: Path, held: object, reason: str) -> None:
    torch.save(held, tmp_path / "a.bin")
    assert reason in complaint(worker, tmp_path / "a.bin")


def test_elements_that_are_read_more_than_once(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(1 << 40)}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=r"a\.bin: a is a view with repeated elements"):
        read_pickles([tmp_path / "a.bin"])


@pytest.mark.parametrize(
    "row",
    [
        ["a", "F32", [2], [1], 93],
        ["a", "F32", [2], [1], -4],
        ["a", "F32", [2], [1 << 40], 0],
        ["a", "F32", [2], [-1], 50],
        ["a", "F32", [2, 2], [1], 0],
        ["a", "F32", [1 << 40, 1 << 40], [1, 1], 0],
        ["a", "F32", [2.0], [1], 0],
        ["a", "X32", [2], [1], 0],
        ["a", "F32", [2], [1]],
        ["a", "F32", [1] * 65, [1] * 65, 0],
        [3, "F32", [2], [1], 0],
        "a",
        None,
    ],
)
def test_what_the_process_says_is_checked(tmp_path: Path, row: object) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match=r"a\.bin: "):
        _checked(file, 100, [row])
    assert _checked(file, 100, [["a", "F32", [2], [1], 92]]) == (("a", Stored((2,), "F32", file, 92)),)
