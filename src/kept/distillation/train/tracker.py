"""Metrics of a run in an experiment tracker, Weights & Biases or Trackio, named as the Trainer of transformers does.

A tracker only receives what `metrics.jsonl` has. If it fails, the run goes on without it.
"""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import finite, read_json, to_json
from kept.checkpoint.small_files import write_whole
from kept.distillation.train.metrics import scalars
from kept.errors import InputError, cause, printable
from kept.terminal import hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kept.distillation.settings import HealSettings
    from kept.distillation.settings_fields import Tracker

    Watch = Callable[[Mapping[str, Any]], None]

IDS = "tracker.json"
"""File of a run directory with the id that the run has in each tracker."""

SPLITS = {"step": "train", "held-out": "eval"}
"""Prefixes of the names, by the kind of a line."""

STEP = "train/global_step"

ABOUT = ("steps", "tokens_a_step", "ranks", "parameters", "of", "sources")
"""Values of the first line that a tracker shows beside the settings."""


def check_tracker(name: Tracker | None) -> None:
    """Raise InputError if the package of a tracker is not installed."""
    if name is not None and find_spec(name) is None:
        raise InputError(f"report_to: {name} is not installed; pip install {name}, or leave it out")


@contextmanager
def tracked(settings: HealSettings, folder: Path, watch: Watch) -> Iterator[Watch]:
    """Give a function that passes each line of metrics to the tracker of the settings and to `watch`.

    `folder` is the run directory, in which the run's id is kept: a run that is resumed continues the tracker's run.
    """
    if settings.report_to is None:
        yield watch
        return
    tracker = TrackedRun(settings.report_to, settings, folder, watch)
    try:
        yield tracker
    except BaseException:
        tracker.finish(failed=True)
        raise
    tracker.finish(failed=False)


class TrackedRun:
    """Reports lines of metrics to a tracker. The run begins with the line "run".

    An exception of the tracker becomes one line on stderr, and nothing more is reported.
    """

    def __init__(self, name: Tracker, settings: HealSettings, folder: Path, watch: Watch) -> None:
        self.name, self.settings, self.folder, self.watch = name, settings, folder, watch
        self._run: Any = None
        self._failed = False
        self._groups: tuple[str, ...] = ()

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Report a line, then pass it on."""
        with self._caught():
            if line["kind"] == "run":
                self._groups = tuple(line["groups"])
                self._run = self._begin(line)
            elif self._run is not None and not self._failed and line["kind"] in SPLITS:
                self._log(line)
        self.watch(line)

    def finish(self, *, failed: bool) -> None:
        """End the run, which a resumed run continues. Waits until the tracker has sent what it was given."""
        with self._caught():
            run, self._run = self._run, None
            if run is not None:
                run.finish(**({"exit_code": int(failed)} if self.name == "wandb" else {}))

    @contextmanager
    def _caught(self) -> Iterator[None]:
        """Keep exceptions of the tracker, and what it prints, away from the run and from stdout."""
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:  # noqa: BLE001 - whatever the tracker raises
            self._failed = True
            hint(printable(f"{self.name}: {cause(error)}; the run goes on, and its metrics are in {self.folder}"))

    def _begin(self, line: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a run of the tracker
        """Begin the tracker's run, or continue that of the run which is resumed."""
        run_id = _run_id(self.folder / IDS, self.name, resumed=line["step"] > 0)
        name, config = Path(self.settings.out).name, {**self.settings.to_dict(), **{key: line[key] for key in ABOUT}}
        return (_begin_wandb if self.name == "wandb" else _begin_trackio)(name, run_id, config)

    def _log(self, line: Mapping[str, Any]) -> None:
        values = tracked_values(line, self._groups)
        self._run.log(values, **({} if self.name == "wandb" else {"step": line["step"]}))


def tracked_values(line: Mapping[str, Any], groups: tuple[str, ...]) -> dict[str, float]:
    """Return the numbers of a line by the names of transformers, such as `train/loss` and `eval/loss`.

    The names have the parameter group if the run has several: `train/layers.3/loss`.
    """
    split = SPLITS[line["kind"]]
    own = line["groups"] if len(groups) > 1 else line["groups"].get(groups[0], {})
    rest = {key: value for key, value in line.items() if key != "groups"}
    found = dict(scalars(split, finite({**rest, **own})))
    named = {name.replace("gradient_norm", "grad_norm"): value for name, value in found.items()}
    return {**named, STEP: line["step"], "train/num_input_tokens_seen": line["tokens"]}


def _run_id(file: Path, tracker: str, *, resumed: bool) -> str:
    """Return the id of the run to continue, or a new one, which is stored."""
    stored = read_json(file) if resumed and file.is_file() else {}
    if tracker not in stored:
        stored[tracker] = secrets.token_hex(4)
        write_whole(file, to_json(stored))
    return str(stored[tracker])


def _begin_wandb(name: str, run_id: str, config: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a run of wandb
    """Begin or continue a run. The environment variables of wandb win over project, name and id."""
    wandb = import_module("wandb")
    asked = {"project": ("WANDB_PROJECT", "kept"), "name": ("WANDB_NAME", name), "id": ("WANDB_RUN_ID", run_id)}
    own = {key: os.environ.get(variable, value) for key, (variable, value) in asked.items()}
    # wandb would capture the live table of the terminal.
    quiet = wandb.Settings(console="off")
    run = wandb.init(**own, resume="allow", config=config, reinit="create_new", settings=quiet)
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    return run


def _begin_trackio(name: str, run_id: str, config: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a run of trackio
    """Begin or continue a run. Trackio finds a run by its name, so that the name contains the id."""
    project = os.environ.get("TRACKIO_PROJECT", "kept")
    trackio = import_module("trackio")
    return trackio.init(project=project, name=f"{name}-{run_id}", resume="allow", config=config, embed=False)
