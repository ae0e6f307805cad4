"""`kept tokenizer`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.display import tokenizers
from kept.cli.display.console import out_json
from kept.cli.options import FILE, FOLDER, JSON, SettingsCommand
from kept.cli.replaced import FORCE, replaced
from kept.progress_bars import ProgressBars


@click.group("tokenizer")
def command() -> None:
    """Train a tokenizer, or merge new tokens into a model's tokenizer.

    kept expand --tokenizer then adds rows for the new tokens to the model.

    \b
    kept tokenizer train korean/ --like path/to/llama --vocab-size 8000 --out out/korean
    kept tokenizer merge path/to/llama out/korean --out out/merged
    kept expand path/to/llama out/grown --tokenizer out/merged
    """


@command.command("train", cls=SettingsCommand)
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, type=FILE)
@click.option("--out", required=True, metavar="DIR", type=FOLDER, help="Output directory.")
@click.option(
    "--vocab-size", default=8000, show_default=True, help="Vocabulary size, including byte tokens and special tokens."
)
@click.option(
    "--like",
    metavar="MODEL",
    type=FOLDER,
    help="Use normalizer, pre-tokenizer and kind of this model's tokenizer, so that the result can be merged into it.",
)
@click.option(
    "--kind",
    metavar="KIND",
    help="Kind of BPE, if --like is not given: byte-level (GPT-2) or byte-fallback (Llama 2). [default: byte-level]",
)
@click.option(
    "--text-field",
    default="text",
    show_default=True,
    help="Field of JSON lines, or column of parquet, that holds the text.",
)
@FORCE
@JSON
def train(texts: tuple[str, ...], out: str, *, force: bool, as_json: bool, **options: Any) -> None:
    """Train a BPE tokenizer on texts.

    TEXT is a text file, JSON lines, parquet, or a directory of them.

    \b
    kept tokenizer train korean/ --like path/to/llama --vocab-size 8000 --out out/korean
    kept tokenizer train corpus.jsonl --text-field content --kind byte-fallback --out out/own
    """
    from kept.tokenizer.train import train_tokenizer

    with replaced(out, (texts, options), force=force):
        done = train_tokenizer(texts, out, progress=ProgressBars(), **options)
    out_json(tokenizers.trained_table(done)) if as_json else tokenizers.trained(done)


@command.command("merge")
@click.argument("model", type=FOLDER)
@click.argument("new", type=FOLDER)
@click.option("--out", required=True, metavar="DIR", type=FOLDER, help="Output directory.")
@click.option("--max-added-tokens", type=int, metavar="N", help="Add at most N new tokens.")
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="FILE",
    type=FILE,
    help="UTF-8 text to count the tokens of, before and after. Repeatable. [default: a built-in sample]",
)
@FORCE
@JSON
def merge(
    model: str,
    new: str,
    out: str,
    *,
    max_added_tokens: int | None,
    texts: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Add the tokens of the tokenizer NEW to the tokenizer of MODEL.

    Old tokens keep their ids, and text without a new token is tokenized as before. New merges rank after the old ones.
    A token of NEW that no sequence of merges can produce is left out and counted.

    \b
    kept tokenizer merge path/to/llama out/korean --out out/merged --text korean.txt
    kept expand path/to/llama out/grown --tokenizer out/merged
    """
    from kept.tokenizer.merge import merge_tokenizers

    with replaced(out, (model, new, texts), force=force):
        done = merge_tokenizers(model, new, out, max_added_tokens=max_added_tokens, texts=texts)
    out_json(tokenizers.merged_table(done)) if as_json else tokenizers.merged(done)
