"""`kept report`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.display import texts
from kept.cli.display.console import out_json
from kept.cli.options import FILE, FOLDER, JSON


@click.command("report")
@click.argument("out", type=FOLDER)
@click.option("--out", "file", metavar="FILE", type=FILE, help="File to write. [default: OUT/report.html]")
@click.option(
    "--eval",
    "evaluations",
    multiple=True,
    metavar="FILE",
    type=FILE,
    help="JSON file that kept eval --out wrote. May be given several times.",
)
@click.option(
    "--metrics",
    metavar="FILE",
    type=FILE,
    help="The metrics.jsonl of the healing run of OUT, for the loss curves.",
)
@JSON
def command(out: str, file: str | None, *, as_json: bool, **options: Any) -> None:
    """Write an HTML page about a model.

    The page shows the passes that made OUT, its difference from the source, the loss curves of the healing run,
    evaluation results, texts side by side, and how to load OUT. It is one file without external resources. A section
    without data is left out.

    \b
    kept report out/llama
    kept report out/healed --eval eval.json --metrics out/.healed.kept-healing/metrics.jsonl
    kept report out/llama --out page.html
    """
    from kept.pages.page import report

    done = report(out, file, **options)
    out_json({"page": str(done.path), "sections": done.sections}) if as_json else texts.reported(done)
