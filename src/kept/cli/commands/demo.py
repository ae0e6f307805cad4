"""`kept demo`."""

from __future__ import annotations

import click

from kept.cli.display import conversion
from kept.cli.display.console import out_json
from kept.cli.options import FOLDER, JSON
from kept.progress_bars import ProgressBars


@click.command("demo")
@click.option("--out", default="kept-demo", show_default=True, metavar="DIR", type=FOLDER, help="Output directory.")
@JSON
def command(out: str, *, as_json: bool) -> None:
    """Convert the small model that comes with kept.

    The result is verified, loaded with transformers, and shown on an HTML page.

    \b
    kept demo
    kept demo --out /tmp/demo
    """
    from kept.demo import run_demo

    done = run_demo(out, ProgressBars())
    out_json(done.record) if as_json else conversion.demo(done)
