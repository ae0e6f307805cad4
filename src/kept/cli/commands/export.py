"""`kept export`."""

from __future__ import annotations

from dataclasses import asdict

import click

from kept.cli.display.console import out_json
from kept.cli.options import FILE, FOLDER, JSON
from kept.progress_bars import ProgressBars


@click.command("export")
@click.argument("path", type=FOLDER)
@click.argument("file", metavar="FILE.gguf", type=FILE)
@click.option(
    "--type",
    "kind",
    metavar="[f32|bf16|f16|q8_0]",
    help="Type of the matrices; vectors are f32. [default: the dtype in the checkpoint]",
)
@JSON
def command(path: str, file: str, kind: str | None, *, as_json: bool) -> None:
    """Write a model as a GGUF file for llama.cpp.

    For models that llama.cpp computes as Llama: llama, mistral, qwen2 and qwen3. Tokenizer and chat template are in the
    file. It is read back before it gets its name. A model of another family is converted first.

    \b
    kept export out/llama out/llama.gguf
    kept export out/llama out/llama-q8.gguf --type q8_0
    """
    from kept.commands.export_gguf import export_gguf

    done = export_gguf(path, file, type=kind, progress=ProgressBars())
    if as_json:
        out_json({**asdict(done), "path": str(done.path)})
    else:
        click.echo(f"{done.path}: written ({', '.join(list(done.summary().values())[1:])})")
