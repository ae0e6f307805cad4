"""Prove that outputs compute the same in other runtimes, and that `kept.output.runtimes` says which do not.

python compat/run.py [--out docs/reference/compat.md] [--only WORDS]    `make compat` runs it; environments: out/compat

Every form is made, its logits are computed by each runtime, and compared with the output's own in float64 (`kept`'s
model). A runtime passes where they are equal up to its number format; where they are not, `kept.output.runtimes` must
say so, and where they are, it must say nothing. Exit code 1 where either fails.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from environments import LLAMA_CPP, TRANSFORMERS, Environment, with_llama_cpp, with_transformers
from forms import FORMS, ROOT, TOKENS, Form

import kept
from kept.nn import Model
from kept.output.runtimes import notes

if TYPE_CHECKING:
    from kept.passes.plan import Plan

HERE = Path(__file__).parent

GGUF = {"llama.cpp f32": "f32", "llama.cpp bf16": "bf16", "llama.cpp f16": "f16"}

DTYPES = {"llama.cpp bf16": torch.bfloat16, "llama.cpp f16": torch.float16}
"""Compute dtypes of runtimes; the others use float32."""

EQUAL = 1e-3
"""The largest logit difference of float32 runs that are equal, in standard deviations of the logits."""

NOISE = 1.5
"""Limits of half-precision runs, as multiples of the error of `kept`'s own model in that dtype."""


@dataclass(frozen=True)
class Made:
    """A form on disk: the conversion, its logits (T, V) in float64, and how far they are off in half precision."""

    form: Form
    path: Path
    plan: Plan
    logits: np.ndarray
    from_source: float
    noise: dict[str, float]

    def equal(self, runtime: str, result: str | float) -> bool:
        """Whether a difference is no more than the runtime's number format explains."""
        bound = NOISE * self.noise[runtime] if runtime in self.noise else EQUAL * self.logits.std()
        return isinstance(result, float) and result <= bound


def main() -> int:
    """Make, run, compare, write."""
    options = _options()
    forms = [form for form in FORMS if options.only in form.name]
    folder = ROOT / "out" / "compat"
    environments = {name: with_transformers(name, folder) for name in TRANSFORMERS}
    llama_cpp = with_llama_cpp(folder)
    work = folder / "forms"
    made = [_make(form, work) for form in forms]
    found = {name: _transformers(environment, made) for name, environment in environments.items()}
    for name, kind in GGUF.items():
        with ThreadPoolExecutor(2) as pool:
            results = pool.map(lambda one, kind=kind: _llama_cpp(llama_cpp, one, kind), made)
            found[name] = dict(zip((one.form.name for one in made), results, strict=True))
    table, wrong = _table(made, found)
    print(table)
    if options.out is not None:
        options.out.write_text(_page(table), encoding="utf-8")
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table into this page")
    parser.add_argument("--only", default="", help="forms whose name has these words")
    return parser.parse_args()


def _ids() -> torch.Tensor:
    return torch.randint(3, 2000, (1, TOKENS), generator=torch.Generator().manual_seed(7))


def _logits(directory: Path, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    with torch.inference_mode():
        program = kept.open_model(directory).program
        return Model.load(program, dtype, "float64")(_ids())[0].double()


def _make(form: Form, work: Path) -> Made:
    """Convert anew, whatever an earlier run left."""
    out = work / form.name.replace(" ", "-")
    shutil.rmtree(out, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    np.save(work / "ids.npy", _ids()[0].numpy())
    source = form.source(work)
    done = kept.convert(source, out, verify_tokens=0, **{"dtype": "float32", **form.options})
    logits, wanted = _logits(out), _logits(source)
    noise = {name: float((_logits(out, dtype) - logits).abs().max()) for name, dtype in DTYPES.items()}
    return Made(form, out, done.plan, logits.numpy(), float((logits - wanted).abs().max()), noise)


def _transformers(environment: Environment, made: list[Made]) -> dict[str, str | float]:
    for one in made:
        one.path.with_name(f"{one.path.name}.npy").unlink(missing_ok=True)
    paths = [one.path for one in made]
    done = environment.run(HERE / "logits_transformers.py", paths[0].parent / "ids.npy", *paths)
    if done.returncode:
        raise SystemExit(done.stderr)
    failed = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    return {one.form.name: _difference(one, failed.get(str(one.path))) for one in made}


def _llama_cpp(environment: Environment, one: Made, kind: str) -> str | float:
    file, logits = one.path.with_name(f"{one.path.name}.{kind}.gguf"), one.path.with_name(f"{one.path.name}.npy")
    logits.unlink(missing_ok=True)
    assert environment.converter is not None
    done = environment.run(environment.converter, one.path, "--outfile", file, "--outtype", kind)
    if done.returncode == 0:
        done = environment.run(HERE / "logits_llama_cpp.py", one.path.parent / "ids.npy", file, logits)
    file.unlink(missing_ok=True)
    return _difference(one, None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["crashed"])[-1])


def _difference(one: Made, failure: str | None) -> str | float:
    """The largest logit difference, or why there is none."""
    if failure is not None:
        return failure
    logits = np.load(one.path.with_name(f"{one.path.name}.npy"))
    return float(np.abs(logits - one.logits).max()) if np.isfinite(logits).all() else np.inf


def _table(made: list[Made], found: dict[str, dict[str, str | float]]) -> tuple[str, list[str]]:
    """The table in Markdown, and a line for each place where `runtimes.py` says otherwise than was measured."""
    rows = ["| output | promise | from the source | logit std | " + " | ".join(found) + " |"]
    rows.append("| --- " * (4 + len(found)) + "|")
    wrong = []
    for one in made:
        cells = [one.form.name, str(one.plan.promise), f"{one.from_source:.1g}", f"{one.logits.std():.2f}"]
        said = {runtime: note for note in notes(one.plan) for runtime in note.runtimes}
        for runtime, results in found.items():
            result = results[one.form.name]
            equal = one.equal(runtime, result)
            cells.append(_cell(result, equal=equal))
            if equal is (runtime in said):
                wrong.append(f"{one.form.name}, {runtime}: measured {result}, runtimes.py says {said.get(runtime)}")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows), wrong


def _cell(result: str | float, *, equal: bool) -> str:
    if isinstance(result, str):
        return f"refused: {result[:100]}".replace("|", "/")
    return f"{result:.1g}" if equal else "**wrong**: " + (f"{result:.1g}" if np.isfinite(result) else "not finite")


def _page(table: str) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    pins = "\n- ".join(f"{name}: {' '.join(pins[:3])}" for name, pins in TRANSFORMERS.items() if pins)
    text = (HERE / "page.md").read_text(encoding="utf-8")
    return text.format(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        commit=commit.stdout.strip(),
        table=table,
        pins=pins,
        own=f"transformers=={version('transformers')}",
        torch=version("torch"),
        llama_cpp=LLAMA_CPP,
        tokens=TOKENS,
    )


if __name__ == "__main__":
    sys.exit(main())
