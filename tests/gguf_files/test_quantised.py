"""Every quantisation type: rows dequantised in blocks equal the gguf package's result for the whole tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import kept
from kept.checkpoint.nonfinite import not_finite, runs
from kept.commands.check import check
from kept.errors import CheckpointError
from kept.gguf.header import types
from kept.gguf.tensors import Quantised, half_split
from kept.loaded import open_model
from support import ggufs
from support.models import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = {"F32", "F16", "F64", "BF16"}

QUANTISED = sorted(name for name, _, _ in types().values() if name not in PLAIN)

ROWS = 24


def stored(file: Path, kind: str) -> tuple[Quantised, np.ndarray[Any, Any]]:
    """Return a tensor of random blocks at an offset of 6 bytes, and its dequantisation by the gguf package."""
    number = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[number]
    raw = np.random.default_rng(1).integers(0, 256, (ROWS, 2 * size), np.uint8)
    file.write_bytes(b"before" + raw.tobytes())
    with np.errstate(all="ignore"):
        return Quantised((ROWS, 2 * block), "BF16", file, 6, int(number)), gguf.dequantize(raw, number)


def equal(found: torch.Tensor, wanted: np.ndarray[Any, Any]) -> bool:
    """Return whether two arrays are bit-identical; random blocks may hold NaN."""
    return np.array_equal(found.numpy(), wanted, equal_nan=True)


@pytest.mark.parametrize("kind", QUANTISED)
def test_rows_are_those_of_the_whole(kind: str, tmp_path: Path) -> None:
    tensor, wanted = stored(tmp_path / "raw", kind)
    assert equal(tensor.value(), wanted)
    assert equal(torch.cat([*tensor.blocks("float32", 3 * tensor.shape[1])]), wanted)
    assert equal(tensor.rows(5, 11, "float64"), wanted[5:11].astype(np.float64))


def test_every_type_is_read_that_the_package_dequantises() -> None:
    known = {kind.name for kind in gguf.GGMLQuantizationType if _dequantises(kind)}
    assert {name for name, _, _ in types().values()} >= known
    assert len(QUANTISED) >= 22


def _dequantises(kind: gguf.GGMLQuantizationType) -> bool:
    _, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_pairs_apart_again_whatever_the_block(heads: int, tmp_path: Path) -> None:
    tensor, whole = stored(tmp_path / "raw", "Q8_0")
    wanted = whole.reshape(heads, ROWS // heads // 2, 2, -1).swapaxes(1, 2).reshape(whole.shape)
    found = half_split(tensor, heads)
    assert equal(found.value(), wanted)
    for start in range(ROWS):
        for stop in range(start + 1, ROWS + 1):
            assert equal(found.rows(start, stop, "float32"), wanted[start:stop]), (start, stop)
    with pytest.raises(CheckpointError, match="5 heads"):
        half_split(tensor, 5)


def quantisation(name: str, tensor: np.ndarray[Any, Any]) -> gguf.GGMLQuantizationType | None:
    """Return the quantisation type of a matrix; None for vectors and rows that no block fits."""
    if tensor.ndim < 2:
        return None
    kinds = (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.F16)
    kind = kinds[len(name) % 3]
    return kind if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else None


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_checkpoint(tmp_path_factory.mktemp("quantised") / "llama", "llama")
    return ggufs.write(directory.with_suffix(".gguf"), ggufs.made_of(directory, "llama"), quantisation)


def test_a_conversion_says_what_there_was_and_writes_it_rounded_once(file: Path, tmp_path: Path) -> None:
    done = kept.convert(file, tmp_path / "out", verify_tokens=32)
    assert done.verification is not None
    assert done.verification.failure is None
    assert done.record["source"]["name"] == "llama.gguf"
    assert [*done.record["source"]["files"]] == ["llama.gguf"]
    assert done.record["source"]["quantised"] == open_model(file).quantised
    assert "F32 (" in done.record["source"]["quantised"]
    assert "weights were stored as" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    found = load_file(tmp_path / "out" / "model.safetensors")
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    down = reader["blk.1.ffn_down.weight"]
    wanted = torch.from_numpy(np.array(gguf.dequantize(down.data, down.tensor_type)))
    assert torch.equal(found["model.layers.1.mlp.down_proj.weight"], wanted.to(torch.bfloat16))
    assert found["model.norm.weight"].dtype == torch.float32


def test_another_dtype_is_written_where_it_is_asked_for(file: Path, tmp_path: Path) -> None:
    kept.convert(file, tmp_path / "out", dtype="float32", verify_tokens=0)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    program = open_model(file).program
    assert torch.equal(
        found["model.layers.0.self_attn.k_proj.weight"], program.weights["layers.0.mixer.k.weight"].value()
    )


def test_what_is_nan_is_named(file: Path, tmp_path: Path) -> None:
    """The scale of one block is NaN, so all its weights are."""
    raw = bytearray(file.read_bytes())
    down = next(tensor for tensor in gguf.GGUFReader(file).tensors if tensor.name == "blk.2.ffn_up.weight")
    raw[down.data_offset : down.data_offset + 2] = b"\xff\xff"
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(raw)
    (packed,) = runs(open_model(broken).checkpoint.tensors["blk.2.ffn_up.weight"])
    assert not_finite(packed).nan > 0
    assert check(file).verdict == "sound"
    assert any("blk.2.ffn_up.weight holds" in line for line in check(broken).damage)
    with pytest.raises(CheckpointError, match=r"blk\.2\.ffn_up\.weight holds \d+ NaN"):
        kept.convert(broken, tmp_path / "out", verify_tokens=0)
