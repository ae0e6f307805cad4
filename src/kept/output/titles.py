"""The title of an output: the model that it was made from, and what is different."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.formatting import singular
from kept.passes.drop_layers import DropLayers
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.expand_vocabulary import ExpandVocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.output.record import PastRecord

SIZES = {ExpandBlocks.name, ExpandVocabulary.name, DropLayers.name}
"""Passes that change a size, which is counted."""


def title(record: PastRecord) -> str:
    """Return the title of a conversion's output, such as `SmolLM2 with 6 more blocks` or `orion converted to llama`."""
    assert record.source is not None
    sizes = " and ".join(_sizes(record))
    changes = [f"with {sizes}"] * bool(sizes)
    if record.target != record.source.family:
        changes.append(f"converted to {record.target}")
    elif any(step.name not in SIZES for step in record.passes or ()):
        changes.append("rewritten")
    return f"{record.source.name} {', '.join(changes) or 'unchanged'}"


def _sizes(record: PastRecord) -> Iterator[str]:
    """Yield what the record's own passes add or remove. The last expansions in a record are those of its passes."""
    names = [step.name for step in record.passes or ()]
    blocks, tokens = names.count(ExpandBlocks.name), names.count(ExpandVocabulary.name)
    yield from _counted(sum(len(one.layers) for one in record.expansions[-blocks:] if blocks), "more blocks")
    grown = record.vocabularies[-tokens:] if tokens else ()
    yield from _counted(sum(one.new[1] - one.new[0] for one in grown if one.new is not None), "more tokens")
    dropped = [step.options.get("layers", ()) for step in record.passes or () if step.name == DropLayers.name]
    yield from _counted(sum(len(layers) for layers in dropped), "fewer blocks")


def _counted(count: int, words: str) -> Iterator[str]:
    if count:
        yield f"{count:,} {singular(count, words)}"
