"""Writing: the bytes of the format's own writer, streamed, all or nothing, and resumed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import kept
from kept.checkpoint import byte_stream
from kept.checkpoint.byte_stream import digest
from kept.checkpoint.json_file import to_json
from kept.checkpoint.safetensors_header import read_header
from kept.checkpoint.safetensors_writer import Shard, index, shards
from kept.checkpoint.staging import JOURNAL, Staging, staging
from kept.errors import OutputError
from kept.ir.tensors import Computed, InMemory, Stored, torch_dtype, zeros
from kept.ir.tensors import lazy as ir_tensors
from support.logits import some_tokens, stock_logits
from support.models import frequencies, write_checkpoint
from support.stored import INDEX, all_bytes, change_json, read_json, split_into_shards, tensors_of, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


HERE: Mapping[str, object] = {"made": "by a test"}


def silent(_: int) -> None:
    """Progress that nobody watches."""


def given_tensor(*shape: int, dtype: str = "F32", seed: int = 0) -> InMemory:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return InMemory(shape, dtype, values)


def stored_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Stored]:
    save_file(tensors, file, metadata={"format": "pt"})
    return dict(read_header(file))


def doubled(rows: torch.Tensor) -> torch.Tensor:
    return 2 * rows


def write_out(target: Path, parts: list[Shard]) -> None:
    with staging(target, HERE) as stage:
        for part in parts:
            stage.write_shard(part, silent)
        stage.publish()


# ----------------------------------------------------------------------------------------------------- the same bytes


def test_a_stock_checkpoint_is_written_back_as_the_same_file(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "llama", "llama")
    out = kept.convert(source, tmp_path / "out").path
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_so_are_half_precision_ones(tmp_path: Path, dtype: torch.dtype) -> None:
    source = write_checkpoint(tmp_path / "llama", "llama", dtype=dtype)
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_shards_that_do_not_change_keep_their_files(tmp_path: Path) -> None:
    source = split_into_shards(write_checkpoint(tmp_path / "llama", "llama"), 3)
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    for file in source.glob("*.safetensors"):
        assert (out / file.name).read_bytes() == file.read_bytes()
    assert read_json(out / INDEX)["weight_map"] == read_json(source / INDEX)["weight_map"]
    assert torch.equal(stock_logits(out, some_tokens()), stock_logits(source, some_tokens()))


@pytest.mark.parametrize("by", ["index", "config"])
def test_a_file_of_another_name_becomes_one_that_stock_tools_look_for(tmp_path: Path, by: str) -> None:
    source = write_checkpoint(tmp_path / "llama", "llama")
    (source / "model.safetensors").rename(source / "weights.safetensors")
    if by == "index":
        write_json(source / INDEX, {"weight_map": dict.fromkeys(tensors_of(source), "weights.safetensors")})
    else:
        change_json(source / "config.json", transformers_weights="weights.safetensors")
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    assert [file.name for file in out.glob("*.safetensors*")] == ["model.safetensors"]
    assert (out / "model.safetensors").read_bytes() == (source / "weights.safetensors").read_bytes()
    assert "transformers_weights" not in read_json(out / "config.json")


def test_shards_that_the_config_names_are_not_hidden_by_their_names(tmp_path: Path) -> None:
    source = split_into_shards(write_checkpoint(tmp_path / "llama", "llama"), 2)
    (source / "model-00001-of-00002.safetensors").rename(source / "model.safetensors")
    names = {"model-00001-of-00002.safetensors": "model.safetensors"}
    listed = {tensor: names.get(file, file) for tensor, file in read_json(source / INDEX)["weight_map"].items()}
    write_json(source / "all.safetensors.index.json", {"metadata": {}, "weight_map": listed})
    change_json(source / "config.json", transformers_weights="all.safetensors.index.json")
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    assert tensors_of(out).keys() == listed.keys()
    AutoModelForCausalLM.from_pretrained(out)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "np"}, {"format": "tf"}, {"made": "by hand"}])
@pytest.mark.parametrize("count", [1, 2])
def test_a_file_of_no_format_that_transformers_takes_gets_one(
    tmp_path: Path, count: int, metadata: dict[str, str] | None
) -> None:
    """transformers 4.45 and 4.57 refuse a file without a format and treat `tf` as a TensorFlow file."""
    source = write_checkpoint(tmp_path / "llama", "llama")
    if count > 1:
        split_into_shards(source, count)
    for file in source.glob("*.safetensors"):
        save_file(load_file(file), file, metadata=metadata)
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    files = sorted(out.glob("*.safetensors"))
    assert [file.name for file in files] == sorted(file.name for file in source.glob("*.safetensors"))
    for file in files:
        with safe_open(file, "pt") as opened:
            assert opened.metadata()["format"] == "pt"
    before, after = tensors_of(source), tensors_of(out)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_the_model_does_not_use_is_not_carried_along(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "llama", "llama")
    before = (source / "model.safetensors").read_bytes()
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": frequencies()}
    save_file({**tensors_of(source), **buffer}, source / "model.safetensors", metadata={"format": "pt"})
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    assert (out / "model.safetensors").read_bytes() == before


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda n: n != "__metadata__")
SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)


@given(st.dictionaries(NAMES, st.tuples(SHAPES, st.sampled_from(["F64", "F32", "BF16"])), min_size=1, max_size=6))
def test_any_shard_is_what_the_format_s_own_writer_writes(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, tuple[tuple[int, ...], str]]
) -> None:
    directory = tmp_path_factory.mktemp("shard")
    tensors = {name: given_tensor(*shape, dtype=dtype) for name, (shape, dtype) in made.items()}
    theirs = {name: tensor.values.to(torch_dtype(tensor.dtype)) for name, tensor in tensors.items()}
    save_file(theirs, directory / "theirs", metadata={"format": "pt"})
    write_out(directory / "ours", shards(tensors))
    assert (directory / "ours" / "model.safetensors").read_bytes() == (directory / "theirs").read_bytes()


def test_a_header_is_padded_so_that_tensors_begin_at_eight_bytes() -> None:
    for length in range(1, 10):
        header = Shard("x", (("n" * length, given_tensor(2)),)).header()
        (size,) = struct.unpack("<Q", header[:8])
        assert len(header) == 8 + size
        assert size % 8 == 0
        assert list(json.loads(header[8:])) == ["__metadata__", "n" * length]


def test_wider_dtypes_come_first_then_names_in_order() -> None:
    tensors = {"b": given_tensor(1, dtype="BF16"), "c": given_tensor(1), "a": given_tensor(1, dtype="BF16")}
    (part,) = shards({**tensors, "d": given_tensor(1, dtype="F64")})
    assert [name for name, _ in part.tensors] == ["d", "c", "a", "b"]


# ------------------------------------------------------------------------------------------------------------- shards


def test_one_shard_needs_no_index_and_no_number() -> None:
    parts = shards({"a": given_tensor(4)})
    assert [part.name for part in parts] == ["model.safetensors"]
    assert index(parts) is None


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 80))
def test_shards_hold_everything_once_in_order_and_within_the_limit(sizes: list[int], limit: int) -> None:
    tensors = {f"t{i:02}": zeros((size,), "F32") for i, size in enumerate(sizes)}
    parts = shards(tensors, limit)
    assert [name for part in parts for name, _ in part.tensors] == [*tensors]
    for part in parts:
        assert part.nbytes <= limit or len(part.tensors) == 1
        assert part.nbytes == sum(tensor.nbytes for _, tensor in part.tensors)
    for left, right in pairwise(parts):
        assert left.nbytes + right.tensors[0][1].nbytes > limit, "the next tensor would have fitted"
    if len(parts) > 1:
        total = len(parts)
        assert [part.name for part in parts] == [f"model-{i:05}-of-{total:05}.safetensors" for i in range(1, total + 1)]


def test_a_shard_may_be_exactly_as_large_as_the_limit() -> None:
    tensors = {name: zeros((2,), "F32") for name in "abcd"}
    assert [part.nbytes for part in shards(tensors, 16)] == [16, 16]
    assert [part.nbytes for part in shards(tensors, 15)] == [8, 8, 8, 8]


def test_the_index_names_every_tensor_s_file() -> None:
    parts = shards({name: zeros((4,), "F32") for name in "cab"}, 16)
    listed = index(parts)
    assert listed is not None
    assert json.loads(listed) == {
        "metadata": {"total_size": 48},
        "weight_map": {
            "a": "model-00002-of-00003.safetensors",
            "b": "model-00003-of-00003.safetensors",
            "c": "model-00001-of-00003.safetensors",
        },
    }


def test_a_sharded_output_loads_in_transformers(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "qwen2", "qwen2")
    whole = kept.convert(source, tmp_path / "whole", verify_tokens=0).path
    parts = kept.convert(source, tmp_path / "parts", max_shard_size="50KB", verify_tokens=0).path
    files = sorted(parts.glob("*.safetensors"))
    assert len(files) > 3
    assert {file.name for file in files} == set(read_json(parts / INDEX)["weight_map"].values())
    tokens = some_tokens()
    assert torch.equal(stock_logits(parts, tokens), stock_logits(whole, tokens))


# ---------------------------------------------------------------------------------------------------------- streaming


def test_blocks_of_rows_give_the_bytes_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "stablelm", "stablelm")
    whole = kept.convert(source, tmp_path / "whole", verify_tokens=0).path
    monkeypatch.setattr(ir_tensors, "BLOCK_ELEMENTS", 16 * 64)
    blocks = kept.convert(source, tmp_path / "blocks", verify_tokens=0).path
    assert all_bytes(whole) == all_bytes(blocks)


@pytest.mark.parametrize("elements", [1, 7 * 64 + 5, 1 << 20])
def test_bytes_do_not_depend_on_how_large_blocks_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    source = write_checkpoint(tmp_path / "orion", "orion", dtype=torch.bfloat16)
    whole = kept.convert(source, tmp_path / "whole", verify_tokens=0).path
    monkeypatch.setattr(ir_tensors, "BLOCK_ELEMENTS", elements)
    blocks = kept.convert(source, tmp_path / "blocks", verify_tokens=0).path
    assert all_bytes(whole) == all_bytes(blocks)


def test_nor_on_how_many_threads_there_are(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "orion", "orion")
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(kept.convert(source, tmp_path / str(threads), verify_tokens=0).path)
            assert torch.get_num_threads() == threads, "they are given back"
    finally:
        torch.set_num_threads(before)
    assert all_bytes(made[0]) == all_bytes(made[1])


def test_rows_are_asked_for_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def watched(rows: torch.Tensor) -> torch.Tensor:
        asked.append(rows.shape[0])
        return 2 * rows

    source = stored_tensors(tmp_path / "source", {"a": torch.randn(10, 4)})["a"]
    monkeypatch.setattr(ir_tensors, "BLOCK_ELEMENTS", 12)
    write_out(tmp_path / "out", shards({"a": Computed((10, 4), "F32", watched, (source,), local=True)}))
    assert asked == [3, 3, 3, 1]
    written = load_file(tmp_path / "out" / "model.safetensors")["a"]
    assert torch.equal(written, 2 * source.read())


def test_a_row_larger_than_a_block_is_written_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ir_tensors, "BLOCK_ELEMENTS", 2)
    source = stored_tensors(tmp_path / "source", {"a": torch.randn(3, 4)})["a"]
    write_out(tmp_path / "out", shards({"a": Computed((3, 4), "F32", doubled, (source,), local=True)}))
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["a"], 2 * source.read())


def test_a_tensor_whose_rows_are_mixed_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def turned(matrix: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return matrix.flip(0)

    monkeypatch.setattr(ir_tensors, "BLOCK_ELEMENTS", 4)
    source = stored_tensors(tmp_path / "source", {"a": torch.randn(6, 4)})["a"]
    write_out(tmp_path / "out", shards({"a": Computed((6, 4), "F32", turned, (source,))}))
    assert calls == [1]
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["a"], source.read().flip(0))


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    source = stored_tensors(tmp_path / "source", {"a": torch.randn(50, 4), "b": torch.randn(7)})
    tensors = {**source, "c": Computed((50, 4), "F32", doubled, (source["a"],), local=True), "d": zeros((9,), "BF16")}
    (part,) = shards(tensors)
    done: list[int] = []
    with staging(tmp_path / "out", HERE) as stage:
        stage.write_shard(part, done.append)
        assert sum(done) == part.nbytes
        stage.write_shard(part, done.append)
        assert sum(done) == 2 * part.nbytes, "a shard that was there counts as done"


# -------------------------------------------------------------------------------------------------------------- copied


@pytest.fixture
def unchanged(tmp_path: Path) -> dict[str, Stored]:
    values = {"a": torch.randn(300, 40), "b": torch.randn(17), "c": torch.randn(5, 5)}
    return stored_tensors(tmp_path / "source", {**values, "d": torch.randn(64).bfloat16()})


def test_a_conversion_computes_nothing_that_it_does_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "llama", "llama")
    for reads in ("rows", "reader", "read_into"):
        monkeypatch.setattr(Stored, reads, lambda *_: pytest.fail("a weight was read as numbers"))
    kept.convert(source, tmp_path / "out", verify_tokens=0)


def test_a_source_that_shrinks_during_the_copy_is_an_error(tmp_path: Path, unchanged: dict[str, Stored]) -> None:
    os.truncate(tmp_path / "source", 1000)
    with pytest.raises(OutputError, match="source: ended early; did it change during the run"):
        write_out(tmp_path / "out", shards(unchanged))
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------ all or nothing


def hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.kept-partial")


@pytest.fixture
def parts() -> list[Shard]:
    return shards({f"t{i}": given_tensor(8, seed=i) for i in range(4)}, 32)


class Crash(Exception):  # noqa: N818 - it is what happens, not what is wrong
    """The power goes."""


def crash_during(target: Path, parts: list[Shard], after: int) -> None:
    """A run that dies while it writes shard number `after`."""

    def dies(done: int) -> None:
        raise Crash

    with suppress(Crash), staging(target, HERE) as stage:
        for part in parts[:after]:
            stage.write_shard(part, silent)
        stage.write_shard(parts[after], dies)
        pytest.fail("it went on")


@pytest.mark.parametrize("after", range(4))
def test_a_crash_leaves_nothing_under_the_name(tmp_path: Path, parts: list[Shard], after: int) -> None:
    target = tmp_path / "out"
    crash_during(target, parts, after)
    assert not target.exists()
    left = {part.name for part in parts[:after]} | {JOURNAL} if after else set()
    assert {file.name for file in hidden(target).glob("*")} == left, "finished shards, which the next run can use"


@pytest.mark.parametrize("after", range(4))
def test_the_same_run_continues_and_ends_with_the_same_bytes(tmp_path: Path, parts: list[Shard], after: int) -> None:
    target = tmp_path / "out"
    crash_during(target, parts, after)
    before = {part.name: (hidden(target) / part.name).stat() for part in parts[:after]}
    write_out(target, parts)
    for name, stat in before.items():
        now = (target / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns), f"{name} was written again"
    write_out(tmp_path / "uninterrupted", parts)
    assert all_bytes(target) == all_bytes(tmp_path / "uninterrupted")
    assert not hidden(target).exists()


def test_a_finished_shard_that_was_damaged_since_is_written_again(tmp_path: Path, parts: list[Shard]) -> None:
    target = tmp_path / "out"
    crash_during(target, parts, 2)
    with (hidden(target) / parts[0].name).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    (hidden(target) / "vocab.json").write_text("of a source that had one", encoding="utf-8")
    write_out(target, parts)
    write_out(tmp_path / "uninterrupted", parts)
    assert all_bytes(target) == all_bytes(tmp_path / "uninterrupted")


def test_another_run_begins_anew(tmp_path: Path, parts: list[Shard]) -> None:
    target = tmp_path / "out"
    crash_during(target, parts, 2)
    (hidden(target) / "folder").mkdir()
    with staging(target, {"made": "otherwise"}) as stage:
        assert [file.name for file in stage.path.iterdir()] == [JOURNAL]
        assert read_json(stage.path / JOURNAL) == {"made": "otherwise"}


def test_a_damaged_journal_begins_anew(tmp_path: Path, parts: list[Shard]) -> None:
    target = tmp_path / "out"
    crash_during(target, parts, 2)
    os.truncate(hidden(target) / JOURNAL, 5)
    with staging(target, HERE) as stage:
        assert [file.name for file in stage.path.iterdir()] == [JOURNAL]


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path, parts: list[Shard]) -> None:
    target = tmp_path / "out"
    with staging(target, HERE) as stage:
        stage.write_shard(parts[0], silent)
        with pytest.raises(OutputError, match="out: another run is writing it"), staging(target, {"other": 1}):
            pytest.fail("two runs wrote one output")
        assert (stage.path / parts[0].name).exists(), "the refused run must not empty what the first has done"
    with staging(target, HERE):
        pass


def test_the_lock_of_a_process_that_died_is_gone(tmp_path: Path) -> None:
    target = tmp_path / "out"
    hidden(target).mkdir()
    child = os.fork()
    if child == 0:
        with (hidden(target) / JOURNAL).open("a") as journal:
            fcntl.flock(journal, fcntl.LOCK_EX)
            os._exit(0)
    os.waitpid(child, 0)
    with staging(target, HERE) as stage:
        stage.publish()
    assert target.is_dir()


@pytest.mark.parametrize("kind", ["directory", "file", "link to nothing"])
def test_an_existing_target_is_refused(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    makes: dict[str, Callable[[], object]] = {
        "directory": target.mkdir,
        "file": lambda: target.write_text("mine", encoding="utf-8"),
        "link to nothing": lambda: target.symlink_to("nowhere"),
    }
    makes[kind]()
    with (
        pytest.raises(OutputError, match="out: exists already; choose another output, or --force"),
        staging(target, {}),
    ):
        pytest.fail("something was there")
    assert not hidden(target).exists()


def test_a_target_that_appears_meanwhile_is_not_overwritten(tmp_path: Path, parts: list[Shard]) -> None:
    target = tmp_path / "out"
    with staging(target, HERE) as stage:
        stage.write_shard(parts[0], silent)
        target.mkdir()
        with pytest.raises(OutputError, match="out: appeared while the conversion ran; the result is in"):
            stage.publish()
    assert [*target.iterdir()] == []
    target.rmdir()
    with staging(target, HERE) as stage:
        assert (stage.path / parts[0].name).exists(), "what was done is still there for the next run"


def test_missing_parents_are_made(tmp_path: Path, parts: list[Shard]) -> None:
    write_out(tmp_path / "a" / "b" / "out", parts)
    assert len([*(tmp_path / "a" / "b" / "out").glob("*.safetensors")]) == len(parts)


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with (
        pytest.raises(OutputError, match=r"file/out: cannot be written, .+ is not a directory"),
        staging(tmp_path / "file/out", HERE),
    ):
        pytest.fail("it is not a directory")


def refuses(number: int) -> Callable[..., Any]:
    def cannot(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return cannot


def test_a_parent_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "mkdir", refuses(errno.EROFS))
    cannot = pytest.raises(OutputError, match=r"out: cannot be written \(Read-only file system\)")
    with cannot, staging(tmp_path / "out", HERE):
        pytest.fail("nothing can be written there")


@pytest.mark.parametrize("place", ["write", "fsync"], ids=["a write", "the flush that finds the disk full"])
def test_a_full_disk_leaves_nothing_under_the_name(
    tmp_path: Path, unchanged: dict[str, Stored], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, place, refuses(errno.ENOSPC))
        with pytest.raises(OutputError, match=r"out: cannot be written \(No space left on device\); free space"):
            write_out(tmp_path / "out", shards(unchanged))
    assert not (tmp_path / "out").exists()
    write_out(tmp_path / "out", shards(unchanged))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "source").read_bytes()


def test_a_disk_that_fills_up_while_this_process_writes(
    tmp_path: Path, parts: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = byte_stream.raw
    calls = [0]

    def third_fails(block: torch.Tensor) -> memoryview:
        calls[0] += 1
        if calls[0] == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(block)

    monkeypatch.setattr(byte_stream, "raw", third_fails)
    with pytest.raises(OutputError, match="No space left on device"):
        write_out(tmp_path / "out", parts)
    assert not (tmp_path / "out").exists()
    write_out(tmp_path / "out", parts)
    assert len([*(tmp_path / "out").glob("*.safetensors")]) == 4


def test_a_file_is_on_the_disk_as_a_whole_before_it_has_its_name(
    tmp_path: Path, parts: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[str, int] = {}
    original = os.fsync

    def noted(opened: int) -> None:
        path = str(Path(f"/proc/self/fd/{opened}").readlink())
        synced[path] = os.fstat(opened).st_size
        original(opened)

    monkeypatch.setattr(os, "fsync", noted)
    write_out(tmp_path / "out", parts)
    for part in parts:
        unnamed = hidden(tmp_path / "out") / f"{part.name}.part"
        assert synced[str(unnamed)] == (tmp_path / "out" / part.name).stat().st_size
    assert {str(hidden(tmp_path / "out")), str(tmp_path)} <= synced.keys(), "both renames are on the disk too"


def test_nothing_but_the_output_is_left(tmp_path: Path, parts: list[Shard]) -> None:
    write_out(tmp_path / "out", parts)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {part.name for part in parts}


# -------------------------------------------------------------------------------------------------------------- helpers


def test_small_files_and_whole_copies(tmp_path: Path) -> None:
    (tmp_path / "licence").write_bytes(b"words\n" * 1000)
    (tmp_path / "empty").write_bytes(b"")
    stage = Staging(tmp_path, tmp_path / "out")
    stage.write("card", b"text")
    stage.copy("copied", tmp_path / "licence")
    stage.copy("nothing", tmp_path / "empty")
    assert (tmp_path / "card").read_bytes() == b"text"
    assert (tmp_path / "copied").read_bytes() == b"words\n" * 1000
    assert (tmp_path / "nothing").read_bytes() == b""


def test_a_digest_is_the_sha256_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(tmp_path / "x") == wanted


def test_json_is_as_checkpoints_have_it() -> None:
    assert to_json({"b": "é", "a": 1}) == '{\n  "b": "é",\n  "a": 1\n}\n'.encode()


def test_the_source_is_left_as_it_was(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "orion", "orion")
    before = all_bytes(source)
    kept.convert(source, tmp_path / "out", verify_tokens=0)
    assert all_bytes(source) == before
