"""Run inside llama.cpp's environment: the ids of texts by the vocabulary of each GGUF file.

python gguf_tokens.py TEXTS.json OUT.json FILE.gguf ...    special tokens in a text are read as such
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llama_cpp import Llama


def main(texts: str, out: str, *files: str) -> None:
    """A list of ids for each text, by file; behind it those of the first text as llama.cpp begins it."""
    given = json.loads(Path(texts).read_text(encoding="utf-8"))
    found = {}
    for file in files:
        model = Llama(file, vocab_only=True, verbose=False)
        plain = [model.tokenize(text.encode(), add_bos=False, special=True) for text in given]
        found[file] = [*plain, model.tokenize(given[0].encode(), add_bos=True, special=True)]
    Path(out).write_text(json.dumps(found), encoding="utf-8")


main(*sys.argv[1:])
