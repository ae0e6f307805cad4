"""Lazy tensors: rows are rows of the value, and values are rounded once."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import torch

from kept.errors import CheckpointError
from kept.ir.tensors import (
    Cast,
    Computed,
    Full,
    InMemory,
    Lazy,
    Means,
    RowSlice,
    Stored,
    cast,
    take_rows,
    torch_dtype,
    zeros,
)

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.tensors import Precision

ROWS, COLUMNS = 5, 3


@pytest.fixture
def source() -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def stored(directory: Path, values: torch.Tensor, dtype: str = "F32", before: int = 24) -> Stored:
    """Values in a file, behind some bytes of something else."""
    file = directory / f"{dtype}.bin"
    raw = values.to(torch_dtype(dtype)).contiguous().view(torch.uint8).flatten()
    file.write_bytes(b"\xff" * before + bytes(raw.tolist()))
    return Stored(tuple(values.shape), dtype, file, before)


def given(values: torch.Tensor, dtype: str = "F64") -> InMemory:
    return InMemory(tuple(values.shape), dtype, values)


def plus(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return left + right


def scaled(rows: torch.Tensor, plus: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    return rows @ whole + plus[:, None]


def total(rows: torch.Tensor) -> torch.Tensor:
    return rows - rows.mean(dim=0)


@pytest.fixture(
    params=["stored", "filled", "given", "local", "whole", "vector", "cast", "rows", "rows of computed", "means"]
)
def kind(request: pytest.FixtureRequest, tmp_path: Path, source: torch.Tensor) -> tuple[Lazy, torch.Tensor]:
    """A lazy tensor of each kind, and what it should be."""
    file = stored(tmp_path, source, "F64")
    square, bias = source.T @ source, source[:, 0]
    made: dict[str, tuple[Lazy, torch.Tensor]] = {
        "stored": (file, source),
        "filled": (Full((ROWS, COLUMNS), "F64", 0.1), torch.full((ROWS, COLUMNS), 0.1, dtype=torch.float64)),
        "given": (given(source), source),
        "local": (
            Computed(file.shape, "F64", scaled, (file, given(bias)), (given(square),), local=True),
            source @ square + bias[:, None],
        ),
        "whole": (Computed(file.shape, "F64", total, (file,)), source - source.mean(dim=0)),
        "vector": (given(bias), bias),
        "cast": (Cast(file.shape, "BF16", file), source),
        "rows": (RowSlice((3, COLUMNS), "F64", given(source), 2), source[2:]),
        "rows of computed": (
            RowSlice((3, COLUMNS), "F64", Computed(file.shape, "F64", total, (file,)), 1),
            (source - source.mean(dim=0))[1:4],
        ),
        "means": (
            Means((3, COLUMNS), "F64", file, ((0, 4), (), (2, 2, 1))),
            torch.stack([(source[0] + source[4]) / 2, 0 * source[0], source[[2, 2, 1]].mean(0)]),
        ),
    }
    return made[request.param]


def test_value(kind: tuple[Lazy, torch.Tensor]) -> None:
    lazy, wanted = kind
    assert lazy.shape == tuple(wanted.shape)
    assert torch.equal(lazy.value("float64"), wanted)


def test_rows_are_rows_of_the_value(kind: tuple[Lazy, torch.Tensor]) -> None:
    """Equal to the bit where no sum is reordered; a matrix product of fewer rows may add in another order (1e-15)."""
    lazy, wanted = kind
    for start, stop in itertools.combinations(range(lazy.shape[0] + 1), 2):
        torch.testing.assert_close(lazy.rows(start, stop, "float64"), wanted[start:stop], rtol=0, atol=4e-15)


def test_rows_in_the_wrong_place_would_show(kind: tuple[Lazy, torch.Tensor]) -> None:
    """Negative control: rows differ from each other in every kind but the constant."""
    lazy, wanted = kind
    assert isinstance(lazy, Full) or not torch.allclose(lazy.rows(0, 1, "float64"), wanted[1:2])


def test_precision_is_as_asked(kind: tuple[Lazy, torch.Tensor]) -> None:
    lazy, wanted = kind
    assert lazy.value("float64").dtype == torch.float64
    narrow = lazy.value("float32")
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wanted.float(), rtol=1e-6, atol=1e-6)  # a few roundings of float32


def test_read_is_rounded_to_the_declared_dtype(kind: tuple[Lazy, torch.Tensor]) -> None:
    lazy, wanted = kind
    found = lazy.read()
    assert found.dtype == torch_dtype(lazy.dtype)
    if lazy.dtype == "F64":
        assert torch.equal(found, wanted)
    else:  # bfloat16 from float64 through float32
        assert torch.equal(found, wanted.float().to(found.dtype))


def test_bytes_are_counted(kind: tuple[Lazy, torch.Tensor]) -> None:
    lazy, _ = kind
    found = lazy.read()
    assert lazy.nbytes == found.numel() * found.element_size()


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_stored_tensors_round_trip_to_the_bit(tmp_path: Path, source: torch.Tensor, dtype: str) -> None:
    lazy = stored(tmp_path, source, dtype)
    assert torch.equal(lazy.read(), source.to(torch_dtype(dtype)))
    assert not torch.equal(lazy.value("float64"), lazy.value("float64").flip(0))


def test_stored_tensors_without_elements(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.write_bytes(b"")
    assert Stored((0, 3), "F32", file, 0).read().shape == (0, 3)


def test_a_file_that_ends_too_soon_is_named(tmp_path: Path, source: torch.Tensor) -> None:
    lazy = stored(tmp_path, source)
    lazy.file.write_bytes(lazy.file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"F32\.bin"):
        lazy.read()


def test_rows_of_stored_bytes_are_stored_bytes(tmp_path: Path, source: torch.Tensor) -> None:
    lazy = stored(tmp_path, source)
    taken = take_rows(take_rows(lazy, 1, 5), 1, 3)
    assert taken == Stored((2, COLUMNS), "F32", lazy.file, lazy.offset + 2 * COLUMNS * 4)
    assert torch.equal(taken.read(), source[2:4].float())


def test_rows_of_other_tensors_are_a_view_of_them(source: torch.Tensor) -> None:
    taken = take_rows(given(source), 1, 4)
    assert taken.shape == (3, COLUMNS)
    assert torch.equal(taken.value("float64"), source[1:4])


@dataclass(frozen=True)
class Probe(Lazy):
    """Remembers which rows it was asked for."""

    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def by_rows(self) -> bool:
        return True

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        self.asked.append((start, stop))
        return torch.ones(stop - start, *self.shape[1:], dtype=getattr(torch, precision))


def test_a_local_operation_asks_for_the_rows_that_it_needs() -> None:
    probe = Probe((ROWS, COLUMNS), "F32")
    lazy = cast(Computed(probe.shape, "F32", plus, (probe, probe), local=True), "BF16")
    assert lazy.by_rows
    assert torch.equal(lazy.rows(1, 3, "float32"), torch.full((2, COLUMNS), 2.0))
    assert probe.asked == [(1, 3), (1, 3)]


def test_an_operation_that_is_not_local_is_not_by_rows() -> None:
    probe = Probe((ROWS, COLUMNS), "F32")
    lazy = Computed(probe.shape, "F32", total, (probe,))
    lazy.rows(1, 3, "float32")
    assert probe.asked == [(0, ROWS)]
    assert not lazy.by_rows
    assert not take_rows(lazy, 0, 2).by_rows
    assert not Computed(probe.shape, "F32", plus, (lazy, probe), local=True).by_rows


def test_a_vector_may_always_be_sliced() -> None:
    """A small tensor may be computed whole for each block."""
    matrix = Probe((ROWS, COLUMNS), "F32")
    vector = Computed((ROWS,), "F32", torch.neg, (Probe((ROWS,), "F32"),))
    assert Computed(matrix.shape, "F32", torch.mul, (matrix, vector), local=True).by_rows


def test_an_operation_of_the_wrong_shape_is_our_mistake(source: torch.Tensor) -> None:
    with pytest.raises(AssertionError):
        Computed((ROWS, COLUMNS + 1), "F64", total, (given(source),)).value("float64")


def test_values_are_rounded_once() -> None:
    """1 + 2^-8 + 2^-8 is exact when rounded once to bfloat16, and 1 when each sum is: the halves are lost to ties."""
    one, half_step = Full((1, 1), "BF16", 1.0), Full((1, 1), "BF16", 2.0**-8)
    sums = Computed((1, 1), "BF16", plus, (Computed((1, 1), "BF16", plus, (one, half_step)), half_step))
    assert sums.read().item() == 1 + 2.0**-7
    stepwise = (one.read() + half_step.read()) + half_step.read()
    assert stepwise.item() == 1.0


def test_a_cast_rounds_nothing_before_it_is_read(source: torch.Tensor) -> None:
    back = cast(cast(given(source), "BF16"), "F64")
    assert torch.equal(back.read(), source)
    assert not torch.equal(cast(given(source), "BF16").read().double(), source)


def test_a_cast_to_the_same_dtype_is_the_tensor_itself(source: torch.Tensor) -> None:
    lazy = given(source)
    assert cast(lazy, "F64") is lazy
    assert cast(lazy, "F32").dtype == "F32"


def test_zeros() -> None:
    assert torch.equal(zeros((2, 3), "F16").read(), torch.zeros(2, 3, dtype=torch.float16))


def test_a_plan_needs_no_torch() -> None:
    """A recipe is planned from shapes; torch, which takes seconds to import, is for bytes."""
    code = "import sys, kept.families, kept.passes, kept.checkpoint.reader; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", code.replace("kept.families", "kept.nn")], check=True)
