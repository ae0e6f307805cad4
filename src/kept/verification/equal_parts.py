"""The parts of two programs that compute the same to the bit: equal operations with equal weights.

Such a part is run once for both programs. No arithmetic is needed to find it: weights are compared as they are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from kept.ir.slots import layer_slots, zero_output_weights
from kept.ir.tensors import Cast, InFile, Stored, equal, take_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kept.ir.program import Program
    from kept.ir.promise import Claim
    from kept.ir.tensors import Lazy, Precision

    Weights = tuple[Lazy, Lazy]
    IsEqual = Callable[[Lazy, Lazy], bool]

COMPARED_ELEMENTS = 1 << 20
"""Number of elements of each of two tensors in memory while they are compared."""

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer dtypes by their bytes. Bits are compared, because NaN differs from itself and -0 equals 0."""


@dataclass(frozen=True)
class EqualParts:
    """The equal parts of a source and an output.

    `layers`: the source's layer by the output's layer. `embedding`: embedding and positions. `head`: final norm and
    head. `complete`: these are all parts of both, but for layers and tokens that by the claim only one of them has.
    """

    embedding: bool = False
    layers: Mapping[int, int] = field(default_factory=dict)
    head: bool = False
    complete: bool = False


def equal_values(
    source: Program, output: Program, claim: Claim, dtype: torch.dtype, progress: Callable[[int], None] | None = None
) -> EqualParts:
    """Return the parts that are equal when both programs are run in `dtype`. Reads the weights.

    Stored bytes of one dtype are compared as they are, other weights as they are rounded to `dtype`. `progress` is
    called with the bytes of the output that are done, of `compared_bytes`.
    """
    return _find(source, output, claim, partial(equal_when_read, dtype=dtype), progress)


def equal_sources(source: Program, plan: Program, claim: Claim) -> EqualParts:
    """Return the parts of a plan whose weights are the source's own tensors. Reads nothing."""
    return _find(source, plan, claim, _same_tensor)


def compared_bytes(source: Program, output: Program, claim: Claim) -> int:
    """Return the bytes of the output's weights whose operation is that of the source."""
    return sum(other.nbytes for weights in _comparable(source, output, claim).values() for _, other in weights)


def adds_nothing(program: Program, layer: int) -> bool:
    """Return whether the weights of a layer are such that it adds zero to any finite residual stream."""
    fills = zero_output_weights(program.spec.layers[layer], program.spec.width)
    return all(program.weights[f"layers.{layer}.{name}"].holds_only(fill) for name, fill in fills.items())


def _find(
    source: Program,
    output: Program,
    claim: Claim,
    is_equal: IsEqual,
    progress: Callable[[int], None] | None = None,
) -> EqualParts:
    comparable, found = _comparable(source, output, claim), set[str]()
    for part, weights in comparable.items():
        if all(is_equal(one, other) for one, other in weights):
            found.add(part)
        if progress is not None:
            progress(sum(other.nbytes for _, other in weights))
    pairs = {j: i for i, j in _pairs(source, output, claim)}
    layers = {j: i for j, i in pairs.items() if f"layers.{j}" in found}
    whole = len(layers) == source.spec.depth - len(claim.dropped) == output.spec.depth - len(claim.copies)
    whole = whole and (claim.tokens is not None or source.spec.vocabulary == output.spec.vocabulary)
    embedding = "embedding" in found
    head = "head" in found and (embedding or not (source.spec.head.tied and output.spec.head.tied))
    return EqualParts(embedding, layers, head, embedding and head and whole)


def _pairs(source: Program, output: Program, claim: Claim) -> Iterator[tuple[int, int]]:
    """Yield the layers of the source with those of the output, as far as both have them."""
    return zip(
        (i for i in range(source.spec.depth) if i not in claim.dropped),
        (j for j in range(output.spec.depth) if j not in claim.copies),
        strict=False,
    )


def _comparable(source: Program, output: Program, claim: Claim) -> dict[str, list[Weights]]:
    """Return the weights of both, by the parts in which the two specs are equal."""
    one, other = source.spec, output.spec
    parts: dict[str, list[Weights]] = {}
    shared = claim.tokens if claim.tokens is not None else min(one.vocabulary, other.vocabulary)
    if (one.width, one.embedding_multiplier, one.positions) == (
        other.width,
        other.embedding_multiplier,
        other.positions,
    ):
        names = ["embedding.weight"] if one.positions is None else ["embedding.weight", "positions.weight"]
        parts["embedding"] = [_first_rows(source, output, name, name, shared) for name in names]
    for i, j in _pairs(source, output, claim):
        if one.layers[i] == other.layers[j]:
            names = [name for name, _ in layer_slots(one.layers[i], one.width)]
            parts[f"layers.{j}"] = [
                (source.weights[f"layers.{i}.{name}"], output.weights[f"layers.{j}.{name}"]) for name in names
            ]
    if one.final_norm == other.final_norm and replace(one.head, tied=False) == replace(other.head, tied=False):
        parts["head"] = [*_final(source, output), *_head(source, output, shared)]
    return parts


def _final(source: Program, output: Program) -> Iterator[Weights]:
    for name in source.weights:
        if name.startswith("final_norm."):
            yield source.weights[name], output.weights[name]


def _head(source: Program, output: Program, rows: int) -> Iterator[Weights]:
    tied = [program.spec.head.tied for program in (source, output)]
    if not all(tied):  # else the head is equal if the embedding is
        name, other = ("embedding.weight" if one else "head.weight" for one in tied)
        yield _first_rows(source, output, name, other, rows)
    if source.spec.head.bias:
        yield _first_rows(source, output, "head.bias", "head.bias", rows)


def _first_rows(source: Program, output: Program, name: str, other: str, rows: int) -> Weights:
    """Return the rows of tokens that both have; positions are fewer or more than tokens and are returned whole."""
    both = source.weights[name], output.weights[other]
    if name == "positions.weight":
        return both
    return take_rows(both[0], 0, rows), take_rows(both[1], 0, rows)


def _same_tensor(one: Lazy, other: Lazy) -> bool:
    one, other = _uncast(one), _uncast(other)
    return one is other or (isinstance(one, InFile) and one == other)


def _uncast(tensor: Lazy) -> Lazy:
    """Return the tensor whose values a cast tensor has before they are rounded."""
    while isinstance(tensor, Cast):
        tensor = tensor.source
    return tensor


def equal_when_read(one: Lazy, other: Lazy, dtype: torch.dtype) -> bool:
    """Return whether two weights are equal to the bit when they are read in `dtype`."""
    if one.shape != other.shape:
        return False
    if isinstance(one, Stored) and isinstance(other, Stored) and one.dtype == other.dtype:
        return equal(one, other)
    precision: Precision = "float64" if dtype == torch.float64 else "float32"
    blocks = zip(*(_blocks(tensor, precision, one, other) for tensor in (one, other)), strict=True)
    integers = INTEGERS[dtype.itemsize]
    return all(torch.equal(*(block.to(dtype).view(integers) for block in pair)) for pair in blocks)


def _blocks(tensor: Lazy, precision: Precision, *both: Lazy) -> Iterator[torch.Tensor]:
    """Yield a tensor's rows, in the same numbers of rows for both tensors of a comparison."""
    rows, read = tensor.shape[0], tensor.reader(precision)
    wide = max(one.row_elements for one in both)
    step = max(1, COMPARED_ELEMENTS // wide) if all(one.by_rows for one in both) else max(1, rows)
    return (read(start, min(rows, start + step)) for start in range(0, rows, step))
