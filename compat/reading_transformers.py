"""Load outputs' tokenizers, chat templates and generation configs with the transformers of this environment.

python reading_transformers.py ASKED.json DIR...    prints a line of JSON for each directory, in their order
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import transformers
from transformers import AutoTokenizer, GenerationConfig

transformers.logging.set_verbosity_error()


def main(asked_file: str, *directories: str) -> None:
    """Print the result of each directory; an error is a result with the key `refused`."""
    asked = json.loads(Path(asked_file).read_text(encoding="utf-8"))
    for directory in directories:
        try:
            found = read(directory, asked)
        except Exception as error:  # noqa: BLE001 - any error is reported as the result
            found = {"refused": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        sys.stdout.write(json.dumps(found) + "\n")


def read(directory: str, asked: dict[str, object]) -> dict[str, object]:
    """Return ids, decoded texts, special tokens and rendered conversations. The generation config is only loaded."""
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    GenerationConfig.from_pretrained(directory)
    ids = [tokenizer(text)["input_ids"] for text in asked["texts"]]
    rendered = {}
    for tools in (None, asked["tools"]):
        if tokenizer.chat_template is not None:
            said = tokenizer.apply_chat_template(asked["messages"], tools=tools, tokenize=False)
            rendered["tools" if tools else "plain"] = said
    return {
        "ids": ids,
        "texts": [tokenizer.decode(one) for one in ids],
        "special": sorted(set(tokenizer.all_special_tokens)),
        "ends": [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token],
        "rendered": rendered,
    }


main(*sys.argv[1:])
