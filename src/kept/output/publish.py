"""The last steps of an output: it is measured before it has its name, and gets another where it broke its promise."""

from __future__ import annotations

import os
from itertools import chain, count
from shutil import rmtree
from typing import TYPE_CHECKING

from kept.checkpoint.staging import Staging
from kept.errors import PromiseError
from kept.loaded import LoadedModel, open_model
from kept.output.record import RECORD

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.promise import Claim
    from kept.reporting import Reporter
    from kept.verification.text import Sample
    from kept.verification.verify import Verification


def verify_staged(
    source: LoadedModel, stage: Staging, sample: Sample, claim: Claim, reporter: Reporter
) -> Verification:
    """Measure what is staged against its source."""
    from kept.verification.verify import layer_runs, verify_pair

    output = open_model(stage.path)
    with reporter.stage("verify", layer_runs(source, output, claim), "layer runs") as advance:
        return verify_pair(source, output, sample, claim, progress=advance)


def require_kept(stage: Staging, found: Verification | None) -> None:
    """Raise PromiseError for a result that broke its promise; it is published beside its target, as `.unkept`."""
    if found is None or found.failure is None:
        return
    aside = _set_aside(stage)
    raise PromiseError(f"{stage.target}: not written; {found.failure}; the result is in {aside} for a look")


def _set_aside(stage: Staging) -> Path:
    """Publish a result that broke its promise as `.unkept`, in place of an earlier one."""
    first = stage.target.with_name(f"{stage.target.name}.unkept")
    places = chain([first], (first.with_name(f"{first.name}-{number}") for number in count(2)))
    aside = next(place for place in places if _is_ours(place) or not os.path.lexists(place))
    if _is_ours(aside):
        rmtree(aside)
    Staging(stage.path, aside).publish()
    return aside


def _is_ours(place: Path) -> bool:
    """Whether a directory is the output of a run; a link to one is not."""
    return not place.is_symlink() and (place / RECORD).is_file()
