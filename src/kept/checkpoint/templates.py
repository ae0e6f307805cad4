"""Read a checkpoint's chat templates from where transformers looks for them, and write those of an output.

`chat_template.jinja` is the default template, `additional_chat_templates/NAME.jinja` are others. If there is any such
file, `chat_template` in `tokenizer_config.json` is ignored. transformers before 4.51 reads only the config, so an
output has its templates in both places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.checkpoint.file_access import LARGEST_COMPANION, check_readable, entries
from kept.checkpoint.json_file import json_if_there
from kept.checkpoint.small_files import regular
from kept.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LONGEST = 1 << 20
"""Characters of a template. The longest published ones have about 20,000."""

FILE, FOLDER = "chat_template.jinja", "additional_chat_templates"

OF_PROCESSOR = "chat_template.json"
"""The template file of older multimodal processors; the tokenizers of text models do not read it."""

DEFAULT, TOOL_USE = "default", "tool_use"
"""Names of the default template and of the one for conversations with tools."""


def chat_templates(directory: Path) -> dict[str, str]:
    """Return the texts of a directory's chat templates by name; empty if it has none.

    Raises CheckpointError or InputError naming the file that is damaged or malformed.
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
    """Return a directory's template files by template name. Raises CheckpointError for a name that is not printable."""
    folder = directory / FOLDER
    further = [file for file in entries(folder) if file.suffix == ".jinja"] if folder.is_dir() else []
    odd = next((file for file in further if not file.name.isprintable()), None)
    if odd is not None:
        raise CheckpointError(f"{odd}: its name is not printable UTF-8 text; rename it")
    for file in further:
        check_readable(directory, f"{FOLDER}/{file.name}", LARGEST_COMPANION)
    found = {DEFAULT: directory / FILE, **{file.stem: file for file in further}}
    return {name: file for name, file in found.items() if file.is_file()}


def output_templates(directory: Path, default: Path | None = None) -> tuple[dict[str, bytes], Any]:
    """Return an output's template files by name, and `chat_template` for its tokenizer config (None for no templates).

    The file `default` replaces the default template.
    """
    found = chat_templates(directory)
    if default is not None:
        found[DEFAULT] = read_template(default)
    files = {FILE if name == DEFAULT else f"{FOLDER}/{name}.jinja": text.encode() for name, text in found.items()}
    if found.keys() == {DEFAULT}:
        return files, found[DEFAULT]
    return files, [{"name": name, "template": text} for name, text in found.items()] or None


def read_template(file: Path) -> str:
    """Return the text of a template file. Raises InputError if it is unreadable or longer than `LONGEST`."""
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
    """Return the templates of a config's `chat_template`: one text, or a list of objects with name and template."""
    if found is None:
        return {}
    listed = [{"name": DEFAULT, "template": found}] if isinstance(found, str) else found
    try:
        named: Mapping[Any, Any] = {one["name"]: one["template"] for one in listed}  # type: ignore[attr-defined]
    except (TypeError, LookupError):
        named = {"": None}
    if not all(isinstance(text, str) for one in named.items() for text in one):
        raise CheckpointError(f"{file}: chat_template is neither a string nor a list of objects with name and template")
    odd = next((name for name in named if not name or "/" in name or not name.isprintable()), None)
    if odd is not None:
        raise CheckpointError(
            f"{file}: chat_template has a template named {odd!r}, which cannot be a file name; rename it"
        )
    return dict(named)
