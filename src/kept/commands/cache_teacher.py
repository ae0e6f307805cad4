"""Cache a teacher: write its top-k tokens once, for `kept heal --teacher-cache` to read instead of running it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from kept.checkpoint.small_files import check_writable, refused
from kept.distillation.settings import HealSettings
from kept.distillation.settings_fields import LISTED
from kept.errors import InputError, OutputError
from kept.reporting import Progress, Reporter, Silent, reporter_of

if TYPE_CHECKING:
    from kept.commands.write_teacher_cache import CachedTeacher
    from kept.option_types import CacheOptions


SHARED = (
    "data",
    "text_field",
    "chat",
    "chat_template",
    "chat_date",
    "mixture",
    "hold_out",
    "tokens",
    "batch_size",
    "sequence_length",
    "temperature",
    "sample_temperatures",
    "dtype",
    "device",
    "seed",
)
"""Settings that decide what a teacher cache holds, and where it is computed."""


def cache_teacher(
    teacher: str | Path,
    out: str | Path,
    *,
    student: str | Path | None = None,
    top_k: int = LISTED,
    progress: Progress = False,
    **options: Unpack[CacheOptions],
) -> CachedTeacher:
    """Run a teacher over the data, and store the `top_k` most likely tokens at each position.

    Training runs with the same data, sequence length, held-out part and temperature read the result, whatever their
    seed, batch size, mixture and number of epochs. The same call continues after an interruption.

    Args:
        teacher: the model to run.
        out: the directory of the cache.
        student: the model against which the bias of the KL is measured. [default: the teacher without its last layer]
        top_k: number of tokens stored for each distribution, with the probability mass of all others.
        progress: True shows bars on stderr; or a `kept.Reporter`.
        options: `data`, `tokens` and other fields of `kept.HealSettings` that decide what is read.

    Returns:
        Path and bytes of the cache, and its record with the bias of the KL.

    Raises:
        RecipeError: an option is wrong.
        InputError: settings or data do not fit, or `out` is a cache of something else.

    Example:
        ```python
        kept.cache_teacher("path/to/orion", "out/cache", data="corpus/", tokens="2M", top_k=64)
        ```
    """
    models = {"student": str(student or teacher), "teacher": str(teacher), "out": str(out)}
    return run_cache_teacher(HealSettings.from_table(models, **options), top_k, reporter_of(progress))


def run_cache_teacher(settings: HealSettings, top_k: int = LISTED, reporter: Reporter | None = None) -> CachedTeacher:
    """Run `kept.cache_teacher`."""
    _check(top_k, Path(settings.out))
    from kept.commands.write_teacher_cache import write_teacher_cache

    return write_teacher_cache(settings, top_k, Silent() if reporter is None else reporter)


def _check(top_k: int, out: Path) -> None:
    if top_k < 1:
        raise InputError(f"top_k: is {top_k}, it must be at least 1")
    with refused(out):
        if not out.is_dir() and os.path.lexists(out):
            raise OutputError(f"{out}: is not a directory; name another place for the cache")
    if out.name:
        check_writable(out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "cache-teacher: runs as one process; start it without torchrun (healing reads the cache on any ranks)"
        )
