"""Write what the documentation takes from the code: the command line's help, the recipe's keys, the matrix of families.

python docs/generate.py            write
python docs/generate.py --check    exit 1 where a file is stale
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from kept.cli import main as cli
from kept.errors import Refusal
from kept.families import FAMILIES, TARGETS
from kept.ir.program import Program
from kept.ir.slots import slots
from kept.ir.tensors import zeros
from kept.passes import PASSES
from kept.passes.legalize import Options, legalise

ROOT = Path(__file__).resolve().parents[1]

SIZES = {
    "intermediate_size": 64,
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}

EXAMPLES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("orion", "", {}),
    ("llama", "", {}),
    ("mistral", "no sliding window", {"sliding_window": None}),
    ("mistral", "a sliding window below the context", {"sliding_window": 4096}),
    ("qwen2", "", {}),
    ("stablelm", "sequential residual", {}),
    ("stablelm", "parallel residual", {"use_parallel_residual": True}),
    ("stablelm", "query-key norm", {"qk_layernorm": True}),
    ("starcoder2", "no sliding window", {"sliding_window": None}),
    ("starcoder2", "a sliding window below the context", {"sliding_window": 2048, "max_position_embeddings": 4096}),
    ("gpt2", "", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
)
"""A config of each family, and of each variant that decides what it can become."""


def matrix() -> str:
    """Sources against targets: exact with which passes, or refused and why."""
    rows = ["| source | to | promise | passes, or the reason |", "| --- | --- | --- | --- |"]
    for name, variant, config in EXAMPLES:
        spec = FAMILIES[name].read_config({**SIZES, **config})
        program = Program(spec, {slot: zeros(info.shape, "F32") for slot, info in slots(spec).items()})
        for target in TARGETS:
            try:
                plan = legalise(program, TARGETS[target].violations, Options())
                said = str(plan.promise), ", ".join(f"`{step.rewrite.name}`" for step in plan.steps) or "a copy"
            except Refusal as refusal:
                said = "refused", str(refusal).replace("|", "\\|")
            rows.append(f"| {name}{f' ({variant})' if variant else ''} | {target} | {said[0]} | {said[1]} |")
    return "\n".join(rows)


def passes() -> str:
    """Every pass with its options and what it does."""
    rows = ["| pass | options | what it does |", "| --- | --- | --- |"]
    for name, rewrite in PASSES.items():
        options = ", ".join(f"`{field.name}`" for field in fields(rewrite) if field.name != "gains")
        rows.append(f"| `{name}` | {options} | {rewrite.summary} |")
    return "\n".join(rows)


def command_line() -> str:
    """The help of every command."""
    out = ["# The command line", "", "Made by `docs/generate.py` from the code.", ""]
    assert isinstance(cli, click.Group)
    for name, command in ((None, cli), *sorted(cli.commands.items())):
        path = "kept" if name is None else f"kept {name}"
        context = click.Context(command, info_name=path, max_content_width=100, terminal_width=100)
        out += [f"## `{path}`", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(out)


def with_section(text: str, name: str, content: str) -> str:
    """The text with what stands between the markers of a section replaced."""
    begin, end = f"<!-- {name}: made by docs/generate.py -->", f"<!-- /{name} -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def generated() -> dict[Path, str]:
    """Every file and what it should hold."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    architecture = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    return {
        ROOT / "README.md": with_section(readme, "families", matrix()),
        ROOT / "ARCHITECTURE.md": with_section(architecture, "passes", passes()),
        ROOT / "docs" / "cli.md": command_line(),
    }


def main() -> int:
    """Write, or check."""
    stale = [p for p, text in generated().items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" in sys.argv:
            print(f"{path.relative_to(ROOT)} is stale: run make docs")
        else:
            path.write_text(generated()[path], encoding="utf-8")
            print(f"{path.relative_to(ROOT)} written")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
