"""Licence files of a checkpoint, which go into the output, and the licence that its model card states."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from kept.checkpoint.file_access import LARGEST_COMPANION, check_readable, entries
from kept.errors import CheckpointError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LICENCE_WORDS = ("licen", "notice", "copying", "use_policy", "agreement")
"""Parts of the names of licence files, in lower case."""

MOST_LICENCES = 256
"""Maximum number of licence files."""

TEXTS = ("", ".txt", ".md", ".markdown", ".rst", ".html", ".pdf")
"""Suffixes of licence files that are copied; a numeric suffix (`LICENSE-2.0`) is copied too. No suffix of code."""

LONGEST_FRONT = 1 << 16
"""Number of characters of a model card in which the front matter is looked for."""

NOTHING = {"", "~", "null"}
"""YAML spellings of a missing value."""


def licences(source: Path) -> dict[str, Path]:
    """Return the source's licence files by name, including those in a directory of licences. Broken links are left out.

    Raises CheckpointError for more than `MOST_LICENCES` files, for a name that is not printable, and for a file that
    `check_readable` rejects.
    """
    found = {str(file.relative_to(source)): file for file in islice(_licence_files(source), MOST_LICENCES + 1)}
    if len(found) > MOST_LICENCES:
        raise CheckpointError(f"{source}: has more than {MOST_LICENCES} licence files; keep those of the model only")
    odd = next((name for name in found if not name.isprintable()), None)
    if odd is not None:
        raise CheckpointError(f"{source / odd}: its name is not printable UTF-8 text; rename it")
    for name in found:
        check_readable(source, name, LARGEST_COMPANION)
    return found


def _licence_files(source: Path) -> Iterator[Path]:
    for entry in filter(_is_licence, entries(source)):
        inside = entries(entry) if entry.is_dir() and not entry.is_symlink() else [entry]
        yield from (file for file in inside if file.is_file() and _is_text(file))


def no_licences(source: Path) -> list[str]:
    """Return the names of files that are called like a licence but have no suffix of `TEXTS`; they are not copied."""
    return sorted(entry.name for entry in entries(source) if _is_called_licence(entry) and not _is_text(entry))


def _is_licence(entry: Path) -> bool:
    return _is_text(entry) and _is_called_licence(entry)


def _is_called_licence(entry: Path) -> bool:
    return any(word in entry.name.lower() for word in LICENCE_WORDS)


def _is_text(file: Path) -> bool:
    return file.suffix.lower() in TEXTS or file.suffix[1:].isdigit()


def stated_licence(source: Path) -> dict[str, str]:
    """Return `license`, `license_name` and `license_link` from the front matter of a model card, if stated."""
    import yaml  # noqa: PLC0415 - only where there is a card

    card = source / "README.md"
    if not card.is_file():
        return {}
    with card.open(encoding="utf-8", errors="replace") as file:
        parts = file.read(LONGEST_FRONT).split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        # The base loader knows texts, lists and maps: nothing to construct, and no merges that multiply.
        front = yaml.load(parts[1], Loader=yaml.BaseLoader)  # noqa: S506 - that loader makes no objects
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    stated = front if isinstance(front, dict) else {}
    found = {key: stated.get(key) for key in ("license", "license_name", "license_link")}
    return {key: printable(value) for key, value in found.items() if isinstance(value, str) and value not in NOTHING}
