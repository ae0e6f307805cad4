"""`kept generate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from kept.cli.display import texts
from kept.cli.display.console import out_json
from kept.cli.options import FOLDER, JSON
from kept.device import AUTO, DEVICE_HELP, DTYPES
from kept.progress_bars import ProgressBars

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEVICE = click.option("--device", default=AUTO, show_default=True, metavar="DEVICE", help=DEVICE_HELP)
DTYPE = click.option(
    "--dtype",
    metavar=f"[{'|'.join(DTYPES)}]",
    help="Dtype that the weights are cast to; bf16, fp16 and fp32 are short names. [default: the dtype in the "
    "checkpoint]",
)


@click.command("generate")
@click.argument("path", type=FOLDER)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="Text to continue, or with --chat the user's message. May be given several times. [default: Once upon a time; "
    "with --chat: each line of standard input]",
)
@click.option(
    "--chat", is_flag=True, help="Answer as in a conversation: prompts are rendered with the model's chat template."
)
@click.option("--system", metavar="TEXT", help="With --chat: the message of the system.")
@click.option(
    "--max-new-tokens", type=int, metavar="N", help="Maximum number of new tokens. [default: 64; with --chat: 512]"
)
@click.option("--temperature", default=0.0, show_default=True, help="Sampling temperature; 0: greedy decoding.")
@click.option(
    "--top-p",
    default=1.0,
    show_default=True,
    help="Nucleus sampling: sample from the most likely tokens whose probabilities add up to this.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the sampling.")
@DEVICE
@DTYPE
@JSON
def command(path: str, prompts: tuple[str, ...], *, chat: bool, as_json: bool, **options: Any) -> None:
    """Generate text with a model, or chat with it.

    Works for every family that kept reads, including those that transformers has no class for. Generation ends at an
    end token of the generation config. With --chat, answers appear as they are generated, and without --prompt the
    conversation goes on with each line of standard input, until its end (Ctrl-D).

    \b
    kept generate out/llama --prompt "Once upon a time"
    kept generate path/to/orion --prompt "def add(" --temperature 0.8 --top-p 0.9
    kept generate out/smollm2 --chat
    kept generate out/smollm2 --chat --system "Answer in one line." --prompt "What is a KV cache?" --device cuda
    """
    from kept.commands.generate import generate

    if chat and not as_json:
        _chat(path, prompts, **options)
        return
    if chat:
        prompts = prompts or tuple(_lines())
    found = generate(path, prompts or ("Once upon a time",), chat=chat, progress=ProgressBars(), **options)
    out_json(found) if as_json else texts.generations(found)


def _chat(path: str, prompts: Sequence[str], **options: Any) -> None:
    """Answer each prompt in a conversation of its own, or the lines of standard input in one."""
    from kept.commands.chat import Chat

    if prompts:
        for prompt in prompts:
            if len(prompts) > 1:
                texts.said(prompt)
            texts.answer(Chat.open(path, **options), prompt)
        return
    talk = Chat.open(path, **options)
    for line in _lines():
        texts.answer(talk, line)


def _lines() -> Iterator[str]:
    """Yield the lines of standard input that are not empty, after a prompt if it is a terminal."""
    while True:
        if sys.stdin.isatty():
            click.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
