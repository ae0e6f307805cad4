"""`kept check`: what is whole is called sound, and each way to be damaged has its line."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import kept
from kept.checkpoint.nonfinite import BLOCK_BYTES, NonFinite, first_not_finite, not_finite
from kept.checkpoint.safetensors_header import read_header
from kept.cli.root import main
from kept.commands.check import check
from kept.errors import CheckpointError
from support.models import write_checkpoint
from support.stored import (
    INDEX,
    change_json,
    entry,
    read_json,
    split_into_shards,
    write_json,
    write_raw,
    write_readable,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def orion(tmp_path: Path) -> Path:
    return write_readable(tmp_path / "orion", "orion")


@pytest.fixture
def out(tmp_path: Path, orion: Path) -> Path:
    return kept.convert(orion, tmp_path / "out", verify_tokens=0).path


def damage(path: Path) -> str:
    """The one thing that is wrong, by the function and by the command, which ends with exit code 2."""
    found = check(path)
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 2
    assert all("\n" not in line for line in found.damage)
    assert result.stdout.splitlines()[-1] == found.verdict == "damaged: 1 finding"
    (line,) = found.damage
    assert f"  {line}\n" in result.stdout
    assert result.stderr.splitlines()[-1] == f"kept: {path}: damaged: 1 finding"
    return line


def change(file: Path, name: str, **values: float) -> None:
    """Overwrite elements of a tensor: `at_3=1.0`."""
    tensors = load_file(file)
    for key, value in values.items():
        tensors[name].view(-1)[int(key.removeprefix("at_"))] = value
    save_file(tensors, file)


# ------------------------------------------------------------------------------------------------------------- sound


def test_a_source_is_sound(orion: Path) -> None:
    found = check(orion)
    assert (found.damage, found.verdict, found.family, found.summed) == ((), "sound", "orion", 0)
    assert found.tensors == len(load_file(orion / "model.safetensors"))
    assert found.remarks == ("no kept.json: there are no sums to compare with",)


def test_an_output_is_sound_and_all_its_files_are_summed(out: Path) -> None:
    found = check(out)
    assert (found.damage, found.remarks) == ((), ())
    assert found.summed == len(list(out.iterdir())) - 1, "all but kept.json itself"


def test_shards_are_sound(orion: Path) -> None:
    assert check(split_into_shards(orion, 3)).damage == ()


def test_the_command_states_it_in_words_and_as_data(out: Path) -> None:
    result = CliRunner().invoke(main, ["check", str(out)])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "sound"
    found = json.loads(CliRunner().invoke(main, ["check", str(out), "--json"]).stdout)
    assert (found["verdict"], found["damage"], found["family"]) == ("sound", [], "llama")


def test_damage_as_data(orion: Path) -> None:
    change(orion / "model.safetensors", "model.norm.weight", at_0=float("nan"))
    result = CliRunner().invoke(main, ["check", str(orion), "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)["damage"] == [f"{orion}/model.safetensors: model.norm.weight holds 1 NaN"]


def test_what_is_no_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: is not a directory"):
        check(tmp_path / "nowhere")
    result = CliRunner().invoke(main, ["check", str(tmp_path / "nowhere")])
    assert (result.exit_code, result.stdout) == (2, "")


def test_no_tokenizer_is_a_remark(tmp_path: Path) -> None:
    found = check(write_checkpoint(tmp_path, "llama"))
    assert found.damage == ()
    assert any(line.startswith("none of tokenizer.json") for line in found.remarks)


def test_an_unknown_family_is_a_remark(orion: Path) -> None:
    change_json(orion / "config.json", model_type="rwkv")
    found = check(orion)
    assert found.damage == ()
    assert found.remarks[0].startswith("model_type 'rwkv' is not a family that kept reads")


# ----------------------------------------------------------------------------------------------------------- finite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_is_nan_is_counted(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(3, 1000).to(dtype)
    values.view(-1)[[1, 70]], values.view(-1)[[0, 999, 2999]] = float("nan"), -float("inf")
    values.view(-1)[5], values.view(-1)[6] = torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal / 2
    save_file({"fine": values[1, :900].clone(), "x": values}, tmp_path / "x")
    tensors = dict(read_header(tmp_path / "x"))
    assert not not_finite(tensors["fine"])
    assert not_finite(tensors["x"]) == NonFinite(nan=2, infinite=3)
    assert str(not_finite(tensors["x"])) == "2 NaN and 3 infinite"
    assert first_not_finite(tensors) == ("x", tmp_path / "x", NonFinite(2, 3))


def test_blocks_are_joined(tmp_path: Path) -> None:
    values = torch.zeros(BLOCK_BYTES // 4 * 2 + 1)
    values[[0, BLOCK_BYTES // 4, -1]] = float("inf")
    save_file({"x": values}, tmp_path / "x")
    seen: list[int] = []
    assert not_finite(dict(read_header(tmp_path / "x"))["x"], seen.append) == NonFinite(0, 3)
    assert sum(seen) == values.nbytes
    assert len(seen) == 3


def test_every_tensor_that_holds_one_has_a_line(orion: Path) -> None:
    change(orion / "model.safetensors", "model.norm.weight", at_0=float("nan"), at_3=float("inf"))
    change(orion / "model.safetensors", "lm_head.weight", at_7=float("nan"))
    lines = check(orion).damage
    assert sorted(lines) == [
        f"{orion}/model.safetensors: lm_head.weight holds 1 NaN",
        f"{orion}/model.safetensors: model.norm.weight holds 1 NaN and 1 infinite",
    ]


def test_a_conversion_names_the_tensor_that_holds_one(orion: Path, tmp_path: Path) -> None:
    change(orion / "model.safetensors", "model.layers.1.mlp.up_proj.weight", at_0=float("nan"), at_3=float("nan"))
    result = CliRunner().invoke(main, ["convert", str(orion), str(tmp_path / "out"), "--verify-tokens", "16"])
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "model.safetensors: model.layers.1.mlp.up_proj.weight holds 2 NaN; fetch the file again" in line
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["orion"], "nothing half-written"


# -------------------------------------------------------------------------------------------------------- structure


def test_a_header_that_is_damaged(orion: Path) -> None:
    split_into_shards(orion, 3)
    file = orion / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert f"{file}: is cut short" in damage(orion)


def test_every_damaged_shard_has_a_line(orion: Path) -> None:
    for file in sorted(split_into_shards(orion, 3).glob("*.safetensors"))[:2]:
        file.write_bytes(file.read_bytes()[:-10])
    assert [line.split(": ")[1][:12] for line in check(orion).damage] == ["is cut short"] * 2


def test_a_missing_shard(orion: Path) -> None:
    (split_into_shards(orion, 3) / "model-00002-of-00003.safetensors").unlink()
    lines = check(orion).damage
    assert "model-00002-of-00003.safetensors: missing; the index lists it" in lines[0]


def test_shards_under_each_other_s_names(orion: Path) -> None:
    split_into_shards(orion, 3)
    one, two = (orion / f"model-0000{i}-of-00003.safetensors" for i in (1, 2))
    one.rename(orion / "x")
    two.rename(one)
    (orion / "x").rename(two)
    lines = check(orion).damage
    assert len(lines) == 4
    assert f"{INDEX}: looks for " in lines[0]
    assert lines[0].endswith("in model-00001-of-00003.safetensors, which has no such tensor")
    assert f"{INDEX}: leaves out " in lines[1]


def test_a_tensor_that_the_index_leaves_out(orion: Path) -> None:
    listed = read_json(split_into_shards(orion, 3) / INDEX)["weight_map"]
    listed.pop("model.norm.bias")
    write_json(orion / INDEX, {"weight_map": listed})
    assert f"{INDEX}: leaves out model.norm.bias of model-0000" in damage(orion)


def test_a_config_that_is_damaged_leaves_the_rest_to_be_checked(orion: Path) -> None:
    (orion / "config.json").write_text("{", encoding="utf-8")
    assert "config.json: cannot be read as JSON" in damage(orion)
    change(orion / "model.safetensors", "model.norm.weight", at_0=float("nan"))
    assert len(check(orion).damage) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": 65}, "the config asks for"),
        ({"num_hidden_layers": 4}, "missing from the checkpoint"),
        ({"num_hidden_layers": 2}, "has no place for this tensor"),
        ({"vocab_size": -1}, "vocab_size is -1, it must be a positive integer"),
        ({"hidden_size": "64"}, "hidden_size is '64', it must be"),
        ({"model_type": None, "architectures": None}, "has no model_type"),
    ],
)
def test_a_config_that_is_of_another_model(orion: Path, changes: dict[str, object], reason: str) -> None:
    change_json(orion / "config.json", **changes)
    assert reason in damage(orion)


@pytest.mark.parametrize("name", ["generation_config.json", "special_tokens_map.json"])
def test_settings_that_are_not_json(orion: Path, name: str) -> None:
    (orion / name).write_text("[", encoding="utf-8")
    assert f"{name}: cannot be read as JSON" in damage(orion)


# ------------------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "README.md"])
def test_a_byte_that_changed(out: Path, name: str) -> None:
    raw = bytearray((out / name).read_bytes())
    raw[-2] ^= 1
    (out / name).write_bytes(bytes(raw))
    assert f"{out}/{name}: changed since the conversion wrote it" in check(out).damage


def test_a_file_that_is_gone(out: Path) -> None:
    (out / "README.md").unlink()
    assert damage(out) == f"{out}/README.md: missing; kept.json lists it"


def test_weights_that_were_added(out: Path) -> None:
    split_into_shards(out, 2)
    lines = check(out).damage
    assert f"{out / 'model.safetensors'}: missing; kept.json lists it" in lines
    assert "model-00001-of-00002.safetensors: is not in kept.json; it was added later" in lines


def test_weights_beside_the_model_are_named_and_not_read(out: Path) -> None:
    (out / "adapter_model.safetensors").write_bytes(b"no header")
    (out / "original").mkdir()
    (out / "original" / "consolidated.00.pth").touch()
    found = check(out)
    assert found.verdict == "sound"
    assert found.remarks == ("not read, as transformers loads none of it: adapter_model.safetensors, original/",)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "", "..", "./x"])
def test_a_record_cannot_name_a_file_elsewhere(out: Path, name: str) -> None:
    (out.parent / "secret").write_text("x", encoding="utf-8")
    stated = read_json(out / "kept.json")
    write_json(out / "kept.json", {**stated, "files": {**stated["files"], name: "0" * 64}})
    assert f"kept.json: names {name!r}, which is not a file of this directory" in damage(out)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "é" * 200])
def test_a_record_with_a_name_that_no_file_has(out: Path, name: str) -> None:
    stated = read_json(out / "kept.json")
    write_json(out / "kept.json", {**stated, "files": {**stated["files"], name: "0" * 64}})
    assert "missing; kept.json lists it" in damage(out)


@pytest.mark.parametrize("files", [None, 3, ["a"], {"README.md": 3}])
def test_a_record_without_sums(out: Path, files: object) -> None:
    write_json(out / "kept.json", {**read_json(out / "kept.json"), "files": files})
    assert "kept.json: the record is not as kept writes it (files" in damage(out)


# -------------------------------------------------------------------------------------------------------- tokenizer


def test_a_tokenizer_that_does_not_load(orion: Path) -> None:
    (orion / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "tokenizer.json: is not a tokenizer" in damage(orion)


def test_a_sentencepiece_model_that_does_not_load(orion: Path) -> None:
    (orion / "tokenizer.json").unlink()
    (orion / "tokenizer.model").write_bytes(b"\x0a\xff")
    assert "tokenizer.model: is no SentencePiece model" in damage(orion)


def test_a_tokenizer_larger_than_the_vocabulary(orion: Path) -> None:
    content = read_json(orion / "tokenizer.json")
    content["added_tokens"].append({**content["added_tokens"][0], "id": 100_000, "content": "<extra>"})
    content["model"]["vocab"]["<extra>"] = 100_000
    write_json(orion / "tokenizer.json", content)
    assert "its tokenizer gives id 100000, the model has 320 tokens" in damage(orion)


@pytest.mark.parametrize("value", [-1, 320, 10**30, [2, 900]])
def test_special_ids_past_the_vocabulary_are_remarked(orion: Path, value: object) -> None:
    """transformers loads such a model, and no token has one of these ids."""
    write_json(orion / "generation_config.json", {"eos_token_id": value, "pad_token_id": -1})
    found = check(orion)
    assert not found.damage
    assert any("generation_config.json: eos_token_id is" in remark for remark in found.remarks)


@pytest.mark.parametrize("value", ["</s>", 2.0, [True]])
def test_special_ids_that_are_not_numbers(orion: Path, value: object) -> None:
    write_json(orion / "generation_config.json", {"eos_token_id": value})
    assert "generation_config.json: eos_token_id is" in damage(orion)


# ------------------------------------------------------------------------------------------------- memory and progress


def test_progress_is_in_bytes(out: Path) -> None:
    seen = _Watch()
    found = check(out, progress=seen)
    files = read_json(out / "kept.json")["files"]
    assert seen.total == seen.done == found.nbytes + sum((out / name).stat().st_size for name in files)


class _Watch:
    """Adds up what a stage reports."""

    total = done = 0

    def stage(self, name: str, total: int, unit: str) -> _Watch:
        assert (name, unit) == ("check", "bytes")
        self.total = total
        return self

    def __enter__(self) -> object:
        return self.add

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, count: int) -> None:
        self.done += count


def test_a_claim_of_a_hundred_gigabytes_is_not_believed(orion: Path) -> None:
    write_raw(orion / "model.safetensors", {"x": entry("BF16", [50, 10**9], [0, 100 * 10**9])})
    assert "model.safetensors: is cut short" in damage(orion)
    (orion / "model.safetensors").write_bytes(struct.pack("<Q", 2**63))
    assert "its header claims" in damage(orion)
