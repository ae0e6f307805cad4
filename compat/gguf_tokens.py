"""Tokenise texts with the vocabulary of each GGUF file; runs inside llama.cpp's environment.

python gguf_tokens.py TEXTS.json OUT.json FILE.gguf ...    special tokens in a text are parsed as special tokens
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llama_cpp import Llama


def main(texts: str, out: str, *files: str) -> None:
    """Write the ids of each text by file; the last entry is the first text with its BOS token."""
    given = json.loads(Path(texts).read_text(encoding="utf-8"))
    found = {}
    for file in files:
        model = Llama(file, vocab_only=True, verbose=False)
        plain = [model.tokenize(text.encode(), add_bos=False, special=True) for text in given]
        found[file] = [*plain, model.tokenize(given[0].encode(), add_bos=True, special=True)]
    Path(out).write_text(json.dumps(found), encoding="utf-8")


main(*sys.argv[1:])
