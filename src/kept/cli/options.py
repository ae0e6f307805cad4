"""Options of commands, derived from the fields of settings classes, and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem
from pydantic import BeforeValidator
from pydantic_core import PydanticUndefined

from kept.errors import InputError
from kept.settings_model import base_type, choices, model_fields, path_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pydantic.fields import FieldInfo

    from kept.settings_model import Settings

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

FLAGS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("--learning-rate", "--lr"),
    "tie": ("--tie/--untie",),
}
"""Options whose names differ from their setting's."""

METAVARS = {
    "context": "TOKENS",
    "limit": "N",
    "groups": "N",
    "blocks": "N",
    "at": "LIST",
    "layers": "LIST",
    "tasks": "NAMES",
    "num_fewshot": "N",
}
"""Placeholders in --help that say more than a type."""


if TYPE_CHECKING:
    TextType = click.ParamType[str]
else:
    TextType = click.ParamType  # not generic before click 8.2


class PathText(TextType):
    """A path as text, completed as a directory ("dir") or a file ("file"). Raises InputError for an empty one."""

    name = "path"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's
        """Return the text. An empty one would name the working directory, so it raises InputError."""
        if not value:
            raise InputError(f"{_shown_name(param)}: the path is empty; name a file or directory, or . for this one")
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's
        """Let the shell complete the path."""
        return [CompletionItem(incomplete, type=self.kind)]


FOLDER, FILE = PathText("dir"), PathText("file")


def _shown_name(param: click.Parameter | None) -> str:
    """Return the name of a parameter as --help shows it."""
    if param is None:
        return "path"
    return param.opts[0] if isinstance(param, click.Option) else param.human_readable_name


def complete_words(words: Sequence[str]) -> Callable[..., list[str]]:
    """Return a function that completes some words."""
    return lambda _, __, begun: [word for word in words if word.startswith(begun)]


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
VERBOSE = click.option("--verbose", is_flag=True, help="Also show the comparison with the source in float64.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")


def settings(model: type[Settings], *only: str, without: Iterable[str] = ()) -> Decorator:
    """Return a decorator that adds an option for each setting, or for some. An option that is not given is None."""
    fields = model_fields(model)
    names = [name for name in only or fields if name not in {*without}]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        command.__dict__["former"] = model.FORMER
        for name in reversed(names):
            command = option(name, fields[name])(command)
        return command

    return decorate


def option(name: str, field: FieldInfo) -> Decorator:
    """Return the option of a setting."""
    kind, metadata = base_type(field.annotation)
    metadata = (*metadata, *field.metadata)
    flag = name.replace("_", "-")
    shared: dict[str, Any] = {"default": None, "help": _help(field), "metavar": METAVARS.get(name)}
    if kind is bool:
        return click.option(*FLAGS.get(name, (f"--{flag}/--no-{flag}",)), **{**shared, "metavar": None})
    path = path_kind(field)
    if path is not None:
        shared["metavar"] = path.metavar
    words = choices(field)
    if words:
        shared |= {"metavar": f"[{'|'.join(words)}]", "shell_complete": complete_words(words)}
    if kind == tuple[str, ...]:
        shared["multiple"] = True
    return click.option(
        *_flags(name), type=_click_type(kind, metadata) if path is None else PathText(path.kind), **shared
    )


def _flags(name: str) -> tuple[str, ...]:
    """Return the option names of a setting."""
    return FLAGS.get(name, (f"--{name.replace('_', '-')}",))


def _click_type(kind: object, metadata: Iterable[object]) -> type[int | float | str]:
    """Return the type that click converts to; texts are converted by the settings."""
    if any(isinstance(one, BeforeValidator) for one in metadata):
        return str
    return int if kind is int else float if kind is float else str


def _help(field: FieldInfo) -> str:
    """Return the description and the default."""
    text, default = str(field.description), field.default
    if isinstance(default, tuple):
        default = ", ".join(default)
    if "[default:" in text or isinstance(default, bool) or default in (None, "", PydanticUndefined):
        return text
    return f"{text} [default: {default}]"


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {key: value for key, value in options.items() if value is not None and value != ()}


class SettingsCommand(click.Command):
    """A command whose error for the former name of an option gives the new name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options. Raises UsageError for an unknown one."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            former: Mapping[str, str] = self.callback.__dict__.get("former", {})
            new = former.get(error.option_name.lstrip("-").replace("-", "_"))
            if new is None:
                raise
            raise click.UsageError(f"{error.option_name} is now {_flags(new)[0]}.", ctx) from None


def is_recipe(argument: str | None) -> bool:
    """Return whether an argument names a recipe."""
    return argument is not None and Path(argument).suffix == ".toml"
