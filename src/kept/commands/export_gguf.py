"""Export a checkpoint as a GGUF file for llama.cpp, and read the file back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.output_path import check_apart
from kept.checkpoint.small_files import locked_part
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.errors import InputError, Refusal
from kept.formatting import amount
from kept.ir.facts import facts
from kept.loaded import open_model
from kept.reporting import Progress, reporter_of
from kept.setting_types import not_a_choice
from kept.summary import Summarised

if TYPE_CHECKING:
    from kept.loaded import LoadedModel

TYPES = {"F32": "f32", "BF16": "bf16", "F16": "f16"}
"""Type of the matrices in the file by the checkpoint's dtype."""

SCALING = "layers.*.mixer.attention.rope.scaling"
"""Facts of RoPE's scaling, of which a file has only the divisors of the frequencies."""

ALIASES = {"fp32": "f32", "float32": "f32", "bfloat16": "bf16", "fp16": "f16", "float16": "f16"}


@dataclass(frozen=True, repr=False)
class ExportedGguf(Summarised):
    """A GGUF file: its path, llama.cpp's name of the architecture, the type of its matrices, and its size."""

    path: Path
    architecture: str
    type: str
    nbytes: int

    def summary(self) -> dict[str, str]:
        """Return path, architecture, type and size."""
        size = amount(self.nbytes, "bytes")
        return {"path": str(self.path), "architecture": self.architecture, "type": self.type, "size": size}


def export_gguf(
    path: str | Path,
    file: str | Path,
    *,
    type: str | None = None,  # noqa: A002 - the option's name
    progress: Progress = False,
) -> ExportedGguf:
    """Write a checkpoint as a GGUF file, with its tokenizer and chat template.

    The file is read back before it gets its name: config, weights and token ids must be those of the checkpoint.

    Args:
        path: a checkpoint of a family that llama.cpp computes as Llama: llama, mistral, qwen2 or qwen3.
        file: the file to write.
        type: type of the matrices: "f32", "bf16", "f16" or "q8_0" (8 bits). [default: the checkpoint's dtype]
        progress: True shows bars on stderr; or a `kept.Reporter`.

    Returns:
        Path, architecture, type and size of the file.

    Raises:
        Refusal: llama.cpp has no form for the model; says which and the way out.
        InputError: the tokenizer has no name in llama.cpp, or a weight is beyond the range of the type.
        OutputError: the file exists or cannot be written.

    Example:
        ```python
        kept.export_gguf("out/llama", "out/llama.gguf", type="q8_0")
        ```
    """
    from kept.gguf.header import parts  # noqa: PLC0415 - imports gguf
    from kept.gguf.write import KINDS, architecture_for, write_gguf  # noqa: PLC0415 - the same
    from kept.gguf.write_tokenizer import tokenizer_keys  # noqa: PLC0415 - the same

    model, target = open_model(path), Path(file)
    kind = TYPES.get(model.program.dtype, "f32") if type is None else ALIASES.get(type.lower(), type.lower())
    if kind not in KINDS:
        raise InputError(f"type: {not_a_choice(type, tuple(KINDS))}")
    name = architecture_for(model.family.name, model.program.spec)
    check_apart(target, {"the model": model.path})
    if len(parts(target)) > 1:
        raise InputError(f"{target}: is the name of one of several parts; name one file, such as model.gguf")
    with locked_part(target) as part:
        keys = {"general.name": model.name, **tokenizer_keys(model.path, model.program.spec.vocabulary)}
        with reporter_of(progress).stage("export", model.program.parameters, "parameters") as advance:
            write_gguf(part, model.program, model.family.name, kind, keys, advance)
        _check(model, part)
        part.rename(target)
    return ExportedGguf(target, name, kind, target.stat().st_size)


def _check(model: LoadedModel, file: Path) -> None:
    """Raise InputError if the file does not read back as the model: another spec, or other token ids."""
    found = open_model(file)
    before, after = facts(model.program.spec), facts(found.program.spec)
    differ = [key for key in before.keys() | after.keys() if not _close(before.get(key), after.get(key))]
    ignored = ("tokens.", *((SCALING,) if _same_divisors(model, found) else ()))
    if told := sorted(key for key in differ if not key.startswith(ignored)):
        raise Refusal(f"{model.path}: {told[0]} is {before.get(told[0])}, a GGUF file says {after.get(told[0])}")
    own, theirs = TokenizerReader(model.path), TokenizerReader(found.path)
    text = files("kept").joinpath("verification/sample.txt").read_text(encoding="utf-8")
    if own.file is not None and own.encode(text) != theirs.encode(text):
        raise InputError(f"{own.file}: gives other ids in llama.cpp's form; its tokenizer is not written as GGUF")


def _same_divisors(model: LoadedModel, found: LoadedModel) -> bool:
    """Return whether both models divide RoPE's frequencies by the same numbers, whatever rule they name."""
    from kept.gguf.write import divisors  # noqa: PLC0415 - imports gguf

    one, other = divisors(model.program.spec), divisors(found.program.spec)
    return one is not None and other is not None and one.tolist() == other.tolist()


def _close(one: object, other: object) -> bool:
    """Return whether two facts are equal; numbers may differ by the rounding of float32, in which GGUF stores them."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other
