"""The section of the report about the architecture: layers before and after as a picture, and both in words."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.ir.serialise import from_json
from kept.pages.blocks import Code, LayerCell, LayerMap, LayerRow, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kept.ir.spec import Layer, Operation, Spec
    from kept.output.record import ModelSize, Record

    Column = tuple[int | None, int | None]
    """Index of a layer before and after; None if the layer exists in one of the two models only."""

DISTINGUISHED = 4
"""Maximum number of forms of one branch that the picture distinguishes; beyond it, kinds are."""


def architecture(record: Record) -> Section | None:
    """Return the section; None if neither architecture is recorded."""
    sizes = [(when, size) for when, size in (("before", record.before), ("after", record.after)) if size is not None]
    if not sizes:
        return None
    words = [Code(f"The architecture {when}", "\n".join(size.description)) for when, size in sizes]
    picture = _picture(record)
    return Section("architecture", "Architecture", (*([] if picture is None else [picture]), *words))


def _picture(record: Record) -> LayerMap | None:
    """Return the picture; None if a model or the origins of its layers are not recorded."""
    before, after = _spec(record.before), _spec(record.after)
    if before is None or after is None or record.layers is None or len(record.layers.origins) != after.depth:
        return None
    if record.layers.of_source != before.depth:
        return None
    columns = _columns(record.layers.origins, before.depth)
    mixers, mlps = (
        _styles([one.mixer for one in _layers(before, after)]),
        _styles([one.mlp for one in _layers(before, after)]),
    )
    rows = (
        LayerRow("before", tuple(_cell(before, at, mixers, mlps) for at, _ in columns)),
        LayerRow("after", tuple(_cell(after, at, mixers, mlps, is_new=old is None) for old, at in columns)),
    )
    caption = "Each column is a layer: its mixer above, its MLP below. A frame marks a new layer, a gap a missing one."
    return LayerMap(caption, _summary(before, after, columns), rows, _legend(mixers, mlps))


def _spec(size: ModelSize | None) -> Spec | None:
    try:
        return None if size is None else from_json(size.spec)
    except CheckpointError:
        return None  # written by another version; the words are still right


def _layers(*specs: Spec) -> Iterator[Layer]:
    return chain.from_iterable(spec.layers for spec in specs)


def _columns(origins: Sequence[int | str], depth: int) -> list[Column]:
    """Return a column for each layer of either model, in the order of both."""
    columns: list[Column] = []
    following = 0
    for after, origin in enumerate(origins):
        if isinstance(origin, int) and origin >= following:
            columns += [(dropped, None) for dropped in range(following, origin)]
            columns.append((origin, after))
            following = origin + 1
        else:
            columns.append((None, after))
    return columns + [(dropped, None) for dropped in range(following, depth)]


def _styles(operations: Sequence[Operation | None]) -> dict[str, int]:
    """Return a style for each form of a branch, or for each kind if there are too many forms."""
    present = [one for one in operations if one is not None]
    forms = dict.fromkeys(one.describe() for one in present)
    names = forms if len(forms) <= DISTINGUISHED else dict.fromkeys(one.KIND for one in present)
    return {name: style % DISTINGUISHED for style, name in enumerate(names)}


def _style(operation: Operation | None, styles: Mapping[str, int]) -> int | None:
    if operation is None:
        return None
    return styles.get(operation.describe(), styles.get(operation.KIND))


def _cell(
    spec: Spec, at: int | None, mixers: Mapping[str, int], mlps: Mapping[str, int], *, is_new: bool = False
) -> LayerCell | None:
    if at is None:
        return None
    layer = spec.layers[at]
    return LayerCell(at, _style(layer.mixer, mixers), _style(layer.mlp, mlps), is_new=is_new)


def _legend(mixers: Mapping[str, int], mlps: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    """Return the form of each branch with the class of its colour."""
    return (
        *((name, f"mixer{style}") for name, style in mixers.items()),
        *((name, f"mlp{style}") for name, style in mlps.items()),
    )


def _summary(before: Spec, after: Spec, columns: Sequence[Column]) -> str:
    """Return the picture in words, for screen readers."""
    new = [str(at) for old, at in columns if old is None]
    dropped = [str(old) for old, at in columns if at is None]
    parts = [f"{before.depth} layers before, {after.depth} after"]
    parts += [f"new after: {', '.join(new)}"] * bool(new)
    parts += [f"dropped from before: {', '.join(dropped)}"] * bool(dropped)
    return "; ".join(parts)
