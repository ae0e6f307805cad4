"""Publish a staged output, or set it aside if it broke its promise."""

from __future__ import annotations

import os
from itertools import chain, count
from shutil import rmtree
from typing import TYPE_CHECKING

from kept.checkpoint.staging import Staging
from kept.errors import PromiseError
from kept.output.record import RECORD

if TYPE_CHECKING:
    from pathlib import Path

    from kept.verification.verify import Verification


def require_kept(stage: Staging, found: Verification | None) -> None:
    """Raise PromiseError for a result that broke its promise; it is published beside its target, as `.unkept`."""
    if found is None or found.failure is None:
        return
    aside = _set_aside(stage)
    raise PromiseError(f"{stage.target}: not written; {found.failure}; the result is in {aside} for a look")


def _set_aside(stage: Staging) -> Path:
    """Publish a result as `.unkept` and return its path. Replaces an earlier result that was set aside."""
    first = stage.target.with_name(f"{stage.target.name}.unkept")
    places = chain([first], (first.with_name(f"{first.name}-{number}") for number in count(2)))
    aside = next(place for place in places if _is_output(place) or not os.path.lexists(place))
    if _is_output(aside):
        rmtree(aside)
    Staging(stage.path, aside).publish()
    return aside


def _is_output(place: Path) -> bool:
    """Return whether a path is the output directory of a run; a link to one is not."""
    return not place.is_symlink() and (place / RECORD).is_file()
