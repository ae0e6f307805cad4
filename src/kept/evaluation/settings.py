"""What an evaluation is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from kept.errors import InputError
from kept.evaluation.tasks import NAMES
from kept.ir.tensors import TORCH_NAMES
from kept.toml_file import is_date

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DTYPES = tuple(TORCH_NAMES.values())


@dataclass(frozen=True)
class EvalSettings:
    """What is measured, and how. Raises InputError naming the option that is wrong.

    `texts`: files by domain; without any, the built-in sample. `old`, `new`: the domains that the first model knew, and
    those that later models were to learn. `suites`: some of `NAMES`. `data`: the folder of the tasks' files. `window`,
    `stride`: of perplexity, in tokens (None: the context, and half the window). `characters`: how much of a text is
    read. `longest`: positions of `positions` and `passkey` (None: the model's). `limit`: documents of a task, questions
    of a category, prompts, and trials of a cell (None: the default of each). `execute` allows generated code to run,
    `unsafe` even if this system lacks a protection of the sandbox. `chat` formats prompts by the checkpoint's chat
    template, with `chat_date` as the current date (None: today). `judge`: the URL of an endpoint.
    """

    texts: Mapping[str, Path] = field(default_factory=dict)
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    data: Path | None = None
    window: int | None = None
    stride: int | None = None
    characters: int = 200_000
    longest: int | None = None
    limit: int | None = None
    dtype: str | None = None
    device: str = "cpu"
    execute: bool = False
    unsafe: bool = False
    chat: bool = False
    chat_date: str | None = None
    judge: str | None = None
    judge_model: str = "gpt-4"
    seed: int = 0

    def __post_init__(self) -> None:
        """Look at each setting."""
        for name in self.suites:
            if name not in NAMES:
                raise InputError(f"suite: is {name!r}{_nearest(name)}; it must be one of {', '.join(NAMES)}")
        for key in ("window", "stride", "longest", "limit", "characters"):
            value = getattr(self, key)
            least = 2 if key in {"window", "longest"} else 1
            if value is not None and value < least:
                raise InputError(f"{key}: is {value}, it must be at least {least}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InputError(f"dtype: is {self.dtype!r}, it must be one of {', '.join(DTYPES)}")
        if self.chat_date is not None and not is_date(self.chat_date):
            raise InputError(f"chat-date: is {self.chat_date!r}, it must be a date as 2026-01-31")
        if "humaneval" in self.suites and not self.execute:
            raise InputError("humaneval: runs code that the model writes, with limits; allow it with --execute")

    def folder(self, asked_by: str) -> Path:
        """Where the tasks' files are. Raises InputError where nobody said."""
        if self.data is None:
            raise InputError(f"{asked_by}: needs the files of its tasks: --data DIR says where they are")
        if not self.data.is_dir():
            raise InputError(f"{self.data}: is no directory; --data DIR says where the tasks' files are")
        return self.data


def _nearest(word: str) -> str:
    near = get_close_matches(word, NAMES, 1)
    return f"; did you mean {near[0]}?" if near else ""
