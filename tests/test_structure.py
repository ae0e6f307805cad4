"""Rules of the package's sources: lengths, one class a name, no import circles, fields read with their kind in hand.

Lists of known exceptions may only shrink. `python tests/support/structure.py` prints all figures.
"""

from __future__ import annotations

from collections import Counter

import pytest

from support.structure import Module, circles, functions, modules, repeated_classes, unasked

SOURCES = modules()

LONGEST_FILE, LONGEST_FUNCTION = 300, 50


def test_no_file_is_long() -> None:
    assert [(module.path, module.length) for module in SOURCES if module.length > LONGEST_FILE] == []


def test_no_function_is_long() -> None:
    assert [item for module in SOURCES for item in functions(module) if item[1] > LONGEST_FUNCTION] == []


def test_a_class_name_is_one_class() -> None:
    assert repeated_classes(SOURCES) == {}


def test_no_import_circles() -> None:
    assert circles(SOURCES) == []


def test_fields_of_attention_are_read_where_the_kind_is_known() -> None:
    assert [place for module in SOURCES for place in unasked(module)] == []


def module_of(path: str, text: str) -> Module:
    name = "kept." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return Module(name, path, text)


def test_a_circle_is_found_wherever_the_import_stands() -> None:
    sources = [
        module_of("a/__init__.py", "from . import b"),
        module_of("a/b.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kept.c import D"),
        module_of("c.py", "def late():\n    import kept.a.b\nclass D: ..."),
        module_of("e.py", "from kept.a import b"),
    ]
    assert circles(sources) == [("kept.a.b", "kept.c")]


def test_classes_and_lengths_are_counted() -> None:
    one = module_of("one.py", "class A: ...\nclass B:\n    class A: ...\n")
    two = module_of("two.py", "class B: ...\n@decorated\ndef f():\n    def g(): ...\n    return g\n")
    assert repeated_classes([one, two]) == {"A": ["one.py", "one.py"], "B": ["one.py", "two.py"]}
    assert Counter(functions(two)) == Counter([("two.py:f", 3), ("two.py:g", 1)])


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("passes/p.py", "def f(layer):\n    return layer.mixer.rope", ["passes/p.py:2.rope"]),
        ("passes/p.py", "def f(mixer: Attention):\n    return mixer.rope", []),
        ("passes/p.py", "def f(m):\n    return m.rope if isinstance(m, ir.Attention) else None", []),
        ("passes/p.py", "class P:\n    def f(self):\n        return self.window", []),
        ("families/f.py", "def f(layer):\n    return layer.mixer.rope", []),
        ("nn/model.py", "heads = [layer.mixer.kv_heads for layer in spec.layers]", ["nn/model.py:1.kv_heads"]),
    ],
)
def test_who_asks_for_the_kind_may_read_its_fields(path: str, text: str, found: list[str]) -> None:
    assert unasked(module_of(path, text)) == found
