"""Compare files of `kept export` with llama.cpp: the logits of each type, and the ids of the tokenizer.

python compat/exported.py [--out docs/reference/compat.md]    `make compat` runs it; environment: out/compat

Each output is converted, exported in each type and run by llama.cpp. In f32 and bf16 its logits are compared with those
of the output in float64; in q8_0 with `kept`'s reading of the same file, because llama.cpp rounds activations to 8 bits
as well. Exit code 1 if a difference is more than the type explains, or if ids differ.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from environments import with_llama_cpp
from forms import ROOT, TOKENS, Form, rope
from sections import Section

import kept
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.nn import Model

from support.gguf_vocabularies import TEXTS  # isort: skip - `forms` adds the tests to the path

if TYPE_CHECKING:
    from environments import Environment

HERE = Path(__file__).parent

SECTION = Section("exported")

KINDS = ("f32", "bf16", "q8_0")

EQUAL = 1e-3
"""Largest difference of float32 runs that are equal, in standard deviations of the logits."""

NOISE = 1.5
"""Limit of bf16, as a multiple of the error of `kept`'s own model in bfloat16."""

ACTIVATIONS = 2.0
"""Limit of q8_0, as a multiple of the error that the 8-bit weights make: activations are rounded to 8 bits too."""

SOURCES = (
    Form("tail-block Llama", options={"final_bias": "block"}),
    Form("Llama", "llama"),
    Form("Llama with tied embeddings", "llama", {"tie_word_embeddings": True}),
    Form("Llama with linear scaling", "llama", rope("linear", factor=2.0)),
    Form(
        "Llama with llama3 scaling",
        "llama",
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    ),
    Form("Mistral", "mistral", {"sliding_window": None}, {"to": "mistral"}),
    Form("Qwen2", "qwen2", options={"to": "qwen2"}),
    Form("Qwen3", "qwen3", options={"to": "same"}),
)


@dataclass(frozen=True)
class Result:
    """The largest logit difference in one type, and the limit up to which the type explains it; or a refusal."""

    apart: float = 0.0
    limit: float = 0.0
    refused: str = ""

    @property
    def equal(self) -> bool:
        """Whether the type explains the difference; never for NaN."""
        return self.apart <= self.limit

    def __str__(self) -> str:
        if self.refused:
            return f"refused: {self.refused}"
        return f"{self.apart:.1g}" if self.equal else f"**wrong**: {self.apart:.1g}"


def main() -> int:
    """Export, run, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table into this page")
    page, folder = parser.parse_args().out, ROOT / "out" / "compat"
    environment, work = with_llama_cpp(folder), folder / "exported"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    np.save(work / "ids.npy", _ids()[0].numpy())
    (work / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    rows = ["| output | logit std | f32 | bf16 | q8_0 | token ids |", "| --- | --- | --- | --- | --- | --- |"]
    wrong = 0
    for form in SOURCES:
        out = work / form.name.replace(" ", "-")
        kept.convert(form.source(work), out, verify_tokens=0, **{"dtype": "float32", **form.options})
        deviation, results = _results(environment, out)
        equal = _ids_are_equal(environment, out)
        wrong += [one.equal for one in results].count(False) + (not equal)
        cells = " | ".join(map(str, results))
        rows.append(f"| {form.name} | {deviation:.2f} | {cells} | {'equal' if equal else '**other**'} |")
    print("\n".join(rows))
    if page is not None:
        SECTION.write(page, "\n".join(rows))
    return 1 if wrong else 0


def _ids() -> torch.Tensor:
    return torch.randint(3, 2000, (1, TOKENS), generator=torch.Generator().manual_seed(7))


def _logits(path: Path, dtype: torch.dtype = torch.float64) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = Model.load(kept.open_model(path).program, dtype, "float64")(_ids())[0].double().numpy()
        return found


def _results(environment: Environment, out: Path) -> tuple[float, list[Result]]:
    """Return the standard deviation of the output's logits, and the result of each type."""
    own = _logits(out)
    rounded = np.abs(_logits(out, torch.bfloat16) - own).max()
    limits = {"f32": EQUAL * own.std(), "bf16": NOISE * rounded}
    results = []
    for kind in KINDS:
        try:
            file = kept.export_gguf(out, _file(out, kind), type=kind).path
        except kept.InputError as error:
            results.append(Result(refused=str(error)))
            continue
        wanted = _logits(file) if kind == "q8_0" else own
        limit = ACTIVATIONS * np.abs(wanted - own).max() if kind == "q8_0" else limits[kind]
        done = environment.run(HERE / "logits_llama_cpp.py", out.parent / "ids.npy", file, out.with_suffix(".npy"))
        if done.returncode:
            raise SystemExit(done.stderr)
        results.append(Result(float(np.abs(np.load(out.with_suffix(".npy")) - wanted).max()), float(limit)))
    return float(own.std()), results


def _file(out: Path, kind: str) -> Path:
    return out.with_name(f"{out.name}.{kind}.gguf")


def _ids_are_equal(environment: Environment, out: Path) -> bool:
    """Return whether llama.cpp gives the ids of the output's own tokenizer, and its BOS token."""
    asked, found = out.parent / "texts.json", out.with_suffix(".json")
    done = environment.run(HERE / "gguf_tokens.py", asked, found, _file(out, "f32"))
    if done.returncode:
        raise SystemExit(done.stderr)
    (ids,) = json.loads(found.read_text(encoding="utf-8")).values()
    reader = TokenizerReader(out)
    return bool(ids == [*(reader.encode(text, special=False) for text in TEXTS), reader.encode(TEXTS[0])])


if __name__ == "__main__":
    sys.exit(main())
