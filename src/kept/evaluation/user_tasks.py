"""YAML files of tasks that are not part of lm-eval: refused if they would run code.

A YAML file can run Python through `!function`, a class, or a Jinja template that reaches Python's internals. lm-eval's
own files are trusted as the package is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml
from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CORE = "tag:yaml.org,2002:"

PLAIN = frozenset(CORE + name for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge"))
"""Tags of plain data."""

LARGEST = 1 << 16
"""Maximum size of a YAML file in bytes."""


def checked_folder(folder: Path | None, *, code: bool) -> Path | None:
    """Return a directory of YAML files; without `code`, templates run in Jinja's sandbox from here on.

    Raises InputError if it is no directory, or names a file that would run code or include a file outside of it.
    """
    if folder is None:
        return None
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a directory; give a directory of YAML files with --include-path DIR")
    if not code:
        for file in sorted(folder.rglob("*")):
            if file.suffix in {".yaml", ".yml"} or file.name.endswith("_yaml"):
                _check(file, folder)
        _sandbox_templates()
    return folder


def _check(file: Path, folder: Path) -> None:
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{file}: is a link that leaves {folder}; copy the file")
    if file.stat().st_size > LARGEST:
        raise InputError(f"{file}: has more than {LARGEST >> 10} KB, which no description of a task has")
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: is no YAML file ({str(error).splitlines()[0]})") from None
    for node in _nodes(root, set()):
        if node.tag not in PLAIN:
            raise InputError(f"{file}: would run code ({node.tag}); allow it with --run-task-code")
    for key, value in _entries(root):
        if key == "class":
            raise InputError(f"{file}: would run code (class); allow it with --run-task-code")
        if key == "include":
            _check_include(file, value, folder)


def _check_include(file: Path, value: yaml.Node, folder: Path) -> None:
    parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
    for part in parts:
        target = (file.parent / str(part.value)).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise InputError(f"{file}: includes {part.value}, which is outside of {folder}")
        if target.is_file():
            _check(target, folder)


def _entries(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), value) for key, value in node.value)


def _nodes(node: yaml.Node | None, seen: set[int]) -> Iterator[yaml.Node]:
    """Yield a node and those below it, each once: anchors can refer to one node many times."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    yield node
    children = node.value if isinstance(node, yaml.MappingNode | yaml.SequenceNode) else ()
    for child in children:
        for one in child if isinstance(child, tuple) else (child,):
            yield from _nodes(one, seen)


def _sandbox_templates() -> None:
    """Replace the environment in which lm-eval renders templates by a sandboxed one."""
    from lm_eval import utils  # noqa: PLC0415 - lm-eval is an optional dependency

    if not isinstance(utils.env, SandboxedEnvironment):
        box = SandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
        box.filters.update(utils.env.filters)
        utils.env = box
