"""Pair the layers of a student and its teacher by origin, as the student's record states it.

A place of the residual stream has the number of the layer that reads it; the final norm reads the last place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import digest
from kept.errors import InputError
from kept.json_values import blamed, listed, mapped, text, whole
from kept.output.record import RECORD, copies, recorded
from kept.passes.affine_tail import AffineTail

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from kept.loaded import LoadedModel

    Record = Mapping[str, Any]
    Origins = tuple[int | str, ...]
    """For each layer: its index in an earlier model, or the name of the pass that made it."""

    Earlier = tuple[Origins, int, Mapping[str, Any]]
    """The origins in an earlier model, that model's depth, and the sha256 of its files by name."""

CONVERSION = ("source", "recipe", "passes")
"""Keys of a record that describe the conversion; the record of a second healing repeats them."""


def paired(student: LoadedModel, teacher: LoadedModel) -> tuple[tuple[int, int], ...]:
    """Return (teacher place, student place) pairs at which both residual streams should be equal.

    The input of the first layer is left out. Inputs of inserted copies have no pair. The input of an affine tail is
    paired with the input of the teacher's final norm. Raises InputError if the record does not state the origins.
    """
    depths = teacher.program.spec.depth, student.program.spec.depth
    record = recorded(student)
    with blamed(student.path / RECORD, "the record", "convert again, or leave out --hidden"):
        found = [one for one in _earlier(record, depths[1]) if one[1] == depths[0]]
        origins = _chosen(found, student, teacher) if found or "layers" in record else _by_copies(record, *depths)
    if origins is None:
        raise InputError(
            f"hidden: {student.path} has {depths[1]} layers, its teacher {teacher.path} has {depths[0]}, and no record "
            "tells which are which; leave out --hidden, or name the model that the student was made from"
        )
    end = origins.index(AffineTail.name) if AffineTail.name in origins else depths[1]
    pairs = [(origin, place) for place, origin in enumerate(origins) if isinstance(origin, int)]
    return tuple((theirs, ours) for theirs, ours in (*pairs, (depths[0], end)) if ours)


def _earlier(record: Record, depth: int) -> Iterator[Earlier]:
    """Yield the model itself, then each model that it was made from, as far as the records go."""
    now: Origins = tuple(range(depth))
    yield now, depth, {}
    after: Record = {}
    for one in (record, *reversed(listed(record.get("history", [])))):
        if "layers" not in one:
            return
        if [one.get(key) for key in CONVERSION] == [after.get(key) for key in CONVERSION]:
            continue
        layers, after = mapped(one["layers"]), one
        before = [_origin(origin, whole(layers["of_source"])) for origin in listed(layers["origins"])]
        now = tuple(before[origin] if isinstance(origin, int) else origin for origin in now)
        yield now, whole(layers["of_source"]), mapped(one["source"]["files"])


def _origin(value: object, depth: int) -> int | str:
    if isinstance(value, str):
        return value
    if not 0 <= whole(value) < depth:
        raise ValueError(f"there is no layer {value}")
    return whole(value)


def _chosen(found: Sequence[Earlier], student: LoadedModel, teacher: LoadedModel) -> Origins | None:
    """Return the origins in the teacher. If several models have its depth, its files decide; None if none match."""
    if len({origins for origins, _, _ in found}) <= 1:
        return found[0][0] if found else None
    if teacher.path.resolve() == student.path.resolve():
        return found[0][0]
    return next((origins for origins, _, sums in found if sums and _same(teacher.path, sums)), None)


def _same(path: Path, sums: Mapping[str, Any]) -> bool:
    """Return whether the files of a checkpoint have these sha256 sums."""
    files = {path / text(name): value for name, value in sums.items()}
    return all(file.parent == path and file.is_file() and digest(file) == value for file, value in files.items())


def _by_copies(record: Record, before: int, after: int) -> Origins | None:
    """Derive the origins from a record without `layers`: from its expansions and its affine tail. None if unknown."""
    added = copies(record, before, after)
    names = [mapped(one).get("name") for one in listed(record.get("passes", []))]
    tail = (AffineTail.name,) if before + len(added) + 1 == after and AffineTail.name in names else ()
    if before + len(added) + len(tail) != after or not record:
        return None
    old = iter(range(before))
    return (*("copy" if n in added else next(old) for n in range(after - len(tail))), *tail)
