"""Check that every supported transformers loads an output's tokenizer, chat template and generation config alike.

python compat/reading.py [--out docs/reference/compat.md]    `make compat` runs it; environments lie in out/compat

Each form is a source with tokenizer files as found in public checkpoints. Each transformers loads the converted output.
Ids, decoded texts, special tokens and a conversation rendered with and without tools must equal those of the source in
transformers 5; the ids must also equal `kept`'s. Exit code 1 if an output differs or does not load.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environments import TRANSFORMERS, Environment, with_transformers
from forms import ROOT
from sections import Section

import kept
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.demo import model_path

sys.path.insert(0, str(ROOT / "tests"))
from support.chats import CHATML, write_chat_tokenizer
from support.models import write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent

SECTION = Section("reading")

ASKED: dict[str, Any] = {
    "texts": [
        "The keeper counted seven ships.",
        "한국어와 中文 🙂",
        "  two  spaces , and a sign !",
        "<|im_start|>user",
    ],
    "messages": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Seven."}],
    "tools": [{"type": "function", "function": {"name": "ships", "description": "", "parameters": {}}}],
}

TOOLS = "TOOLS {{ tools | tojson }} {{ messages[0].content }}"

TOKENS = ["<|im_start|>", "<|im_end|>"]

PARTS = ("ids", "texts", "special", "ends", "rendered")
"""Keys of a result that are compared."""


@dataclass(frozen=True)
class Form:
    """The companion files of a source: keys of its tokenizer config, and the text of other files by name."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    sentencepiece: bool = False

    def source(self, folder: Path) -> Path:
        """Write the checkpoint to convert and return its directory."""
        made = folder / "source"
        write_checkpoint(made, "llama", vocab_size=2048)
        if self.sentencepiece:
            shutil.copy(model_path() / "tokenizer.model", made)
            config = json.loads((model_path() / "tokenizer_config.json").read_text())
            (made / "tokenizer_config.json").write_text(json.dumps({**config, **self.config}))
        else:
            write_chat_tokenizer(made, **self.config)
        for name, text in self.files.items():
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_text(text, encoding="utf-8")
        return made


def as_json(**value: object) -> str:
    """Return the text of a JSON file."""
    return json.dumps(value)


FORMS = (
    Form("fast tokenizer", {"chat_template": CHATML}),
    Form("tokenizer.model", {"chat_template": CHATML}, sentencepiece=True),
    Form("extra_special_tokens as a list", {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": TOKENS}),
    Form("extra_special_tokens as a map", {"extra_special_tokens": {"turn_token": "<|im_start|>"}}),
    Form(
        "both, as transformers 5 writes them",
        {"extra_special_tokens": TOKENS, "model_specific_special_tokens": {"turn_token": "<|start|>"}},
    ),
    Form(
        "the list in special_tokens_map.json", files={"special_tokens_map.json": as_json(extra_special_tokens=TOKENS)}
    ),
    Form("a class that only transformers 5 has", {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}),
    Form("a class of remote code", {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["my.My", None]}}),
    Form("a processor's class", {"processor_class": "PixtralProcessor"}, {"preprocessor_config.json": "{}"}),
    Form("template in a file", files={"chat_template.jinja": CHATML}),
    Form(
        "named templates in files",
        files={"chat_template.jinja": CHATML, "additional_chat_templates/tool_use.jinja": TOOLS},
    ),
    Form(
        "named templates in the config",
        {"chat_template": [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": TOOLS}]},
    ),
    Form("template of a processor", files={"chat_template.json": as_json(chat_template=CHATML)}),
    Form("template in both, which differ", {"chat_template": "x"}, {"chat_template.jinja": CHATML}),
    Form(
        "generation config of transformers 5",
        files={
            "generation_config.json": as_json(
                do_sample=None, early_stopping=None, num_return_sequences=None, top_h=0.4, cache_implementation="x"
            )
        },
    ),
    Form(
        "generation config that does not load",
        files={"generation_config.json": as_json(num_return_sequences=4, compile_config={}, streamer=None)},
    ),
)


def main() -> int:
    """Convert each form, load it in each transformers, compare and print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table into this page")
    options = parser.parse_args()
    folder = ROOT / "out" / "compat"
    work = folder / "reading"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "asked.json").write_text(json.dumps(ASKED), encoding="utf-8")
    environments = {name: with_transformers(name, folder) for name in TRANSFORMERS}
    pairs = [_make(form, work / str(number)) for number, form in enumerate(FORMS)]
    outputs = [output for _, output in pairs]
    wanted = _read(environments["transformers 5"], work, [source for source, _ in pairs])
    found = {name: _read(environment, work, outputs) for name, environment in environments.items()}
    table, wrong = _table(pairs, wanted, found)
    print(table)
    if options.out is not None:
        SECTION.write(options.out, table)
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    return 1 if wrong else 0


def _make(form: Form, folder: Path) -> tuple[Path, Path]:
    folder.mkdir()
    source = form.source(folder)
    return source, kept.convert(source, folder / "out", verify_tokens=0).path


def _read(environment: Environment, work: Path, directories: list[Path]) -> list[dict[str, Any]]:
    done = environment.run(HERE / "reading_transformers.py", work / "asked.json", *directories)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _table(
    pairs: list[tuple[Path, Path]], wanted: list[dict[str, Any]], found: Mapping[str, list[dict[str, Any]]]
) -> tuple[str, list[str]]:
    """Return the table in Markdown, and a line for each difference between an output and its source."""
    rows = ["| companions | " + " | ".join(found) + " |", "| --- " * (1 + len(found)) + "|"]
    wrong = []
    for number, (form, (_, output)) in enumerate(zip(FORMS, pairs, strict=True)):
        cells = []
        for runtime, results in found.items():
            said = _difference(output, wanted[number], results[number])
            cells.append("equal" if said is None else f"**{said}**")
            if said is not None:
                wrong.append(f"{form.name}, {runtime}: {said}: {results[number]} and not {wanted[number]}")
        rows.append(f"| {form.name} | " + " | ".join(cells) + " |")
    return "\n".join(rows), wrong


def _difference(output: Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Return the first difference; None if equal. Parts that the source does not have are not compared."""
    if "refused" in found:
        return f"refused: {found['refused'][:80]}"
    own = [TokenizerReader(output).encode(text) for text in ASKED["texts"]]
    if found["ids"] != own:
        return "other ids"
    return next((f"other {part}" for part in PARTS if wanted.get(part) and found[part] != wanted[part]), None)


if __name__ == "__main__":
    sys.exit(main())
