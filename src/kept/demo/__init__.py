"""The demonstration: convert the small trained Orion of the package to a stock Llama, and report on one page."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.small_files import refused
from kept.commands.convert import Conversion, run
from kept.errors import InputError
from kept.pages.blocks import TextPair, TextPairs
from kept.pages.page import report
from kept.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.reporting import Reporter

PROMPTS = ("Once upon a time, there was a", "The count looked at the", "def __init__(self, ")

TOKENS = 48


@dataclass(frozen=True)
class Demo:
    """The result of the demonstration: the conversion, the page, and generated texts.

    Each prompt is continued by the source (run by kept) and by the output (run by transformers).
    """

    conversion: Conversion
    stock_class: str
    pairs: tuple[TextPair, ...]
    page: Path

    @property
    def record(self) -> dict[str, Any]:
        """The record of the conversion with the path of the page and the generated texts."""
        pairs = [vars(pair) for pair in self.pairs]
        return {**self.conversion.record, "page": str(self.page), "class": self.stock_class, "generations": pairs}


def model_path() -> Path:
    """Return the path of the checkpoint in the package."""
    return Path(str(files("kept.demo").joinpath("orion-2m")))


def run_demo(out: str | Path, reporter: Reporter | None = None) -> Demo:
    """Convert, verify, load with stock transformers, generate side by side, and write `page.html` into `out`.

    Written in float32: rounding rewritten matrices to bfloat16 again may turn a near-tie between two tokens.
    An earlier demonstration in `out` is replaced; anything else there is left alone and raises InputError.
    """
    directory = Path(out)
    _clear(directory)
    conversion = run(Recipe(str(model_path()), str(directory / "llama"), dtype="float32"), progress=reporter or False)
    stock_class, pairs = _side_by_side(conversion.path)
    shown = TextPairs(("the source, run by kept", f"the output, run by transformers ({stock_class})"), pairs)
    return Demo(conversion, stock_class, pairs, report(conversion.path, directory / "page.html", pairs=shown).path)


def _clear(directory: Path) -> None:
    old = directory / "llama"
    with refused(old):
        if not old.exists():
            return
        if not _is_demonstration(old):
            raise InputError(f"{old}: exists and is no earlier demonstration; choose another place with --out")
        shutil.rmtree(old)


def _is_demonstration(directory: Path) -> bool:
    """Return whether a directory is an earlier demonstration without other files."""
    try:
        stated = json.loads((directory / "kept.json").read_text())
        weights = stated["source"]["files"]["model.safetensors"]
        known = {*stated["files"], "kept.json"}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    ours = not stated.get("healed") and weights == digest(model_path() / "model.safetensors")
    return ours and {entry.name for entry in directory.iterdir()} <= known


def _side_by_side(output: Path) -> tuple[str, tuple[TextPair, ...]]:
    """Return the output's stock class, and greedy texts of the source (kept) and output (transformers), in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=False, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(output, trust_remote_code=False)
    theirs = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        written = model.generate(**ids, max_new_tokens=TOKENS, do_sample=False)[0]  # type: ignore[misc] # untyped
        theirs.append(str(tokenizer.decode(written, skip_special_tokens=True))[len(prompt) :])
    pairs = tuple(TextPair(p, s, o) for p, s, o in zip(PROMPTS, _source_texts(PROMPTS), theirs, strict=True))
    return type(model).__name__, pairs


def _source_texts(prompts: Sequence[str]) -> list[str]:
    import torch

    from kept.checkpoint.tokenizer_reader import TokenizerReader
    from kept.loaded import open_model
    from kept.nn import Model, generate

    reader = TokenizerReader(model_path())
    model = Model.load(open_model(model_path()).program, torch.float32)
    old = [reader.encode(prompt) for prompt in prompts]
    return [reader.continuation(*pair) for pair in zip(old, generate(model, old, TOKENS), strict=True)]
