"""The command `kept` and the list of its commands, which are imported when they run."""

from __future__ import annotations

import click

from kept.cli.lazy import HELP_OPTIONS, CommandEntry, ErrorReporting

SUMMARIES = {
    "inspect": "Show what a checkpoint is and which families it can be converted to.",
    "plan": "Show the passes of a conversion, or the memory and time of a healing run.",
    "convert": "Convert a checkpoint to another architecture and verify the result.",
    "expand": "Add layers or tokens to a model without changing its outputs.",
    "shrink-expanded": "Remove added layers that contribute almost nothing.",
    "tokenizer": "Train a tokenizer, or merge new tokens into a model's tokenizer.",
    "heal": "Train a converted model to match its source, or on new texts.",
    "cache-teacher": "Write a teacher's most likely tokens, to heal without running it.",
    "run": "Run the steps of a recipe, one after another.",
    "verify": "Compare a converted model with its source.",
    "check": "Check that a checkpoint is complete and its weights are finite.",
    "eval": "Evaluate one model, or several side by side.",
    "generate": "Generate text with a model.",
    "export": "Write a model as a GGUF file for llama.cpp.",
    "report": "Write an HTML page about a model.",
    "push": "Upload an output to the Hugging Face hub.",
    "demo": "Convert the small model that comes with kept.",
    "schema": "Print the JSON schema of a recipe, for completion in editors.",
    "completion": "Print the completion script of a shell.",
}
"""Commands in the order of --help, with their summaries."""

COMMANDS = {name: CommandEntry(f"kept.cli.commands.{name.replace('-', '_')}", text) for name, text in SUMMARIES.items()}


@click.group(
    cls=ErrorReporting,
    entries=COMMANDS,
    context_settings={"help_option_names": HELP_OPTIONS, "max_content_width": 100},
)
@click.version_option(package_name="kept")
def main() -> None:
    """Change the architecture of a pretrained decoder language model and keep what it knows.

    \b
    kept inspect path/to/orion                       what is it, and what can it become?
    kept plan    path/to/orion --to llama            passes, promises and cost of a conversion
    kept convert path/to/orion out/llama             convert and verify
    kept verify  path/to/orion out/llama             verify again, on your own text
    kept heal    out/llama --teacher path/to/orion   distil the remaining difference from the source
    kept expand  out/llama out/pro --groups 8        add layers that do not change the outputs yet
    kept eval    path/to/orion out/llama             evaluate both side by side
    kept report  out/llama --eval eval.json          everything about a model on one page
    kept run     recipe.toml                         several of these commands, one after another
    """
