"""What users meet when something cannot be done: one line that names the thing and the way out."""

from __future__ import annotations

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


class KeptError(Exception):
    """Any failure that a user can act on. The message is one printable line; `exit_code` is the process's."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class CheckpointError(KeptError):
    """A file of a checkpoint is missing, damaged or disagrees with its config."""


class Overflow(CheckpointError):  # noqa: N818 - it is what happened to a value
    """A value that was computed is no number, or is beyond its format."""


class Refusal(KeptError):  # noqa: N818 - it is a reasoned "no", not a malfunction
    """A pass or a target cannot keep this model's function, and says which layer and why."""


class RecipeError(KeptError):
    """A recipe does not say what it should; names the key and the line."""


class OutputError(KeptError):
    """The output cannot be written where it was asked for."""


class InputError(KeptError):
    """An argument, a text or a tokenizer is not what the command needs."""


class PromiseError(KeptError):
    """A finished conversion measures worse than its passes promised. The output is kept, the exit code is 1."""

    exit_code = 1
