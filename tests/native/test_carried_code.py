"""The files that an output carries are the package's own code, in the form that transformers imports."""

from __future__ import annotations

import ast
import sys
from typing import TYPE_CHECKING

import pytest
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from kept.native.carried_code import PACKAGE, carried_files, flat

if TYPE_CHECKING:
    from pathlib import Path

FILES = {name: content.decode() for name, content in carried_files().items()}

ALLOWED = {"torch", "transformers", *sys.stdlib_module_names}


class Same(ast.NodeTransformer):
    """Leaves out blocks for type checkers, and gives imports of kept one spelling."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        modules = [flat(name) for name in _modules(node)]
        return ast.Expr(ast.Constant(f"{modules}: {[(one.asname or one.name) for one in node.names]}"))


def _modules(node: ast.ImportFrom) -> list[str]:
    """The modules that an import reads, by their names in the package or in the flat folder."""
    if node.level and node.module is None:
        return [one.name for one in node.names]
    inner = f"{node.module}.{node.names[0].name}"
    is_module = inner.startswith("kept.") and (PACKAGE.parent / f"{inner.replace('.', '/')}").with_suffix("").exists()
    return [inner if is_module else str(node.module)]


def source_of(name: str) -> str:
    (path,) = (word.rstrip(".") for word in FILES[name].splitlines()[0].split() if word.startswith("kept/"))
    return (PACKAGE.parent / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_the_same_code(name: str) -> None:
    ours, theirs = (ast.dump(Same().visit(ast.parse(text))) for text in (source_of(name), FILES[name]))
    assert ours == theirs


def test_other_code_is_noticed() -> None:
    """Negative control."""
    text = FILES["kept_nn_rope.py"]
    ours, theirs = (ast.dump(Same().visit(ast.parse(one))) for one in (text, text.replace("a * cos", "b * cos", 1)))
    assert ours != theirs


@pytest.mark.parametrize("name", FILES)
def test_nothing_else_needs_to_be_installed(name: str) -> None:
    for node in ast.walk(ast.parse(FILES[name])):
        if isinstance(node, ast.Import):
            assert {one.name.partition(".")[0] for one in node.names} <= ALLOWED
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert str(node.module).partition(".")[0] in ALLOWED


def test_transformers_finds_every_file(tmp_path: Path) -> None:
    """Version 5 follows imports from file to file; version 4 copies only what the first file imports."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    entry = tmp_path / "modeling_kept.py"
    assert {str(tmp_path / name) for name in FILES} == {str(entry), *get_relative_import_files(entry)}
    assert {f"{name}.py" for name in get_relative_imports(entry)} == FILES.keys() - {entry.name}
    assert get_relative_imports(tmp_path / "configuration_kept.py") == []
