"""Lazy tensors: dtype and shape are known, bytes are not read until they are written or run.

Values flow between lazy tensors in a working precision (float32, or float64 on request) and are rounded once,
to the declared dtype, when they are written. torch is imported only when bytes are read.
"""

from kept.ir.tensors.computed import AssembledTensor, Cast, Computed, DerivedTensor, Means, cast
from kept.ir.tensors.dtypes import (
    DTYPE_BYTES,
    STORED_BYTES,
    TORCH_NAMES,
    WIDER,
    Precision,
    torch_dtype,
    wider,
    working_precision,
)
from kept.ir.tensors.generated import Formula, Full, InMemory, OneHot, zeros
from kept.ir.tensors.lazy import BLOCK_ELEMENTS, Lazy
from kept.ir.tensors.rows import Concat, RowSlice, equal, join, take_rows
from kept.ir.tensors.stored import InFile, Stored

__all__ = [
    "BLOCK_ELEMENTS",
    "DTYPE_BYTES",
    "STORED_BYTES",
    "TORCH_NAMES",
    "WIDER",
    "AssembledTensor",
    "Cast",
    "Computed",
    "Concat",
    "DerivedTensor",
    "Formula",
    "Full",
    "InFile",
    "InMemory",
    "Lazy",
    "Means",
    "OneHot",
    "Precision",
    "RowSlice",
    "Stored",
    "cast",
    "equal",
    "join",
    "take_rows",
    "torch_dtype",
    "wider",
    "working_precision",
    "zeros",
]
