"""Write what the documentation takes from the code: the command line's help, the recipe's keys, the matrix of families.

python docs/generate.py            write
python docs/generate.py --check    exit 1 where a file is stale
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kept.errors import Refusal
from kept.families import FAMILIES, TARGETS
from kept.families.lengths import domain
from kept.ir.program import Program
from kept.ir.slots import slots
from kept.ir.spec import Attention, Dynamic, LongRope
from kept.ir.tensors import zeros
from kept.passes import PASSES
from kept.passes.legalize import WAY_OUT, Options, legalise, stand_ins
from kept.passes.map_spec import map_operations
from kept.recipe import MEASUREMENTS
from kept.terminal.cli import main as cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.spec import Scaling, Spec

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
    ("qwen3", "", {}),
    ("gemma", "", {}),
    ("gemma2", "", {"num_key_value_heads": 2}),
    ("phi3", "", {"sliding_window": None}),
    ("smollm3", "some layers without rotation", {"num_hidden_layers": 4}),
    ("granite", "", {}),
    ("olmo", "", {}),
    ("olmo2", "", {}),
    ("nemotron", "", {}),
    ("gpt_neox", "sequential residual", {"use_parallel_residual": False}),
    ("gpt_neox", "parallel residual", {}),
    ("phi", "", {}),
    ("cohere", "", {}),
    ("falcon", "", {"new_decoder_architecture": True}),
    ("internlm", "", {}),
    ("internlm2", "", {}),
    ("baichuan", "", {"max_position_embeddings": 4096}),
    ("qwen", "", {"seq_length": 2048, "kv_channels": 8}),
    ("aquila", "", {}),
    ("xverse", "", {}),
    ("exaone", "", {"num_layers": 2}),
    ("deci", "", {"num_key_value_heads_per_layer": [4, 2]}),
    ("minicpm", "", {}),
)
"""A config of each family, and of each variant that decides what it can become."""


WAYS = (
    ("", Options()),
    ("`--final-bias drop`", Options(final_bias="drop")),
    ("`--norm carried`", Options(norm="carried")),
    ("`--norm opm`", Options(norm="opm")),
)
"""What a user may ask for, best first."""


def matrix() -> str:
    """Sources against targets: exact, what else, or refused; and the numbered reasons below."""
    rows = [f"| source | {' | '.join(TARGETS)} |", f"| --- |{' --- |' * len(TARGETS)}"]
    reasons: dict[str, int] = {}
    for name, variant, config in EXAMPLES:
        program = example(name, config)
        cells = [cell(program, target, reasons) for target in TARGETS]
        rows.append(f"| {name}{f', {variant}' if variant else ''} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*rows, "", "Refused because:", "", *notes])


def example(name: str, config: dict[str, Any]) -> Program:
    """A small program of a family, without values."""
    spec = FAMILIES[name].read_config({**SIZES, **config})
    return Program(spec, {slot: zeros(info.shape, "F32") for slot, info in slots(spec).items()})


def cell(program: Program, target: str, reasons: dict[str, int]) -> str:
    """The best promise with what must be asked for it, or the numbers of the reasons."""
    for asked, options in WAYS:
        try:
            plan = legalise(program, TARGETS[target].violations, options, stand_ins(program.spec))
        except Refusal:
            continue
        return f"{plan.promise}{f' with {asked}' if asked else ''}"
    return f"refused ({', '.join(map(str, sorted(numbers(program, target, reasons))))})"


def numbers(program: Program, target: str, reasons: dict[str, int]) -> set[int]:
    """Why the plain conversion is refused; a reason that is new gets the next number."""
    try:
        legalise(program, TARGETS[target].violations, Options())
    except Refusal as refusal:
        said = str(refusal)
        parts = said.removesuffix(f"; {WAY_OUT}").split("; ") if said.endswith(WAY_OUT) else [said]
        return {reasons.setdefault(part, len(reasons) + 1) for part in parts}
    raise AssertionError


def routes() -> str:
    """The passes of every exact conversion to the first target."""
    rows = [
        "# How each family becomes a Llama",
        "",
        "Made by `docs/generate.py` from the code. What is not here is refused:",
    ]
    rows += ["README.md has the reasons.", ""]
    rows += ["| source | passes |", "| --- | --- |"]
    for name, variant, config in EXAMPLES:
        try:
            plan = legalise(example(name, config), TARGETS["llama"].violations, Options())
        except Refusal:
            continue
        steps = ", ".join(f"`{step.rewrite.name}`" for step in plan.steps) or "a copy"
        rows.append(f"| {name}{f', {variant}' if variant else ''} | {steps} |")
    return "\n".join([*rows, "", *domains(), ""])


ROTATIONS: tuple[tuple[str, Scaling | None], ...] = (
    ("", None),
    ("LongRoPE", LongRope((1.0,) * 4, (2.0,) * 4, 4096, 8.0, 1.25)),
    ("dynamic NTK", Dynamic(2.0, 32768)),
)


def domains() -> Iterator[str]:
    """Yield the lines about the domain of an exact promise: lengths past which the classes of two families differ."""
    yield "## Where a promise holds"
    yield ""
    yield "An exact conversion computes the same function. Past some length the classes of two families may still"
    yield "differ, mostly in how they update the KV cache, and Aquila2's class clips large attention scores. Plan,"
    yield "`kept.json`, model card and report state this domain of the promise. For conversions to Llama:"
    yield ""
    yield from ("| source | rotation | the promise holds |", "| --- | --- | --- |")
    for name, family in FAMILIES.items():
        config = next(config for known, _, config in EXAMPLES if known == name)
        for rotation, scaling in ROTATIONS:
            spec = rotated(family.read_config({**SIZES, **config}), scaling)
            found = domain(family, spec, TARGETS["llama"], spec)
            if found and not family.violations(spec):
                yield f"| {name} | {rotation or 'any'} | {found[0]} |"
    yield ""
    yield "Passes restrict the domain further: `limit-context` and `drop-window` to a length, `affine-tail` to dtypes"
    yield "that can hold its constants, `expand-vocab` to the old tokens. [rules.md](rules.md) has each family's rules."


def rotated(spec: Spec, scaling: Scaling | None) -> Spec:
    """Return the spec with a context of 32,768 and, if its layers have RoPE, the scaling."""
    spec = replace(spec, context=32768)
    if scaling is None:
        return spec
    return map_operations(
        spec, Attention, lambda one: replace(one, rope=one.rope and replace(one.rope, scaling=scaling))
    )


def passes() -> str:
    """Every pass with its options and what it does."""
    rows = ["| pass | options | what it does |", "| --- | --- | --- |"]
    for name, rewrite in PASSES.items():
        options = ", ".join(f"`{field.name}`" for field in fields(rewrite) if field.name not in MEASUREMENTS)
        rows.append(f"| `{name}` | {options} | {rewrite.summary} |")
    return "\n".join(rows)


def commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with the words that call them."""
    yield path, command
    for name, below in sorted(command.commands.items()) if isinstance(command, click.Group) else ():
        yield from commands(f"{path} {name}", below)


def command_line() -> str:
    """The help of every command."""
    out = ["# The command line", "", "Made by `docs/generate.py` from the code.", ""]
    for path, command in commands("kept", cli):
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
        ROOT / "docs" / "families.md": routes(),
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
