"""What users meet when something cannot be done: one line that names the thing and the way out."""

from __future__ import annotations


class KeptError(Exception):
    """Any failure that a user can act on. The message is one line; `exit_code` is the process's."""

    exit_code = 2


class CheckpointError(KeptError):
    """A file of a checkpoint is missing, damaged or disagrees with its config."""


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
