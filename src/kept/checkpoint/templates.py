"""A checkpoint's chat templates by name, in the places where transformers looks for them, and as an output has them.

`chat_template.jinja` is the default, `additional_chat_templates/NAME.jinja` are others; where there is any such file,
what `tokenizer_config.json` says of templates is not read. Before transformers 4.51 only the config was: so an output
has its templates in both places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.checkpoint.disk import regular
from kept.checkpoint.json_file import json_if_there
from kept.checkpoint.links import LARGEST_COMPANION, check_file
from kept.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LONGEST = 1 << 20
"""Characters of a template. The longest in use have some 20,000."""

FILE, FOLDER = "chat_template.jinja", "additional_chat_templates"

OF_PROCESSOR = "chat_template.json"
"""Where the processors of early multimodal models had their template; a text model's tokenizer does not look there."""

DEFAULT, TOOL_USE = "default", "tool_use"
"""The template that is taken, and the one that is where a conversation has tools."""


def chat_templates(directory: Path) -> dict[str, str]:
    """The text of each chat template by name; empty where there is none.

    Raises CheckpointError or InputError naming the file that is damaged or of another form.
    """
    files = template_files(directory)
    if files:
        return {name: read_template(file) for name, file in files.items()}
    file = directory / "tokenizer_config.json"
    found = json_if_there(file).get("chat_template")
    if found is None:
        file = directory / OF_PROCESSOR
        found = json_if_there(file).get("chat_template")
    return _named(file, found)


def template_files(directory: Path) -> dict[str, Path]:
    """The files of a directory that hold a template each, by its name."""
    folder = directory / FOLDER
    further = sorted(folder.glob("*.jinja")) if folder.is_dir() else []
    odd = next((file for file in further if not file.name.isprintable()), None)
    if odd is not None:
        raise CheckpointError(f"{odd}: its name is not printable UTF-8 text; rename it")
    for file in further:
        check_file(directory, f"{FOLDER}/{file.name}", LARGEST_COMPANION)
    found = {DEFAULT: directory / FILE, **{file.stem: file for file in further}}
    return {name: file for name, file in found.items() if file.is_file()}


def output_templates(directory: Path, default: Path | None = None) -> tuple[dict[str, bytes], Any]:
    """Template files of an output, and what its tokenizer config says of templates; None where there are none.

    `default` is a file that takes the place of the default template.
    """
    found = chat_templates(directory)
    if default is not None:
        found[DEFAULT] = read_template(default)
    files = {FILE if name == DEFAULT else f"{FOLDER}/{name}.jinja": text.encode() for name, text in found.items()}
    if found.keys() == {DEFAULT}:
        return files, found[DEFAULT]
    return files, [{"name": name, "template": text} for name, text in found.items()] or None


def read_template(file: Path) -> str:
    """The text of a template's file. Raises InputError where it cannot be read, or is longer than any template."""
    try:
        with open(file, encoding="utf-8", opener=regular) as opened:
            text = opened.read(LONGEST + 1)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); name a file with a chat template") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 text ({error.reason}); name a file with a chat template") from None
    if len(text) > LONGEST:
        raise InputError(f"{file}: has more than {LONGEST} characters; name a file with a chat template")
    return text


def _named(file: Path, found: object) -> dict[str, str]:
    """Templates as a config has them: one text, or a list of names and texts."""
    if found is None:
        return {}
    listed = [{"name": DEFAULT, "template": found}] if isinstance(found, str) else found
    try:
        named: Mapping[Any, Any] = {one["name"]: one["template"] for one in listed}  # type: ignore[attr-defined]
    except (TypeError, LookupError):
        named = {"": None}
    if not all(isinstance(text, str) for one in named.items() for text in one):
        raise CheckpointError(f"{file}: chat_template is neither a text nor a list of names and texts; mend it")
    odd = next((name for name in named if not name or "/" in name or not name.isprintable()), None)
    if odd is not None:
        raise CheckpointError(f"{file}: chat_template has a template called {odd!r}, which names no file; rename it")
    return dict(named)
