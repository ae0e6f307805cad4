"""The weight files of a model: exactly those that transformers loads."""

from __future__ import annotations

from itertools import chain, combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import _get_resolved_checkpoint_files

import kept
from kept.checkpoint.reader import open_checkpoint
from kept.checkpoint.safetensors_header import read_header
from kept.checkpoint.weights import NAMED, PREFERRED, find_weights
from kept.cli.root import main
from kept.errors import CheckpointError
from support.logits import some_tokens, stock_logits
from support.models import write_checkpoint
from support.stored import entry, read_json, split_into_shards, tensors_of, write_json, write_raw

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBSETS = [*chain.from_iterable(combinations(PREFERRED, count) for count in range(1, 5))]

BESIDE = ("adapter_model.safetensors", "consolidated.safetensors", "consolidated.00.pth", "model.gguf", "optimizer.pt")


def theirs(directory: Path, named: str | None = None) -> list[Path]:
    """Return the weight files that transformers finds in a directory."""
    files, _ = _get_resolved_checkpoint_files(directory, None, None, None, None, False, named)
    return [*map(Path, files or ())]


def lay_out(directory: Path, names: Sequence[str]) -> Path:
    """Write files with these names; an index lists two shards."""
    for name in (*names, *BESIDE, "model.fp16.safetensors"):
        if not name.endswith(".index.json"):
            (directory / name).touch()
            continue
        stem, suffix = name.removesuffix(".index.json").rsplit(".", 1)
        shards = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
        write_json(directory / name, {"metadata": {}, "weight_map": dict(zip("ab", shards, strict=True))})
        for shard in shards:
            (directory / shard).touch()
    return directory


@pytest.mark.parametrize("names", SUBSETS, ids=" ".join)
def test_the_files_are_those_that_transformers_resolves(tmp_path: Path, names: Sequence[str]) -> None:
    found = find_weights(lay_out(tmp_path, names))
    assert [*found.files] == theirs(tmp_path)


@pytest.mark.parametrize("named", ["model.fp16.safetensors", "model.safetensors.index.json"])
def test_a_file_that_the_config_names_goes_before_all(tmp_path: Path, named: str) -> None:
    lay_out(tmp_path, PREFERRED)
    assert [*find_weights(tmp_path, {NAMED: named}).files] == theirs(tmp_path, named)


@pytest.mark.parametrize("named", ["../x.safetensors", "/x.safetensors", "a.bin", 3, ["a"], "sub/x.safetensors", "x\n"])
def test_a_name_in_the_config_that_leads_elsewhere(tmp_path: Path, named: object) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: transformers_weights is .*, which is n"):
        find_weights(lay_out(tmp_path, PREFERRED), {NAMED: named})


def test_files_beside_the_model_are_named_and_not_read(tmp_path: Path) -> None:
    source, out = write_checkpoint(tmp_path / "source", "llama"), tmp_path / "out"
    adapter = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 64)}
    save_file(adapter, source / "adapter_model.safetensors")
    save_file({"tok_embeddings.weight": torch.zeros(97, 64)}, source / "consolidated.safetensors")
    (source / "original").mkdir()
    (source / "original" / "consolidated.00.pth").touch()
    names = ["adapter_model.safetensors", "consolidated.safetensors", "original/"]
    said = f"{source}: neither read nor copied: {', '.join(names)}"
    for command in (["plan", source], ["convert", source, out, "--dry-run"], ["convert", source, out]):
        result = CliRunner().invoke(main, [*map(str, command)])
        assert result.exit_code == 0, result.output
        assert said in result.stderr.splitlines()
    assert read_json(out / "kept.json")["source"]["left_out"] == names
    assert [file.name for file in out.glob("*.safetensors")] == ["model.safetensors"]
    tokens = some_tokens()
    assert torch.equal(stock_logits(out, tokens), stock_logits(source, tokens))


def test_nothing_beside_is_nothing_said(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    assert CliRunner().invoke(main, ["plan", str(source)]).stderr == ""
    done = kept.convert(source, tmp_path / "out", verify_tokens=0)
    assert done.notes == ()
    assert "left_out" not in done.record["source"]


def test_a_single_file_goes_before_an_index(tmp_path: Path) -> None:
    """Shards of an older version in the same directory are ignored."""
    source = write_checkpoint(tmp_path / "source", "llama", seed=1)
    wanted = tensors_of(source)
    whole = (source / "model.safetensors").read_bytes()
    split_into_shards(write_checkpoint(source, "llama", seed=2), 2)
    (source / "model.safetensors").write_bytes(whole)
    assert open_checkpoint(source).files == (source / "model.safetensors",)
    stock = AutoModelForCausalLM.from_pretrained(source).state_dict()
    assert all(torch.equal(stock[name], tensor) for name, tensor in wanted.items())
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    assert all(torch.equal(tensors_of(out)[name], tensor) for name, tensor in wanted.items())


MASKS = {"gpt_neox": "gpt_neox.layers.0.attention.bias", "gpt2": "transformer.h.0.attn.bias"}


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "generation_config.json"])
def test_what_git_lfs_has_not_fetched_is_named(tmp_path: Path, name: str) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    (source / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        kept.convert(source, tmp_path / "out")
    assert str(caught.value) == f"{source / name}: is a git-lfs pointer, not the file itself; run git lfs pull"


@pytest.mark.parametrize("family", MASKS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_masks_of_older_checkpoints_are_passed_over(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    source = write_checkpoint(tmp_path / "source", family)
    wanted = tensors_of(source)
    mask = {MASKS[family]: torch.ones(1, 1, 8, 8, dtype=dtype)}
    save_file({**wanted, **mask}, source / "model.safetensors", metadata={"format": "pt"})
    out = kept.convert(source, tmp_path / "out", to="same", verify_tokens=0).path
    assert tensors_of(out).keys() == wanted.keys()


def test_a_weight_of_whole_numbers_is_named(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = tensors_of(source)
    save_file({**tensors, name: tensors[name].to(torch.int8)}, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{name}: has dtype I8; supported dtypes of weights are F64, F32"):
        kept.open_model(source)


def test_millions_of_entries_are_refused_before_they_are_read(tmp_path: Path) -> None:
    """Parsing the 100 MB that a header may have would take gigabytes of memory."""
    source = write_checkpoint(tmp_path / "source", "llama")
    entries = ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(200_000))
    (source / "model.safetensors").unlink()
    write_raw(source / "model.safetensors", f"{{{entries}}}".encode())
    with pytest.raises(CheckpointError, match=r"as JSON \(it has about 1400000 values, more than 1048576\)"):
        open_checkpoint(source)
    listed = ",".join(f'"{i}":"model.safetensors"' for i in range(1_100_000))
    (source / "model.safetensors").rename(source / "other.safetensors")
    (source / "model.safetensors.index.json").write_text(f'{{"weight_map":{{{listed}}}}}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"index\.json: cannot be read as JSON \(it has about 1100001 values"):
        open_checkpoint(source)


def test_as_many_tensors_as_any_model_has_are_read(tmp_path: Path) -> None:
    """30,000 tensors per file is more than mixtures of experts have."""
    file = write_raw(tmp_path / "x", {str(i): entry("F32", [0], [0, 0]) for i in range(30_000)})
    assert len(dict(read_header(file))) == 30_000


@pytest.mark.parametrize("content", [b"[" * 50_000_000, b'{"a":' * 10_000_000, b"[[],[]" + b",[]" * 30_000_000])
def test_json_without_depth_or_end_is_one_line(tmp_path: Path, content: bytes) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    (source / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read as JSON \(it has about \d+ values"):
        open_checkpoint(source)
