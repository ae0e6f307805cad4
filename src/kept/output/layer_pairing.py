"""Pair the residual streams of a student and its teacher, as the student's record states it: layers by their origin.

A place of the residual stream has the number of the layer that reads it; the final norm reads the last place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kept.checkpoint.byte_stream import digest
from kept.errors import InputError
from kept.ir.stream_map import IDENTITY, StreamMap
from kept.output.record import PastRecord, Record, read_record
from kept.output.record_queries import copies
from kept.passes.affine_tail import AffineTail

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from kept.loaded import LoadedModel

    Origins = tuple[int | str, ...]
    """For each layer: its index in an earlier model, or the name of the pass that made it."""


@dataclass(frozen=True)
class Ancestor:
    """A model that another was made from, or that model itself.

    `origins` are those of the later model's layers, `stream` maps the ancestor's residual stream to the later model's,
    `files` are the sha256 of the ancestor's files by name.
    """

    origins: Origins
    depth: int
    stream: StreamMap = IDENTITY
    files: Mapping[str, str] = field(default_factory=dict)


def paired(student: LoadedModel, teacher: LoadedModel) -> tuple[tuple[int, int], ...]:
    """Return (teacher place, student place) pairs at which the stream map maps one residual stream to the other.

    The input of the first layer is left out. Inputs of inserted copies have no pair. The input of an affine tail is
    paired with the input of the teacher's final norm. Raises InputError if the record does not state the origins.
    """
    depths = teacher.program.spec.depth, student.program.spec.depth
    origins = layer_origins(student, teacher)
    if origins is None:
        raise InputError(
            f"hidden: {student.path} has {depths[1]} layers, its teacher {teacher.path} has {depths[0]}, and no record "
            "tells which are which; leave out --hidden, or name the model that the student was made from"
        )
    end = origins.index(AffineTail.name) if AffineTail.name in origins else depths[1]
    pairs = [(origin, place) for place, origin in enumerate(origins) if isinstance(origin, int)]
    return tuple((theirs, ours) for theirs, ours in (*pairs, (depths[0], end)) if ours)


def layer_origins(student: LoadedModel, teacher: LoadedModel) -> Origins | None:
    """Return for each layer of the student its index in the teacher, or the name of the pass that made it.

    None if the student's record does not state the origins.
    """
    depths = teacher.program.spec.depth, student.program.spec.depth
    record = read_record(student.path) or Record()
    found = _ancestors(record, *depths)
    if not found and record.layers is None:
        return _by_copies(record, *depths)
    chosen = _chosen(found, student, teacher)
    return None if chosen is None else chosen.origins


def stream_map(student: LoadedModel, teacher: LoadedModel) -> StreamMap:
    """Return the map from the teacher's residual stream to the student's; the identity if no record states another."""
    record = read_record(student.path) or Record()
    found = _ancestors(record, teacher.program.spec.depth, student.program.spec.depth)
    chosen = _chosen(found, student, teacher)
    return IDENTITY if chosen is None else chosen.stream


def _ancestors(record: Record, before: int, after: int) -> list[Ancestor]:
    """Return the model of `after` layers itself and its ancestors, newest first: those with `before` layers."""
    return [one for one in _lineage(record, after) if one.depth == before]


def _lineage(record: Record, depth: int) -> Iterator[Ancestor]:
    """Yield the model itself, then each model that it was made from, as far as the records go."""
    now = Ancestor(tuple(range(depth)), depth)
    yield now
    after = PastRecord()
    for one in reversed(record.chain):
        if one.layers is None:
            return
        if one.same_conversion(after):
            continue
        if len(one.layers.origins) != now.depth:
            return
        before, after = one.layers.origins, one
        origins = tuple(before[origin] if isinstance(origin, int) else origin for origin in now.origins)
        stream = StreamMap(one.stream.centred, one.stream.constant, one.stream.scale).then(now.stream)
        now = Ancestor(origins, one.layers.of_source, stream, {} if one.source is None else one.source.files)
        yield now


def _chosen(found: Sequence[Ancestor], student: LoadedModel, teacher: LoadedModel) -> Ancestor | None:
    """Return the ancestor that is the teacher. If they differ in what a comparison needs, the teacher's files decide.

    If no files match, it is the oldest whose layers have the same origins as all others'; None if origins differ.
    """
    if len({(one.origins, one.stream.constant, one.stream.scale) for one in found}) <= 1:
        return found[0] if found else None
    if teacher.path.resolve() == student.path.resolve():
        return found[0]
    matching = (one for one in found if one.files and _same(teacher.path, one.files))
    alike = found[-1] if len({one.origins for one in found}) == 1 else None
    return next(matching, alike)


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
