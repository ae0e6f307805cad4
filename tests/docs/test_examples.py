"""Examples in README and documentation: commands, options and public names exist, recipes are TOML."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

import kept
from kept import HealSettings
from kept.cli.root import main as cli

ROOT = Path(__file__).resolve().parents[2]

PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name != "cli.md")]
"""All pages but the generated help texts."""

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

COMMAND = re.compile(r"^(?:\$ |.*-m )?kept ([a-z].*)$")


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks of a page in some languages."""
    return [block for language, block in BLOCK.findall(text) if language in languages]


def commands(text: str) -> list[list[str]]:
    """The words of each `kept` command in the code blocks of a page."""
    lines = (line for block in blocks(text, "sh", "text") for line in block.splitlines())
    return [shlex.split(found[1], comments=True) for line in lines if (found := COMMAND.match(line.strip()))]


def parse(words: list[str]) -> None:
    """Parse words with the parser of their command, without values' types. Raises click.UsageError."""
    command: click.Command = cli
    context = click.Context(command, info_name="kept")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"no command {words[0]}")
        command, words = found, words[1:]
        context = click.Context(command, parent=context)
    command.make_parser(context).parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        parse(words)


def test_commands_are_found() -> None:
    found = [words for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]
    assert len(found) > 50
    assert {"inspect", "plan", "convert", "verify", "expand", "heal", "eval", "report"} <= {words[0] for words in found}


@pytest.mark.parametrize("words", [["convrt", "a"], ["convert", "--no-such-option"], ["tokenizer", "mrge"]])
def test_negative_control(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(words)


def public_names(code: str) -> set[str]:
    """The names that a Python example takes from `kept`."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "kept"}


def test_public_names_exist() -> None:
    examples = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8"), "python")]
    names = set().union(*map(public_names, examples))
    assert {"convert", "evaluate", "heal"} <= names <= set(kept.__all__)


def test_recipes_are_toml() -> None:
    found = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8"), "toml")]
    keys = [list(tomllib.loads(block)) for block in found]
    assert keys[0] == ["out", "keep_intermediate", "steps"]
    assert all(
        key in {"out", "keep_intermediate", "steps", *HealSettings.__dataclass_fields__}
        for block in keys
        for key in block
    )
