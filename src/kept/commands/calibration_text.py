"""The tokens to calibrate on: equal parts of texts, or samples of the source itself.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.distillation.data.documents import TextSource, named_paths
from kept.distillation.data.self_samples import SamplingSettings, SelfSampler, sampled, teacher_sum
from kept.distillation.data.token_dataset import tokenise
from kept.distillation.settings_fields import SELF
from kept.errors import InputError
from kept.ir.spec import LongRope
from kept.ir.tensors import torch_dtype
from kept.nn import Model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from kept.distillation.data.token_dataset import TokenDataset
    from kept.loaded import LoadedModel
    from kept.recipe import Recipe
    from kept.reporting import Reporter

LENGTH = 512
"""Maximum number of tokens in a row."""


@dataclass(frozen=True)
class CalibrationText:
    """Token ids (B, T), and what the record states of them."""

    tokens_BT: Tensor
    about: Mapping[str, Any]


def calibration_paths(recipe: Recipe) -> dict[str, Path]:
    """Return the files and directories of a recipe's calibration texts by name.

    Raises InputError if it has none, and for a text on which the output is to be verified.
    """
    given = recipe.data
    if not given:
        raise InputError("kv: needs text to measure on; give --data FILE, or --data self")
    if SELF in given and len(given) > 1:
        raise InputError("data: self stands alone; name files without it, or only self")
    paths = {} if given == (SELF,) else named_paths(given)
    if recipe.text is not None and Path(recipe.text).resolve() in {path.resolve() for path in paths.values()}:
        raise InputError(f"text: {recipe.text} is calibration text (data) too; verify on another text")
    return paths


def calibration_text(source: LoadedModel, recipe: Recipe, reporter: Reporter) -> CalibrationText:
    """Return the tokens of a recipe's texts, of each an equal part, in rows.

    Raises InputError for a text that cannot be read, and if there are too few tokens.
    """
    paths, spec = calibration_paths(recipe), source.program.spec
    length = min(LENGTH, spec.context, *(_original(rope.scaling) for rope in spec.ropes()), recipe.calibration_tokens)
    if paths:
        reader = TokenizerReader(source.path)
        sources = {name: tokenise(TextSource((path,)), reader, reporter=reporter) for name, path in paths.items()}
    else:
        sources = {SELF: _samples(source, recipe.calibration_tokens, length, reporter)}
    part = recipe.calibration_tokens // len(sources) // length
    rows = {name: _rows(name, tokens, length, max(1, part), spec.vocabulary) for name, tokens in sources.items()}
    tokens = torch.from_numpy(np.concatenate([*rows.values()]).astype(np.int64))
    return CalibrationText(tokens, {"tokens": {name: found.size for name, found in rows.items()}})


def _original(scaling: object) -> int:
    """Return the length up to which a LongRoPE has one list of divisors."""
    return scaling.original_max_position_embeddings if isinstance(scaling, LongRope) else LENGTH


def _rows(name: str, tokens: TokenDataset, length: int, most: int, vocabulary: int) -> NDArray[np.uint32]:
    """Return at most `most` rows of whole documents in the order of their digests, a random sample."""
    if tokens.largest >= vocabulary:
        raise InputError(f"{name}: has token {tokens.largest}, the model has {vocabulary} tokens")
    found = np.concatenate([*_documents(tokens, length * most)])
    count = min(most, len(found) // length)
    if count == 0:
        raise InputError(f"{name}: has {len(found)} tokens; give a text of {length} or more")
    return found[: count * length].reshape(count, length)


def _documents(tokens: TokenDataset, wanted: int) -> Iterator[NDArray[np.uint32]]:
    lengths = tokens.lengths()
    for number in np.argsort(tokens.table["digest"], kind="stable"):
        yield tokens.document(int(number), 0, int(lengths[number]))
        wanted -= int(lengths[number])
        if wanted <= 0:
            return


def _samples(source: LoadedModel, count: int, length: int, reporter: Reporter) -> TokenDataset:
    """Return texts that the source generates."""
    program, reader = source.program, TokenizerReader(source.path)
    vocabulary = None if reader.file is None else len(reader.tokenizer.vocabulary)
    dtype = torch_dtype(program.dtype)
    sampler = SelfSampler(program.spec, dtype, lambda: Model.load(program, dtype))
    texts = SamplingSettings(-(-count // length), length, vocabulary=vocabulary)
    return sampled(sampler, teacher_sum(source), texts, reporter=reporter)
