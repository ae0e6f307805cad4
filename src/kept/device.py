"""Devices and dtypes as users name them: the one place that reads both, for options, recipes and Python.

A device is `auto` (a GPU if there is one, else the processor), `cpu`, `cuda` or `cuda:1`. A dtype has its torch name or
a short one: `bfloat16` or `bf16`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, WithJsonSchema

from kept.errors import InputError
from kept.setting_types import OneOf, not_a_choice, wrong

if TYPE_CHECKING:
    import torch

AUTO = "auto"

DEVICE = r"auto|cpu|cuda(:[0-9]{1,3})?"

DEVICE_WORDS = "auto, cpu, cuda or cuda:N"

DEVICE_HELP = "Device to compute on: auto (a GPU if there is one, else cpu), cpu, cuda or cuda:N."

DTYPES = {"float64": ("fp64", "f64"), "float32": ("fp32", "f32"), "float16": ("fp16", "f16"), "bfloat16": ("bf16",)}
"""Names of dtypes as in torch, and the short names that stand for each."""


TRAINED = ("float32", "bfloat16")
"""Dtypes of the arithmetic of training. float16 would need a scaled loss."""


def _one_of(names: tuple[str, ...]) -> OneOf:
    return OneOf(names, tuple((short, name) for name in names for short in DTYPES[name]))


Dtype = Annotated[str, _one_of(tuple(DTYPES))]
TrainingDtype = Annotated[str, _one_of(TRAINED)]


def dtype_name(word: str | None) -> str | None:
    """Return the torch name of a dtype, None for None. Raises InputError for a word that names none."""
    names = {alias: name for name, short in DTYPES.items() for alias in (name, *short)}
    if word is not None and word not in names:
        raise InputError(f"dtype: {not_a_choice(word, tuple(DTYPES))}")
    return None if word is None else names[word]


def _device(value: str) -> str:
    if not re.fullmatch(DEVICE, value):
        raise wrong(f"is {value!r}; it must be {DEVICE_WORDS}")
    return value


Device = Annotated[str, AfterValidator(_device), WithJsonSchema({"type": "string", "pattern": f"^({DEVICE})$"})]


def torch_device(name: str) -> torch.device:
    """Return the device of a name. Raises InputError for an unknown name, and for a GPU that is not there."""
    import torch  # noqa: PLC0415 - takes seconds, and settings are read without it

    if not re.fullmatch(DEVICE, name):
        raise InputError(f"device: is {name!r}; it must be {DEVICE_WORDS}")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == AUTO:
        return torch.device("cuda" if found else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= found:
        there = f"{found} GPU{'s' * (found > 1)}, numbered from 0" if found else "no GPU"
        raise InputError(f"device: is {name}, but torch finds {there}; give auto or cpu")
    return device
