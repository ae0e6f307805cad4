"""Pair the layers of a student and its teacher by origin, as the student's record states it.

A place of the residual stream has the number of the layer that reads it; the final norm reads the last place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.checkpoint.byte_stream import digest
from kept.errors import InputError
from kept.output.record import PastRecord, Record, read_record
from kept.output.record_queries import copies
from kept.passes.affine_tail import AffineTail

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from kept.loaded import LoadedModel

    Origins = tuple[int | str, ...]
    """For each layer: its index in an earlier model, or the name of the pass that made it."""

    Earlier = tuple[Origins, int, Mapping[str, str]]
    """The origins in an earlier model, that model's depth, and the sha256 of its files by name."""


def paired(student: LoadedModel, teacher: LoadedModel) -> tuple[tuple[int, int], ...]:
    """Return (teacher place, student place) pairs at which both residual streams should be equal.

    The input of the first layer is left out. Inputs of inserted copies have no pair. The input of an affine tail is
    paired with the input of the teacher's final norm. Raises InputError if the record does not state the origins.
    """
    depths = teacher.program.spec.depth, student.program.spec.depth
    record = read_record(student.path) or Record()
    found = [one for one in _earlier(record, depths[1]) if one[1] == depths[0]]
    known = found or record.layers is not None
    origins = _chosen(found, student, teacher) if known else _by_copies(record, *depths)
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
    after = PastRecord()
    for one in reversed(record.chain):
        if one.layers is None:
            return
        if one.same_conversion(after):
            continue
        if len(one.layers.origins) != depth:
            return
        before, after, depth = one.layers.origins, one, one.layers.of_source
        now = tuple(before[origin] if isinstance(origin, int) else origin for origin in now)
        yield now, depth, {} if one.source is None else one.source.files


def _chosen(found: Sequence[Earlier], student: LoadedModel, teacher: LoadedModel) -> Origins | None:
    """Return the origins in the teacher. If several models have its depth, its files decide; None if none match."""
    if len({origins for origins, _, _ in found}) <= 1:
        return found[0][0] if found else None
    if teacher.path.resolve() == student.path.resolve():
        return found[0][0]
    return next((origins for origins, _, sums in found if sums and _same(teacher.path, sums)), None)


def _same(path: Path, sums: Mapping[str, str]) -> bool:
    """Return whether the files of a checkpoint have these sha256 sums."""
    files = {path / name: value for name, value in sums.items()}
    return all(file.parent == path and file.is_file() and digest(file) == value for file, value in files.items())


def _by_copies(record: Record, before: int, after: int) -> Origins | None:
    """Derive the origins from a record without `layers`: from its expansions and its affine tail. None if unknown."""
    added = copies(record, before, after)
    names = [one.name for one in record.passes or ()]
    tail = (AffineTail.name,) if before + len(added) + 1 == after and AffineTail.name in names else ()
    if before + len(added) + len(tail) != after or record == Record():
        return None
    old = iter(range(before))
    return (*("copy" if n in added else next(old) for n in range(after - len(tail))), *tail)
