"""A conversation as a prompt: in a plain form, or by the checkpoint's own chat template.

A chat template is a text that came with the weights. It is rendered in Jinja's sandbox, which reaches no files and no
code, and only where it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kept.checkpoint.reader import read_json
from kept.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Messages = Sequence[dict[str, str]]

STOPS = ("\nQuestion:",)
"""Where a plain answer ends if the model goes on to ask itself the next question."""


def plain(messages: Messages) -> str:
    """Questions and answers under each other, ready for the next answer."""
    names = {"user": "Question", "assistant": "Answer"}
    return "".join(f"{names[m['role']]}: {m['content']}\n\n" for m in messages) + "Answer:"


def template_of(directory: Path) -> str:
    """The chat template of a checkpoint. Raises InputError where it has none."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    stated = directory / "tokenizer_config.json"
    found = read_json(stated).get("chat_template") if stated.is_file() else None
    if isinstance(found, list):
        found = next((one.get("template") for one in found if one.get("name") == "default"), None)
    if not isinstance(found, str):
        raise InputError(f"{directory}: has no chat template; leave out --chat")
    return found


def templated(directory: Path, messages: Messages, tokens: dict[str, Any]) -> str:
    """The conversation by the checkpoint's template; `tokens` has the texts of bos_token and eos_token.

    Raises CheckpointError where the template does not take the conversation.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    try:
        found = environment.from_string(template_of(directory))
        return found.render(messages=list(messages), add_generation_prompt=True, **tokens)
    except (jinja2.TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory}: its chat template fails ({error})") from None


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
