"""Measure the cost of running tokenizers in a fenced process: start-up time, one short text, a corpus.

    python benchmarks/fenced_tokenizer.py MODEL TEXT...

MODEL is a directory with a tokenizer, each TEXT a UTF-8 file. The same corpus is encoded by the library in this process
for comparison.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.checkpoint.tokenizer_worker import load

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE, TOGETHER, TRIES = 16_384, 64, 3
"""Characters per document, documents per call, runs per measurement (the fastest counts)."""


def main(model: str, *texts: str) -> None:
    """Check that both give the same ids, and print seconds, milliseconds and MB/s."""
    reader = TokenizerReader(Path(model))
    began = time.perf_counter()
    reader.encode("a")
    print(f"start-up: {time.perf_counter() - began:.2f} s")
    print(f"a short text: {1000 * _seconds(lambda: reader.encode('hello there')):.2f} ms")
    assert reader.file is not None
    library = load(reader.file)
    whole = [Path(text).read_text(encoding="utf-8", errors="replace") for text in texts]
    pieces = [text[at : at + PIECE] for text in whole for at in range(0, len(text), PIECE)]
    calls = [pieces[at : at + TOGETHER] for at in range(0, len(pieces), TOGETHER)]
    own = [ids.tolist() for call in calls for ids in reader.encode_all(call)]
    assert own == [found.ids for call in calls for found in library.encode_batch_fast(call)]
    megabytes = sum(len(piece.encode()) for piece in pieces) / 1e6
    for name, read in {
        "ids, fenced": lambda: [reader.encode_all(call) for call in calls],
        "ids, the library": lambda: [[found.ids for found in library.encode_batch_fast(call)] for call in calls],
        "ids and places, fenced": lambda: [reader.encodings(call) for call in calls],
        "ids and places, the library": lambda: [
            [(found.ids, found.offsets) for found in library.encode_batch(call)] for call in calls
        ],
    }.items():
        print(f"{name}: {megabytes / _seconds(read):.2f} MB/s")


def _seconds(do: Callable[[], object]) -> float:
    found = []
    for _ in range(TRIES):
        began = time.perf_counter()
        do()
        found.append(time.perf_counter() - began)
    return min(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
