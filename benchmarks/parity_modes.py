"""Parity of each conversion of LayerNorm to RMSNorm, on a trained Orion, in three domains.

    python benchmarks/parity_modes.py ../shared/data/checkpoints/orion-9m ../shared/data/corpora

Every candidate and the source run in float32, the reference is the source in float64. Prints a table (KL in nats per
token, cross-entropy in nats per token) and writes it with command and commit to benchmarks/results/.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from keeping import keep

from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.families import FAMILIES
from kept.loaded import open_model
from kept.passes.legalize import legalise
from kept.passes.rules import Options
from kept.verification.calibration import calibrate
from kept.verification.lockstep import Lane
from kept.verification.parity import measure
from kept.verification.streamed import StreamedRun

if TYPE_CHECKING:
    from kept.ir.program import Program

ROWS, LENGTH = 16, 256

DOMAINS = {
    "English": "english/standardebooks.txt",
    "Python": "python/*",
    "stories": "tinystories/tinystories_1000.json",
}


def tokens_of(reader: TokenizerReader, corpora: Path, domain: str, offset: float = 0.5) -> torch.Tensor:
    """Rows from evenly spaced places of a domain's text; another `offset` gives other places."""
    text = "".join(read(file) for file in sorted(corpora.glob(DOMAINS[domain])))
    places = [int(len(text) * (row + offset) / ROWS) for row in range(ROWS)]
    return torch.tensor([reader.encode(text[at : at + 8 * LENGTH])[:LENGTH] for at in places])


def read(file: Path) -> str:
    """A corpus file as text; of a JSON list its strings, a blank line between."""
    text = file.read_text(encoding="utf-8")
    return "\n\n".join(json.loads(text)) if file.suffix == ".json" else text


def candidates(source: Program, calibration: torch.Tensor) -> dict[str, Program]:
    """The program of each mode."""
    llama = FAMILIES["llama"].violations
    found = calibrate(source, calibration)
    measured = {name: one.gain for name, one in found.items()}, {name: one.lengths for name, one in found.items()}
    modes = {
        "opm": Options(norm="opm"),
        "opm-centred": Options(norm="opm-centred"),
        "calibrated on English": Options(norm="calibrated"),
        "carried, measured on English": Options(norm="carried"),
        "exact, final bias dropped": Options(final_bias="drop"),
        "exact, affine tail": Options(),
    }
    return {
        name: legalise(source, llama, options, measured[options.norm == "carried"]).program
        for name, options in modes.items()
    }


def run(checkpoint: Path, corpora: Path) -> dict[str, dict[str, dict[str, float]]]:
    """KL and cross-entropy of each mode in each domain."""
    source, reader = open_model(checkpoint).program, TokenizerReader(checkpoint)
    made = candidates(source, tokens_of(reader, corpora, "English", offset=0.25))
    out: dict[str, dict[str, dict[str, float]]] = {}
    for domain in DOMAINS:
        tokens = tokens_of(reader, corpora, domain)
        exact = Lane(StreamedRun(source, torch.float64), tokens)
        lanes = [Lane(StreamedRun(program, torch.float32), tokens) for program in (source, *made.values())]
        found = measure([(exact, one) for one in lanes])
        for name, parity in zip(("source in float32", *made), found, strict=True):
            row = {"kl": parity.kl, "cross_entropy": math.log(parity.perplexity), "max_error": parity.max_logit_error}
            out.setdefault(name, {})[domain] = row
    return out


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The results in Markdown."""
    head = " | ".join(f"{domain}: KL | cross-entropy" for domain in DOMAINS)
    lines = [f"| mode | {head} |", "| --- |" + " --- | --- |" * len(DOMAINS)]
    for name, row in results.items():
        cells = " | ".join(f"{row[d]['kl']:.2g} | {row[d]['cross_entropy']:.4f}" for d in DOMAINS)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, keep."""
    results = run(Path(sys.argv[1]), Path(sys.argv[2]))
    print(table(results))
    keep("parity-modes", {"results": results})


if __name__ == "__main__":
    main()
