"""`kept convert`: its options, its output, and a promise that is broken."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import kept
from kept.ir.tensors import TORCH_NAMES, Stored
from kept.passes.fold_norm_bias import FoldNormBias
from support.command_line import complains, data, succeeds
from support.stored import all_bytes, read_json

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_convert_in_words(orion: Path, tmp_path: Path) -> None:
    result = succeeds("convert", orion, tmp_path / "out", "--verify-tokens", 64)
    assert f"{tmp_path}/out: written (centre, layernorm-to-rmsnorm" in result.stdout
    assert "\nlargest logit difference " in result.stdout
    assert "the rewritten model, in float64" not in result.stdout
    assert result.stdout.endswith("promise exact: kept\n")
    assert (tmp_path / "out" / "kept.json").is_file()


def test_convert_as_data(orion: Path, tmp_path: Path) -> None:
    found = data("convert", orion, tmp_path / "out", "--verify-tokens", 64)
    assert found == read_json(tmp_path / "out" / "kept.json")


def test_convert_takes_every_option(orion: Path, tmp_path: Path) -> None:
    text = tmp_path / "my.txt"
    text.write_text("seven ships, and one of them was late", encoding="utf-8")
    options = {
        "--to": "llama",
        "--norm": "calibrated",
        "--final-bias": "drop",
        "--rope": "proportional",
        "--context": 64,
        "--dtype": "float32",
        "--max-shard-size": "100KB",
        "--text": text,
        "--verify-tokens": 16,
    }
    found = data("convert", orion, tmp_path / "out", *(part for option in options.items() for part in option))
    assert found["recipe"] == {
        "to": "llama",
        "norm": "calibrated",
        "final_bias": "drop",
        "rope": "proportional",
        "context": 64,
        "dtype": "float32",
        "max_shard_size": "100KB",
        "text": str(text),
        "verify_tokens": 16,
    }
    assert found["verification"]["text"] == str(text)
    assert len([*(tmp_path / "out").glob("*.safetensors")]) > 3


def test_convert_from_a_recipe(orion: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'source = "{orion}"\nout = "{tmp_path}/from-file"\nverify_tokens = 0', encoding="utf-8")
    data("convert", "--recipe", recipe)
    data("convert", orion, tmp_path / "from-flags", "--verify-tokens", 0)
    data("convert", orion, tmp_path / "from-both", "--recipe", recipe)
    made = [all_bytes(tmp_path / name) for name in ("from-file", "from-flags", "from-both")]
    assert made[0] == made[1] == made[2]


def test_a_broken_promise_is_exit_code_one(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FoldNormBias, "run", _drops_the_biases)
    line = complains("convert", orion, tmp_path / "out", "--verify-tokens", 64, code=1)
    assert re.search(r"out: not written; in float64 the logits differ by up to .*: the map is not exact", line)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.unkept").is_dir()


def _drops_the_biases(self: FoldNormBias, program: Any) -> Any:
    from dataclasses import replace

    from kept.passes.map_spec import map_norms

    return program.updated(map_norms(program.spec, lambda norm: replace(norm, bias=False)), {})


def test_dtype_and_shard_size_hold_for_every_tensor_and_file(orion: Path, tmp_path: Path) -> None:
    for dtype in ("bfloat16", "float64"):
        out = tmp_path / dtype
        data("convert", orion, out, "--dtype", dtype, "--max-shard-size", "60KB", "--verify-tokens", "0")
        tensors = kept.open_model(out).checkpoint.tensors
        assert {TORCH_NAMES[tensor.dtype] for tensor in tensors.values()} == {dtype}
        files = [*out.glob("*.safetensors")]
        assert len(files) > 3
        for file in files:
            held = [tensor.nbytes for tensor in tensors.values() if isinstance(tensor, Stored) and tensor.file == file]
            assert sum(held) <= 60_000 or len(held) == 1
