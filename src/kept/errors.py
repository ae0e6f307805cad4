"""Errors for users: one line that names the file, tensor or key, what is wrong, and the way out."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_LINE = 2000
"""Characters of a message. What it quotes from a damaged file may be a megabyte."""


def printable(text: str) -> str:
    """The text as one line that any terminal and any encoding takes.

    White space is one space; what cannot be shown (escape sequences, bytes of a file name that are no UTF-8) is
    spelled out; the middle of what is too long is left out.
    """
    line = " ".join(text.split())
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE * 3 // 4]} ... {line[-LONGEST_LINE // 5 :]}"
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control, bidirectional-override and surrogate characters, which affect a terminal; not line feeds and tabs."""


def shown(text: str) -> str:
    """Return a text of any number of lines with the characters of `UNSHOWN` escaped, so that a terminal can show it."""
    return UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def cause(error: BaseException) -> str:
    """Return an unexpected error as one line: file and reason of an OSError, else class and message."""
    if isinstance(error, MemoryError):
        return f"out of memory{f' ({error})' if str(error) else ''}; free some, or take smaller inputs"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    if isinstance(error, OSError) and error.strerror:
        named = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{named}: {error.strerror}" if named else error.strerror
    return f"{type(error).__name__}: {error}"


WAYS_OUT = {
    errno.ENOENT: "it was there before; did another process move or remove it?",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
"""Advice to the user for each error number of the operating system."""


def refusal(error: OSError) -> str | None:
    """Return the refusal of the system as one line with the way out; None if it is not one of `WAYS_OUT`."""
    way_out = WAYS_OUT.get(error.errno or 0)
    return None if way_out is None else f"{cause(error)}; {way_out}"


def reason(error: BaseException) -> str:
    """Return why something failed: an OSError's reason without its path, else the first line of the message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class KeptError(Exception):
    """Any failure that a user can act on. The message is one printable line; `exit_code` is the process's."""

    def at(self, place: str) -> Self:
        """Return this error with a place before its message, such as `step 2 (heal)`."""
        self.args = (f"{place}: {self}",)
        return self

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class CheckpointError(KeptError):
    """A file of a checkpoint is missing, damaged or disagrees with its config.

    `model` is the path or hub id that was opened, as it was given; None if the error is about a part of it.
    """

    model: str | None = None


class Overflow(CheckpointError):  # noqa: N818 - it is what happened to a value
    """A computed value is NaN or exceeds the range of its dtype."""


class Refusal(KeptError):  # noqa: N818 - it is a reasoned "no", not a malfunction
    """A pass cannot run or a target cannot express the model.

    `reasons` has a phrase for each thing that is wrong, with its place; `way_out` states what to do instead, empty if
    nothing is known. The message joins them.
    """

    def __init__(self, *reasons: str, way_out: str = "") -> None:
        super().__init__("; ".join((*reasons, way_out) if way_out else reasons))
        self.reasons, self.way_out = reasons, way_out

    @property
    def phrases(self) -> list[str]:
        """The reasons without places and explanations, each once."""
        return [*dict.fromkeys(one.rpartition(": ")[2].partition(", which ")[0] for one in self.reasons)]

    @property
    def brief(self) -> str:
        """The refusal in a few words: the first three reasons, and how many more there are."""
        shown, more = self.phrases[:3], len(self.phrases) - 3
        return "; ".join((*shown, *[f"{more} more {'reason' if more == 1 else 'reasons'}"] * (more > 0)))


class RecipeError(KeptError):
    """A setting is wrong.

    `loc` is the place of the setting: its key, or keys and indices from the outermost table, as in
    ("steps", 1, "passes", 0, "name"). `file` and `line` are those of the recipe; None for settings from elsewhere.
    """

    def __init__(self, problem: str, *loc: str | int, file: Path | None = None, line: int | None = None) -> None:
        self.problem, self.loc, self.file, self.line = problem, loc, file, line
        place = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(f"{place}{''.join(_places(loc))}{problem}")

    @property
    def key(self) -> str:
        """The outermost key; "" if the error names none."""
        return str(self.loc[0]) if self.loc else ""

    def within(self, *outer: str | int) -> RecipeError:
        """Return the error of a table with its place in the table around it."""
        return RecipeError(self.problem, *outer, *self.loc, file=self.file, line=self.line)

    def located(self, file: Path, line: int | None) -> RecipeError:
        """Return the error with its file and line."""
        return RecipeError(self.problem, *self.loc, file=file, line=line)


ENTRIES = {"steps": "step", "passes": "pass"}
"""The noun for one entry of a list of TOML tables."""


def _places(loc: tuple[str | int, ...]) -> Iterator[str]:
    """Yield "step 2: ", "pass 1: ", "name: " for ("steps", 1, "passes", 0, "name")."""
    for at, part in enumerate(loc):
        if isinstance(part, int):
            yield f"{ENTRIES[str(loc[at - 1])]} {part + 1}: "
        elif not isinstance(next(iter(loc[at + 1 :]), ""), int):
            yield f"{part}: "


class OutputError(KeptError):
    """The output cannot be written where it was asked for."""


class InputError(KeptError):
    """An argument, a text or a tokenizer is not what the command needs."""


class PromiseError(KeptError):
    """A finished conversion measures worse than its passes promised. The output is kept, the exit code is 1."""

    exit_code = 1
