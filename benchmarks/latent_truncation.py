"""Perplexity and KL of truncated latent attention, without training: KV share x method.

python benchmarks/latent_truncation.py MODEL CORPORA [--shares 0.75 0.5] [--columns whitened refit] [--wikitext]

CORPORA has english/, python/ and tinystories/. Calibration and evaluation read different files, or parts of a file that
are far apart. Ratios of perplexities to the source's: English books, then the geometric mean of books, stories, Python.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from keeping import keep

from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.compression.calibrate import Calibration
from kept.compression.latent.settings import TruncationSettings
from kept.compression.latent.truncate import attention_statistics, truncate
from kept.loaded import open_model
from kept.nn import Model
from kept.reporting import Silent

if TYPE_CHECKING:
    from torch import Tensor

    from kept.compression.latent.statistics import AttentionStatistics
    from kept.ir.program import Program
    from kept.loaded import LoadedModel

LENGTH = 512

MIXED = (
    ("english/standardebooks.txt", 1_000_000, 11),
    ("english/wikitext2_valid.txt", 0, 11),
    ("python/huggingface_peft.py.txt", 500_000, 21),
    ("tinystories/s-ajaykumar_tiny_stories.txt", 0, 21),
)
"""Calibration texts: file, first character, rows of `LENGTH` tokens."""

WIKITEXT = (("english/wikitext2_valid.txt", 0, 64),)

HELD_OUT = (
    ("english/standardebooks.txt", 12_000_000),
    ("tinystories/tinystories_1000.json", 0),
    ("python/TheAlgorithms_Python.py.txt", 1_000_000),
)
"""Evaluation texts, in other files or far behind the calibration text."""

COLUMNS: dict[str, dict[str, Any]] = {
    "paper": {"method": "paper", "refit": False},
    "transmla": {"method": "transmla", "refit": False},
    "whitened": {"refit": False},
    "per-layer": {"refit": False, "ranks": "per-layer"},
    "refit": {},
    "per-layer refit": {"ranks": "per-layer"},
}


def rows(reader: TokenizerReader, corpora: Path, name: str, first: int, count: int) -> Tensor:
    """Return `count` rows of tokens of a text from some character on."""
    text = (corpora / name).read_text(encoding="utf-8")
    if name.endswith(".json"):
        text = "\n\n".join(json.loads(text))
    ids = reader.encode(text[first : first + 8 * LENGTH * count])
    return torch.tensor(ids[: LENGTH * count]).view(count, LENGTH)


@torch.inference_mode()
def log_probabilities(program: Program, tokens_DBT: Tensor) -> list[Tensor]:
    """Return the log-probabilities of each row in bfloat16."""
    model = Model.load(program, torch.float32)
    return [torch.log_softmax(model(row_T[None])[0, :-1], -1).bfloat16() for row_T in tokens_DBT.flatten(0, 1)]


def compared(wanted: list[Tensor], found: list[Tensor], tokens_DBT: Tensor) -> dict[str, Any]:
    """Return the ratio of perplexities for each text, their geometric mean, and the mean KL in nats per token."""
    domains, per = len(tokens_DBT), tokens_DBT.shape[1]
    loss, kl = [0.0] * domains, 0.0
    for at, (one, other, row_T) in enumerate(zip(wanted, found, tokens_DBT.flatten(0, 1), strict=True)):
        p, q, next_T1 = one.float(), other.float(), row_T[1:, None]
        loss[at // per] += float((p - q).gather(-1, next_T1).mean()) / per
        kl += float((p.exp() * (p - q)).sum(-1).mean()) / len(wanted)
    return {
        "ratios": [round(math.exp(one), 4) for one in loss],
        "mean": round(math.exp(sum(loss) / domains), 4),
        "kl": round(kl, 4),
    }


def run(source: LoadedModel, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a result for each share and column."""
    reader = TokenizerReader(source.path)
    texts = WIKITEXT if options.wikitext else MIXED
    calibration = Calibration(source.program, torch.cat([rows(reader, options.corpora, *text) for text in texts]))
    held_out = torch.stack([rows(reader, options.corpora, *text, options.rows) for text in HELD_OUT])
    wanted, results = log_probabilities(source.program, held_out), list[dict[str, Any]]()
    began = time.process_time()
    statistics = attention_statistics(calibration, Silent())
    print(f"statistics: {time.process_time() - began:.0f} processor seconds", flush=True)
    for share, column in product(options.shares, options.columns):
        results.append(
            {"share": share, "column": column, **cell(calibration, statistics, share, column, held_out, wanted)}
        )
        print(json.dumps(results[-1]), flush=True)
    return results


def cell(
    calibration: Calibration,
    statistics: dict[int, AttentionStatistics],
    share: float,
    column: str,
    held_out: Tensor,
    wanted: list[Tensor],
) -> dict[str, Any]:
    """Return what one truncation costs."""
    began = time.process_time()
    settings = TruncationSettings(share=share, **COLUMNS[column])
    made = truncate(calibration, settings, Silent(), {}, statistics)
    spent = time.process_time() - began
    found = compared(wanted, log_probabilities(made(calibration.program), held_out), held_out)
    return {**found, "rotary": made.about["rotary"], "share": made.about["share"], "seconds": round(spent)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.875, 0.75, 0.5, 0.25])
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=[*COLUMNS])
    parser.add_argument("--rows", type=int, default=5, help=f"rows of {LENGTH} tokens of each evaluation text")
    parser.add_argument("--wikitext", action="store_true", help="calibrate on WikiText alone")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = run(open_model(options.model), options)
    keep(
        f"latent-truncation{'-wikitext' if options.wikitext else ''}",
        {"tokens": 3 * options.rows * LENGTH, "runs": results},
    )


if __name__ == "__main__":
    main()
