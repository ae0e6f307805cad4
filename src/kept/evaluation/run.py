"""Evaluating: one model, or two side by side on the same items, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kept.errors import InputError
from kept.evaluation.estimate import Estimate, Figure, average, difference
from kept.evaluation.pieces import Piece, pieces
from kept.evaluation.settings import Settings
from kept.evaluation.store import Store
from kept.evaluation.subject import Subject
from kept.ir.tensors import TORCH_NAMES
from kept.opened import open_model
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Found = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A model that was measured: its name, family and dtype, and the sum of its files."""

    name: str
    family: str
    dtype: str
    identity: str


@dataclass(frozen=True)
class Row:
    """One metric of one piece.

    `models` has a figure for each model; `difference` is the second less the first, over the same items. `agreement` is
    a figure of both together. `detail`: another metric than the one that counts, or one of very many tasks.
    """

    part: str
    name: str
    metric: str
    items: int
    models: tuple[Figure, ...] = ()
    difference: Figure | None = None
    agreement: Figure | None = None
    detail: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What was asked, of which models, and what was found; `texts` has what they wrote, by piece, for each model."""

    models: tuple[Model, ...]
    settings: Settings
    rows: tuple[Row, ...]
    texts: Mapping[str, tuple[Any, ...]]


def evaluate(
    path: str | Path,
    other: str | Path | None = None,
    *,
    texts: Mapping[str, str | Path] | None = None,
    results: str | Path = "kept-eval",
    reporter: Reporter | None = None,
    **options: Any,  # noqa: ANN401 - Settings names and checks them
) -> Evaluation:
    """Measure a checkpoint, or two side by side, of any families.

    `texts`: files by domain. `options`: the other settings (see `kept.evaluation.settings.Settings`). What is finished
    is kept in the directory `results`, keyed by the files' sums and the settings, and not measured again. One model is
    in memory at a time. Raises KeptError kinds.
    """
    settings = _settings(texts or {}, options)
    paths = [path] if other is None else [path, other]
    if other is None and "agreement" in settings.suites:
        raise InputError("agreement: compares two models; name the other one")
    asked = [*pieces(settings)]
    store = Store(Path(results))
    measured = [_measure(one, settings, asked, store, reporter or Silent()) for one in paths]
    found = [results for _, results in measured]
    return Evaluation(tuple(model for model, _ in measured), settings, tuple(_rows(asked, found)), _texts(asked, found))


def _settings(texts: Mapping[str, str | Path], options: Mapping[str, Any]) -> Settings:
    unknown = [key for key in options if key not in Settings.__dataclass_fields__]
    if unknown:
        raise InputError(f"{unknown[0]}: is no setting; there are {', '.join(Settings.__dataclass_fields__)}")
    given = {**options, "suites": tuple(options.get("suites", ()))}
    if given.get("data") is not None:
        given["data"] = Path(given["data"])
    return Settings(texts={name: Path(file) for name, file in texts.items()}, **given)


def _measure(
    path: str | Path, settings: Settings, asked: Sequence[Piece], store: Store, reporter: Reporter
) -> tuple[Model, list[Found]]:
    """Every piece of one model, which is loaded only if one of them is not finished, and let go of at the end."""
    opened = open_model(path)
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    subject = Subject(opened, dtype, settings.device, reporter)
    found = [piece.find(subject, store) for piece in asked]
    named = settings.dtype or TORCH_NAMES[opened.program.dtype]
    return Model(opened.name, opened.family.name, named, subject.identity), found


def _rows(asked: Sequence[Piece], found: Sequence[Sequence[Found]]) -> Iterator[Row]:
    """Rows of every piece, and behind the last of a group or a suite those of its average."""
    held: list[tuple[Piece, list[Estimate]]] = []
    for n, piece in enumerate(asked):
        results = [each[n] for each in found]
        if piece.figures is not None:
            tables = [piece.figures(result) for result in results]
            yield from (_row(piece, metric, tables) for metric in tables[0] if all(metric in table for table in tables))
            if piece.headline is not None:
                held.append((piece, [table[piece.headline] for table in tables]))
        if piece.alike is not None and len(results) == 2:
            yield from _agreements(piece, piece.alike(*results))
        if n + 1 == len(asked) or asked[n + 1].part != piece.part:
            yield from _averages(held)
            held = []


def _row(piece: Piece, metric: str, tables: Sequence[Mapping[str, Estimate]]) -> Row:
    estimates = [table[metric] for table in tables]
    detail = piece.group is not None or piece.headline not in {None, metric}
    return _compared(Row(piece.part, piece.name, metric, len(estimates[0].pulls), detail=detail), estimates)


def _compared(row: Row, estimates: Sequence[Estimate]) -> Row:
    apart = difference(*estimates) if len(estimates) == 2 else None
    return replace(row, models=tuple(estimate.figure for estimate in estimates), difference=apart)


def _agreements(piece: Piece, found: Mapping[str, Estimate]) -> Iterator[Row]:
    for metric, one in found.items():
        yield Row(piece.part, piece.name, metric, len(one.pulls), agreement=one.figure)


def _averages(held: Sequence[tuple[Piece, list[Estimate]]]) -> Iterator[Row]:
    """The average of each group, weighted by documents, and of the suite, where a group counts as one task."""
    if len(held) < 2:
        return
    entries: list[list[Estimate]] = []
    for group in dict.fromkeys(piece.group for piece, _ in held):
        mine = [estimates for piece, estimates in held if piece.group == group]
        if group is None:
            entries += mine
            continue
        joined = [average(column, [len(e.pulls) for e in column]) for column in zip(*mine, strict=True)]
        headline = next(piece.headline for piece, _ in held if piece.group == group)
        yield _compared(Row(held[0][0].part, group, str(headline), len(joined[0].pulls)), joined)
        entries.append(joined)
    if len(entries) > 1:
        joined = [average(column) for column in zip(*entries, strict=True)]
        yield _compared(Row(held[0][0].part, "average", "of the tasks", len(joined[0].pulls)), joined)


def _texts(asked: Sequence[Piece], found: Sequence[Sequence[Found]]) -> dict[str, tuple[Any, ...]]:
    """What models wrote: prompts with continuations, questions with answers."""
    written = [n for n, piece in enumerate(asked) if piece.alike is not None]
    return {f"{asked[n].part}: {asked[n].name}": tuple(_written(each[n]) for each in found) for n in written}


def _written(found: Found) -> Any:  # noqa: ANN401 - answers, or prompts with texts
    return found["answers"] if "answers" in found else [*map(list, zip(found["prompts"], found["texts"], strict=True))]
