"""The section of the report about the architecture: layers before and after as a picture, and both in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.ir.serialise import from_json
from kept.pages.blocks import Code, LayerCell, LayerColumn, LayerMap, Section
from kept.pages.layer_styles import LayerStyles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kept.ir.spec import Spec
    from kept.output.record import ModelSize, Record

    Column = tuple[int | None, int | None]
    """Index of a layer before and after; None if the layer exists in one of the two models only."""


def architecture(record: Record) -> Section | None:
    """Return the section; None if neither architecture is recorded."""
    words = tuple(_words(record))
    picture = _picture(record)
    return Section("architecture", "Architecture", (*([] if picture is None else [picture]), *words)) if words else None


def _words(record: Record) -> Iterator[Code]:
    """Yield the architecture before and after; once if both are the same."""
    sizes = [(when, size) for when, size in (("before", record.before), ("after", record.after)) if size is not None]
    if len({size.description for _, size in sizes}) < len(sizes):
        sizes = [("before and after", sizes[0][1])]
    for when, size in sizes:
        yield Code(f"The architecture {when}", "\n".join(size.description), wraps=True)


def _picture(record: Record) -> LayerMap | None:
    """Return the picture; None if a model or the origins of its layers are not recorded."""
    before, after = _spec(record.before), _spec(record.after)
    if before is None or after is None or record.layers is None or len(record.layers.origins) != after.depth:
        return None
    return layer_map(before, after, record.layers.origins) if record.layers.of_source == before.depth else None


def _spec(size: ModelSize | None) -> Spec | None:
    try:
        return None if size is None else from_json(size.spec)
    except CheckpointError:
        return None  # written by another version; the words are still right


def layer_map(before: Spec, after: Spec, origins: Sequence[int | str]) -> LayerMap:
    """Return the picture of two models. `origins` has for each layer after its index before, or what made it."""
    styles, columns = LayerStyles.of(before, after), _columns(origins, before.depth)
    drawn = (
        LayerColumn(_cell(before, "before", old, styles), _cell(after, "after", at, styles, is_new=old is None), at)
        for old, at in columns
    )
    caption = f"Each column is a layer, its {styles.mixer} above its MLP. A frame marks a new layer.{styles.scale}"
    return LayerMap(caption, _summary(before, after, columns), tuple(drawn), styles.legend)


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


def _cell(spec: Spec, when: str, at: int | None, styles: LayerStyles, *, is_new: bool = False) -> LayerCell | None:
    if at is None:
        return None
    layer = spec.layers[at]
    words = (operation.describe() for operation in (layer.mixer, layer.mlp) if operation is not None)
    boxes = styles.box("mixer", layer.mixer), styles.box("mlp", layer.mlp)
    return LayerCell(f"{when}, layer {at}: {'; '.join(words) or 'nothing'}", boxes, is_new)


def _summary(before: Spec, after: Spec, columns: Sequence[Column]) -> str:
    """Return the picture in words."""
    new = [str(at) for old, at in columns if old is None]
    dropped = [str(old) for old, at in columns if at is None]
    parts = [f"{before.depth} layers before, {after.depth} after"]
    parts += [f"new after: {', '.join(new)}"] * bool(new)
    parts += [f"dropped from before: {', '.join(dropped)}"] * bool(dropped)
    return "; ".join(parts)
