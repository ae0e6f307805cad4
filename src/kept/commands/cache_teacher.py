"""Cache a teacher: write its top-k tokens once, for `kept heal --teacher-cache` to read instead of running it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kept.distillation.settings import LISTED
from kept.errors import InputError, OutputError
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from kept.commands.write_teacher_cache import CachedTeacher
    from kept.distillation.settings import HealSettings


def cache_teacher(settings: HealSettings, top_k: int = LISTED, reporter: Reporter | None = None) -> CachedTeacher:
    """Run the teacher once over the data, and store the `top_k` most likely tokens at each position.

    Training runs with the same data, sequence length, held-out part and temperature read the result, whatever their
    seed, batch size, mixture and number of epochs. The same call continues after an interruption.

    Args:
        settings: `teacher`, `data` and `tokens` say what is read; `out` is the directory of the cache.
        top_k: number of tokens stored for each distribution, with the probability mass of all others.
        reporter: receives progress.

    Returns:
        Path and bytes of the cache, and its record with the bias of the KL, measured against the settings' student (or,
        if that is the teacher itself, against the teacher without its last layer).

    Raises:
        InputError: settings or data do not fit, or `out` is a cache of something else.

    Example:
        ```python
        settings = kept.HealSettings("out/plain", "out/cache", teacher="path/to/orion", data=("corpus/",))
        kept.cache_teacher(settings, top_k=64)
        ```
    """
    _check(top_k, Path(settings.out))
    from kept.commands.write_teacher_cache import write_teacher_cache

    return write_teacher_cache(settings, top_k, Silent() if reporter is None else reporter)


def _check(top_k: int, out: Path) -> None:
    if top_k < 1:
        raise InputError(f"top_k: is {top_k}, it must be at least 1")
    if not out.is_dir() and os.path.lexists(out):
        raise OutputError(f"{out}: is not a directory; name another place for the cache")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "cache-teacher: runs as one process; start it without torchrun (healing reads the cache on any ranks)"
        )
