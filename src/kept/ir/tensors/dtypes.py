"""Dtypes by their safetensors names: sizes, torch names, and the working precision of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "float64"]


DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes per element of the dtypes that weights may have, by their safetensors names."""

STORED_BYTES = {
    **DTYPE_BYTES,
    **dict.fromkeys(("I64", "U64"), 8),
    **dict.fromkeys(("I32", "U32"), 4),
    **dict.fromkeys(("I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
"""Bytes per element of every dtype that a file may hold, including masks, position ids and quantised weights."""

TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""torch names of the dtypes that weights may have."""

WIDER = {"float16": "bfloat16 or float32", "bfloat16": "float32", "float32": "float64"}
"""Dtypes with a wider range or more precision, by torch name."""


def wider(dtype: str) -> str:
    """Return advice for values that overflow in a dtype, by its torch name."""
    return f"kept convert --dtype {WIDER[dtype]} may help" if dtype in WIDER else "no wider dtype can be written"


def torch_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of a safetensors dtype name."""
    import torch  # noqa: PLC0415 - planning needs no torch

    found: torch.dtype = getattr(torch, TORCH_NAMES[dtype])
    return found


def working_precision(dtype: str) -> Precision:
    """The precision in which a tensor of this dtype is computed before it is rounded."""
    return "float64" if dtype == "F64" else "float32"
