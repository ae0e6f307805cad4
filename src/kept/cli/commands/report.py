"""`kept report`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.display import texts
from kept.cli.display.console import out_json
from kept.cli.options import JSON, files, folders


@click.command("report")
@click.argument("out", shell_complete=folders)
@click.option("--out", "file", metavar="FILE", shell_complete=files, help="The page. [default: OUT/report.html]")
@click.option(
    "--eval",
    "evaluations",
    multiple=True,
    metavar="FILE",
    shell_complete=files,
    help="Results that kept eval wrote with --out. May be given several times.",
)
@click.option("--metrics", metavar="FILE", shell_complete=files, help="metrics.jsonl of the run that healed OUT.")
@JSON
def command(out: str, file: str | None, *, as_json: bool, **options: Any) -> None:
    """Write an HTML page about a model.

    The passes that made OUT, its distance from the source, the healing run, what each domain forgot and learned, texts
    side by side, and how to load it. One file without external resources; a section without data is left out.

    \b
    kept report out/llama
    kept report out/healed --eval eval.json --metrics out/.healed.kept-healing/metrics.jsonl
    kept report out/llama --out page.html
    """
    from kept.pages.page import report

    done = report(out, file, **options)
    out_json({"page": str(done.path), "sections": done.sections}) if as_json else texts.reported(done)
