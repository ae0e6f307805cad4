"""Figures about the package's sources: lengths, names of classes, import circles, and who reads attention's fields.

`python tests/support/structure.py [SRC]` prints them for the package directory SRC (default: src/kept of this
repository). tests/test_structure.py holds the package to its rules.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kept.ir.spec import Attention

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "kept"

SHARED_FIELDS = frozenset({"scale", "fused", "softcap"})
"""Fields of attention whose names other classes have too."""

ATTENTION_FIELDS = frozenset({*(one.name for one in fields(Attention)), "query_size", "kv_size"}) - SHARED_FIELDS
"""Fields that only attention has. Who reads one names the kind in the same function or class."""

KINDS = frozenset({"Attention", "LatentAttention"})
"""Kinds of mixers with fields of these names."""

OPTIONS = frozenset({"self", "options", "settings"})
"""Variables whose fields of the same names are options of a pass or a command."""

READERS = ("ir/spec", "ir/spec.py", "nn/mixers", "families", "gguf", "compression/latent")
"""Parts whose subject is attention: the spec itself, its modules, and what reads and writes a family's config."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file, parsed."""

    name: str
    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @property
    def length(self) -> int:
        """Its lines."""
        return len(self.text.splitlines())

    @property
    def is_package(self) -> bool:
        """Whether it is the `__init__.py` of a package."""
        return self.path.endswith("__init__.py")

    def nodes(self) -> Iterator[ast.AST]:
        """Every node of its tree."""
        return ast.walk(self.tree)


def modules(package: Path = PACKAGE) -> list[Module]:
    """Every module of a package, by path."""
    found = []
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, file.relative_to(package).as_posix(), file.read_text(encoding="utf-8")))
    return found


# ------------------------------------------------------------------------------------------------------- lengths


def functions(module: Module) -> Iterator[tuple[str, int]]:
    """Name and lines of every function, nested ones too; decorators and docstrings do not count."""
    for node in module.nodes():
        if isinstance(node, Function):
            documented = ast.get_docstring(node, clean=False) or ""
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield f"{module.path}:{node.name}", lines - len(documented.splitlines())


def inner_imports(module: Module) -> int:
    """Import statements inside functions."""
    bodies = [node for node in module.nodes() if isinstance(node, Function)]
    return len(
        {id(node) for body in bodies for node in ast.walk(body) if isinstance(node, ast.Import | ast.ImportFrom)}
    )


# --------------------------------------------------------------------------------------------------------- names


def repeated_classes(sources: Sequence[Module]) -> dict[str, list[str]]:
    """Class names that are defined more than once, with the files that define them."""
    places: dict[str, list[str]] = {}
    for module in sources:
        for node in module.nodes():
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module.path)
    return {name: files for name, files in sorted(places.items()) if len(files) > 1}


# ------------------------------------------------------------------------------------------------------- circles


def imports(module: Module, known: frozenset[str]) -> set[str]:
    """Modules of the package that one imports anywhere: at its top, in functions, and for types only."""
    found: set[str] = set()
    for node in module.nodes():
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(module, node)
            found |= {inner if (inner := f"{origin}.{alias.name}") in known else origin for alias in node.names}
    return (found & known) - {module.name}


def _origin(module: Module, node: ast.ImportFrom) -> str:
    """The absolute name of what `from ... import` names."""
    if node.level == 0:
        return node.module or ""
    parts = module.name.split(".")
    above = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*above, *([node.module] if node.module else [])])


def circles(sources: Sequence[Module]) -> list[tuple[str, ...]]:
    """Groups of modules that import one another, directly or through others."""
    known = frozenset(module.name for module in sources)
    edges = {module.name: imports(module, known) for module in sources}
    reached = {name: _reached(name, edges) for name in edges}
    groups = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in edges}
    return sorted(group for group in groups if len(group) > 1)


def _reached(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    """Everything that is imported from `start` on; itself only if something leads back."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting.extend(new)
    return found


# ----------------------------------------------------------------------------------------------- attention's fields


def unasked(module: Module) -> list[str]:
    """Accesses of attention's fields, as file:line.field, in places that do not name the kind."""
    if module.path.startswith(READERS):
        return []
    return [f"{module.path}:{line}.{field}" for line, field in sorted(_unasked(module.tree, asked=False))]


def _unasked(node: ast.AST, *, asked: bool) -> Iterator[tuple[int, str]]:
    """Accesses below a node. A function that names a kind has asked, and so has a class with a base or field of it."""
    for child in ast.iter_child_nodes(node):
        if not asked and isinstance(child, ast.Attribute) and _of_attention(child):
            yield child.lineno, child.attr
        yield from _unasked(child, asked=asked or _asks(child))


def _asks(node: ast.AST) -> bool:
    if isinstance(node, ast.ClassDef):
        own = [one.annotation for one in node.body if isinstance(one, ast.AnnAssign)]
        return any(map(_names_a_kind, [*node.bases, *own]))
    return isinstance(node, Function) and _names_a_kind(node)


def _of_attention(node: ast.Attribute) -> bool:
    """Whether an access has the name of a field of attention and is not that of an option."""
    option = isinstance(node.value, ast.Name) and node.value.id in OPTIONS
    return node.attr in ATTENTION_FIELDS and not option


def _names_a_kind(node: ast.AST) -> bool:
    """Whether an annotation, a call or a pattern inside names a kind of mixer."""
    names = (
        n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute)
    )
    return any(name in KINDS for name in names)


# ------------------------------------------------------------------------------------------------------- figures


def spread(lengths: Sequence[int]) -> str:
    """Median, ninetieth percentile and maximum."""
    ordered = sorted(lengths)
    return f"median {ordered[len(ordered) // 2]}, p90 {ordered[len(ordered) * 9 // 10]}, max {ordered[-1]}"


def figures(sources: Sequence[Module]) -> Iterator[str]:
    """Print the figures that the module's docstring names, a line each."""
    files = {module.path: module.length for module in sources}
    lengths = dict(item for module in sources for item in functions(module))
    repeated, found = repeated_classes(sources), circles(sources)
    fields = [place for module in sources for place in unasked(module)]
    yield f"files: {len(files)}, {sum(files.values())} lines; {spread([*files.values()])}"
    yield f"files over 300 lines: {_listed(f'{name} {size}' for name, size in files.items() if size > 300)}"
    yield f"functions: {len(lengths)}; {spread([*lengths.values()])}"
    yield f"functions over 50 lines: {_listed(f'{name} {size}' for name, size in lengths.items() if size > 50)}"
    yield f"class names defined more than once: {_listed(f'{name} x{len(where)}' for name, where in repeated.items())}"
    yield f"import circles: {_listed(f'({len(group)} modules) ' + ' '.join(group) for group in found)}"
    yield f"imports inside functions: {sum(map(inner_imports, sources))}"
    by_file = Counter(place.split(":")[0] for place in fields)
    named = _listed(f"{path} {count}" for path, count in by_file.items())
    yield f"reads of attention's fields without its kind: {len(fields)}, files: {named}"


def _listed(items: Iterator[str]) -> str:
    """How many, and which."""
    found = [*items]
    return f"{len(found)}" + (f" ({'; '.join(found)})" if found else "")


if __name__ == "__main__":
    print(*figures(modules(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PACKAGE)), sep="\n")  # noqa: T201 - a script
