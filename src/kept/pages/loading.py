"""The section of the report about loading the output: code for each runtime, and the commands that measure it again."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from kept.checkpoint.tokenizer_config import loader
from kept.families import FAMILIES, is_stock
from kept.gguf.architectures import WRITTEN
from kept.pages.blocks import Block, Code, Notes, Paragraph, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.output.record import Record


def loading(record: Record, out: str) -> Section:
    """Return the section on loading the output: the code to type, and notes on runtimes that do not load it."""
    return Section("load", "Load it", tuple(_ways(record, out)))


def _ways(record: Record, out: str) -> Iterator[Block]:
    target = record.target
    if target is not None and not is_stock(target):
        yield Paragraph(f"transformers has no class for {target}; kept generate runs it, and kept convert changes it.")
        return
    own = target is not None and target in FAMILIES and FAMILIES[target].carries_code
    if own:
        yield Code(
            "transformers, with kept's own code; without kept installed it takes trust_remote_code=True",
            f"import kept\nfrom transformers import AutoModelForCausalLM\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({out!r})",
        )
        yield from _again(record, out)
        yield from [Notes(tuple(f"Limited support: {note}" for note in record.runtimes))] * bool(record.runtimes)
        return
    reads = "AutoTokenizer" if record.source is None or target is None else loader(record.source.family, target)
    trusted = ", trust_remote_code=False" if reads == "AutoTokenizer" else ""
    yield Code(
        "transformers",
        f"from transformers import AutoModelForCausalLM, {reads}\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({out!r}, trust_remote_code=False)\n"
        f"tokenizer = {reads}.from_pretrained({out!r}{trusted})",
    )
    yield from _again(record, out)
    yield Code("vLLM, which takes the stock class; kept has not measured it", f"vllm serve {shlex.quote(out)}")
    yield from _gguf(record, shlex.quote(out))
    notes = tuple(f"Limited support: {note}" for note in record.runtimes)
    yield from [Notes(notes)] * bool(notes)


def _gguf(record: Record, out: str) -> Iterator[Code]:
    """Yield the commands that make a GGUF file: by kept for the families that it writes, and by llama.cpp."""
    runs = "llama-cli -m model.gguf -p 'Once upon a time'"
    if record.target in WRITTEN:
        yield Code("llama.cpp", f"kept export {out} model.gguf\n{runs}")
    yield Code(
        "llama.cpp, with its own converter",
        f"python convert_hf_to_gguf.py {out} --outtype bf16 --outfile model.gguf\n{runs}",
    )


def _again(record: Record, out: str) -> Iterator[Code]:
    """Yield the commands that measure the output again."""
    if record.source is None:
        return
    source, output = (shlex.quote(name) for name in (f"path/to/{record.source.name}", out))
    verify = f"kept verify {source} {output}\n" if record.healed is None else ""
    evaluate = f"kept eval {source} {output} --text english=en.txt --tasks hellaswag,arc_easy --out eval.json"
    yield Code("kept: measure it again", f"{verify}{evaluate}")
