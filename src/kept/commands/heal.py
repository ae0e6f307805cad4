"""Heal a converted model: distil from its teacher what the conversion could not keep, and write a checkpoint again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from kept.checkpoint.backup import replacing
from kept.checkpoint.small_files import refused
from kept.checkpoint.staging import check_target
from kept.distillation.settings import HealSettings
from kept.distillation.train.run_directory import (
    comparable_settings,
    lock_run_directory,
    previous_settings,
    remove_checkpoints,
    run_directory,
)
from kept.distillation.train.tracker import check_tracker
from kept.output.record import RECORD
from kept.reporting import Progress, Reporter, Silent, reporter_of, shows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kept.commands.heal_run import HealResult
    from kept.option_types import HealOptions

    Watch = Callable[[Mapping[str, Any]], None]


def heal(
    student: str | Path,
    out: str | Path,
    *,
    watch: Watch | None = None,
    progress: Progress = False,
    force: bool = False,
    **options: Unpack[HealOptions],
) -> HealResult:
    """Distil a teacher into a student, or train the student on text, and write the weights of the best measurement.

    The same call continues a run that was interrupted. Metrics and checkpoints are in a hidden directory beside the
    output. The result is compared with the teacher before it gets its name.

    Args:
        student: the converted model to train.
        out: the directory to write.
        watch: is called with each line of metrics.
        progress: True shows bars on stderr; or a `kept.Reporter`.
        force: replace `out` if it exists; the old one is renamed to `out.backup-1`, or the next free number.
        options: other fields of `kept.HealSettings`, such as teacher, data, train, tokens or learning_rate; `loss` is
            "kl", "reverse_kl", "jsd" or "ce".

    Returns:
        Output path, held-out measurements, record, and the comparison with the teacher (None without a teacher).

    Raises:
        RecipeError: an option is wrong.
        InputError: the two models or their tokenizers do not fit together, or the data cannot be read.
        Diverged: the loss is NaN, Inf or far above the previous ones.
        OutputError: the output cannot be written.
        PromiseError: the result has NaN or Inf in its logits.

    Example:
        ```python
        kept.heal("out/plain", "out/healed", teacher="path/to/orion", tokens="2M", learning_rate=3e-4)
        done = kept.heal("out/pro", "out/korean", train="new", loss="ce", data="korean/", progress=True)
        print(done.history[-1].losses)
        done = kept.heal("out/mla", "out/healed", teacher="smollm2", data="corpus/", layerwise=True, tokens="200K")
        print(done.kl.before, done.kl.after, {name: one.best.losses["loss"] for name, one in done.groups.items()})
        ```
    """
    settings = HealSettings.from_table({"student": str(student), "out": str(out)}, **options)
    with replacing(out, force=force and shows(), asked=settings):
        return run_heal(settings, reporter_of(progress), watch, force=force)


def run_heal(
    settings: HealSettings, reporter: Reporter | None = None, watch: Watch | None = None, *, force: bool = False
) -> HealResult:
    """Run `kept.heal`. With `force`, the caller has moved an earlier output aside on the first rank."""
    check_tracker(settings.report_to)
    target = Path(settings.out)
    if target.name:
        with refused(target):
            _remove_old_checkpoints(target, settings)
    if shows() or not force:  # with force, the first rank moves an earlier output aside
        check_target(target)  # before torch is imported, which takes seconds

    from kept.commands.heal_run import heal_run

    return heal_run(settings, Silent() if reporter is None else reporter, watch or (lambda _: None))


def _remove_old_checkpoints(target: Path, settings: HealSettings) -> None:
    """Remove the checkpoints of the same command's run that was killed after its output was published."""
    folder = run_directory(target)
    if not (shows() and target.name and (target / RECORD).is_file() and any(folder.glob("step-*"))):
        return
    with ExitStack() as stack:
        lock_run_directory(folder, stack)
        before = previous_settings(folder)
        if all(before.get(key) == value for key, value in comparable_settings(settings).items() if key != "chat_date"):
            remove_checkpoints(folder, "step-*")
