"""The model's own code can stand alone: it needs torch, the specs and the errors, and no other part of the package."""

from __future__ import annotations

from support.structure import imports, modules

ALONE = ("kept.nn", "kept.ir", "kept.errors")


def test_nn_needs_specs_and_errors_only() -> None:
    sources = {module.name: module for module in modules()}
    known = frozenset(sources)
    needed = {name for name in known if name.startswith("kept.nn")}
    assert "kept.nn.model" in needed
    while new := {other for name in needed for other in imports(sources[name], known)} - needed - {"kept"}:
        needed |= new
    assert [name for name in sorted(needed) if not name.startswith(ALONE)] == []
    assert {"kept.ir.spec.attention", "kept.errors"} <= needed, "the search follows imports"
