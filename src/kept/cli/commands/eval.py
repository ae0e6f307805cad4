"""`kept eval`."""

from __future__ import annotations

import os
from typing import Any

import click

from kept.cli.display.console import out_json
from kept.cli.options import FILE, FOLDER, JSON, SettingsCommand, given
from kept.cli.options import settings as setting_options
from kept.evaluation.settings import EvalSettings
from kept.progress_bars import ProgressBars

TEXTS = ("texts", "old", "new")


def _list_tasks(ctx: click.Context, _: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click's signature
    """Print the names of all tasks, groups and tags, and exit."""
    if not asked:
        return
    from kept.evaluation.catalog import TaskCatalog
    from kept.evaluation.measurements import PARTS

    click.echo("\n".join(sorted({*TaskCatalog.installed().names, *PARTS})))
    ctx.exit()


@click.command("eval", cls=SettingsCommand)
@click.argument("path", metavar="PATH", type=FOLDER)
@click.argument("others", metavar="[OTHER]...", nargs=-1, type=FOLDER)
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="[DOMAIN=]FILE",
    help="Text, JSON, CSV or parquet file, or directory of them, on which perplexity is measured. May be given several "
    "times. [default: a built-in sample]",
)
@click.option(
    "--old",
    multiple=True,
    metavar="[DOMAIN=]FILE",
    help="Like --text, for a domain that PATH was trained on: measures how much each OTHER forgot.",
)
@click.option(
    "--new",
    multiple=True,
    metavar="[DOMAIN=]FILE",
    help="Like --text, for a domain that each OTHER was trained on: measures how much it learned.",
)
@setting_options(EvalSettings, without=(*TEXTS,))
@click.option(
    "--results", default="kept-eval", show_default=True, metavar="DIR", help="Directory that caches finished results."
)
@click.option("--out", metavar="FILE", type=FILE, help="Also write the results to a JSON file, for kept report --eval.")
@click.option(
    "--list-tasks",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_tasks,
    help="Print the names that --tasks takes, and exit.",
)
@JSON
def command(
    path: str, others: tuple[str, ...], results: str, out: str | None, *, as_json: bool, **options: Any
) -> None:
    """Evaluate one model, or several side by side.

    Measures perplexity on texts. --tasks adds tasks of lm-eval, whose documents are local files (--data) or in the
    hub's cache, perplexity by position, retrieval of a pass key from a long text, and agreement of greedy outputs with
    those of PATH. For each OTHER, the difference to PATH is shown with its interval over the same items. A model may be
    given a name for the tables: pro=out/trained.

    An interrupted evaluation continues if the command is run again; finished results are read from
    --results.

    \b
    kept eval path/to/orion out/llama --text english=en.txt --text python=code.txt
    kept eval path/to/llama pro=out/pro full=out/full --old stories=en.txt --new python=code.txt
    kept eval out/llama --tasks hellaswag,piqa,arc_easy,mmlu --data evals/ --limit 200
    kept eval path/to/orion out/llama --tasks gsm8k --num-fewshot 5 --data evals/ --log-samples --out eval.json
    kept eval out/llama --tasks positions,passkey --text book.txt
    kept eval out/llama --tasks mt-bench --data evals/ --judge https://host/v1 --judge-model NAME
    kept eval --list-tasks | grep mmlu
    """
    from kept.cli.display.evaluation import evaluation
    from kept.evaluation.evaluation_file import check, table, write
    from kept.evaluation.run import evaluate

    domains: dict[str, Any] = {role: _domains(options.pop(role)) for role in TEXTS}
    if out is not None:
        data = [options["data"]] if options["data"] is not None else []
        check(out, (path, *others), [file for one in domains.values() for file in one.values()] + data)
    found = evaluate(path, *others, results=results, progress=ProgressBars(), **domains, **given(options))
    if out is not None:
        write(out, found)
    out_json(table(found)) if as_json else evaluation(found)


def _domains(texts: tuple[str, ...]) -> dict[str, str]:
    """Return files by domain; a file without a domain is called by its name. Raises UsageError."""
    from kept.naming import split_name

    pairs = [split_name(text) for text in texts]
    empty = next((text for text, (_, file) in zip(texts, pairs, strict=True) if not file), None)
    if empty is not None:
        raise click.UsageError(f"{empty!r} names no file; write it as DOMAIN=FILE.")
    named = [(name or os.path.basename(file), file) for name, file in pairs]  # noqa: PTH119 - any text
    twice = next((name for n, (name, _) in enumerate(named) if name in dict(named[:n])), None)
    if twice is not None:
        raise click.UsageError(f"Two texts are called {twice!r}; name them: --text DOMAIN=FILE.")
    return dict(named)
