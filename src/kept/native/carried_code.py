"""The files of our own model class, as an output carries them.

transformers imports the code of a checkpoint from one flat folder, and follows imports of the form `from .name import`.
So the modules that the class needs are written under flat names, `kept.nn.rope` as `kept_nn_rope.py`, and their imports
of each other are made relative. Blocks for type checkers are left out. Nothing else changes.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kept.families.table import Family

PACKAGE = Path(__file__).parent.parent
"""Directory of the package `kept`."""

CONFIGURATION, MODELING = "kept.native.configuration_kept", "kept.native.modeling_kept"
"""The modules that transformers imports, by `AUTO_MAP`."""

HEADER = "# Written by kept from its {path}. Imports are relative here, and those for type checkers are left out.\n"


@cache
def carried_files() -> Mapping[str, bytes]:
    """Return the content of each file by its name."""
    modules = sorted({*_needed(CONFIGURATION), *_needed(MODELING)})
    files = {flat(module) + ".py": _written(module).encode() for module in modules}
    assert len(files) == len(modules), "two modules have one flat name"
    return files


def code_of(family: Family) -> Mapping[str, bytes]:
    """Return the code that an output of a family carries; none if transformers has its class."""
    return carried_files() if family.carries_code else {}


def flat(module: str) -> str:
    """Return the name of a module's file without `.py`: `kept.nn.rope` is `kept_nn_rope`."""
    return module.rpartition(".")[2] if module.startswith("kept.native.") else module.replace(".", "_")


def source_of(module: str) -> Path:
    """Return the source file of a module of kept."""
    place = PACKAGE.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _needed(module: str) -> list[str]:
    """Return a module and those that it imports when it runs, directly or not."""
    found = [module]
    for one in found:
        tree = ast.parse(source_of(one).read_text(encoding="utf-8"))
        found += [name for name in dict.fromkeys(_imported(node) for node in _imports(tree)) if name not in found]
    return found


def _imports(tree: ast.Module) -> Iterator[ast.ImportFrom]:
    """Yield the imports of kept that run: those for type checkers do not."""
    unseen = {id(inner) for block in _type_checking(tree) for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("kept.") and id(node) not in unseen:
            yield node


def _imported(node: ast.ImportFrom) -> str:
    """Return the module that an import reads: `kept.ir.spec` for both ways of naming it."""
    inner = f"{node.module}.{node.names[0].name}"
    is_module = source_of(inner).exists()
    assert not is_module or len(node.names) == 1, f"line {node.lineno}: import one module at a time"
    return inner if is_module else str(node.module)


def _type_checking(tree: ast.Module) -> list[ast.If]:
    return [one for one in tree.body if isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING"]


def _written(module: str) -> str:
    """Return the text of a module's file."""
    source = source_of(module)
    text = source.read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines(keepends=True)
    for node in _imports(tree):
        old, new = _statement(node)
        assert old in lines[node.lineno - 1]
        lines[node.lineno - 1] = lines[node.lineno - 1].replace(old, new, 1)
    for block in _type_checking(tree):
        assert block.end_lineno is not None
        assert not block.orelse
        listed = _all_files() if module == MODELING else ""
        lines[block.lineno - 1 : block.end_lineno] = [listed, *[""] * (block.end_lineno - block.lineno)]
    path = source.relative_to(PACKAGE.parent).as_posix()
    return HEADER.format(path=path) + "".join(lines)


def _statement(node: ast.ImportFrom) -> tuple[str, str]:
    """Return the beginning of an import, and what stands for it in a flat folder."""
    found, name = _imported(node), node.names[0]
    if found == node.module:
        return f"from {found} import", f"from .{flat(found)} import"
    assert name.asname is not None, f"line {node.lineno}: a module needs a name of its own (import ... as)"
    return f"from {node.module} import {name.name} as", f"from . import {flat(found)} as"


def _all_files() -> str:
    """Return a block that never runs and imports all modules: transformers 4 copies only those that a file names."""
    names = _needed(MODELING)[1:]
    lines = [f"    from .{flat(name)} import __name__ as _\n" for name in sorted(names)]
    return "if TYPE_CHECKING:  # transformers 4 copies the files that are named here, and no others\n" + "".join(lines)
