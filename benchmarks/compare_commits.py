"""Convert the same checkpoints with the code of two commits and compare weights and configs byte for byte.

python benchmarks/compare_commits.py COMMIT_A COMMIT_B [--work DIRECTORY]

Sources are tiny checkpoints of eleven families, written once by the tests' helpers of this tree, and
SmolLM2-135M-Instruct as a GGUF file if `make smollm2` has fetched it. Each commit is a git worktree with a virtual
environment that has its sources and this Python's packages: fenced processes ignore PYTHONPATH.
`kept.json` and `README.md` may differ in words: the script says whether they do. Exit code 1 if another file differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SMOLLM2 = ROOT / "out" / "SmolLM2-135M-Instruct.Q4_1.gguf"

WORDS = frozenset({"kept.json", "README.md"})
"""Files that people read, of which the words may change."""

FAMILIES = ("stablelm", "starcoder2", "phi3", "granite", "gemma", "olmo", "qwen2", "baichuan", "internlm2", "minicpm")

ORION = ({"final_bias": "block"}, {"norm": "carried"}, {"norm": "opm"}, {"dtype": "bfloat16", "norm": "opm"})

CONVERT = """
import json, os, sys, torch, kept
assert kept.__file__.startswith(os.environ["KEPT_TREE"]), kept.__file__
torch.set_num_threads(1)
for source, target, options in json.load(sys.stdin):
    try:
        kept.convert(source, target, verify_tokens=0, **options)
    except kept.KeptError as error:
        print(f"{target}: {error}", file=sys.stderr)
"""


@dataclass(frozen=True)
class Job:
    """One conversion: its name, its source, and the keyword arguments of `kept.convert`."""

    name: str
    source: Path
    options: dict[str, str]


def jobs(directory: Path) -> list[Job]:
    """All conversions; writes their sources."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    from support.stored import write_readable  # noqa: PLC0415 - found by the line above

    made = [Job(name, write_readable(directory / name, name), {}) for name in FAMILIES]
    orion = write_readable(directory / "orion", "orion")
    made += [Job(f"orion {' '.join(options.values())}", orion, options) for options in ORION]
    if SMOLLM2.is_file():
        made.append(Job("smollm2", SMOLLM2, {}))
    else:
        print(f"smollm2: skipped, {SMOLLM2} is missing; `make smollm2` fetches it")
    return made


def environment(tree: Path, directory: Path) -> Path:
    """The Python of an environment with the sources of a tree and the packages of this one."""
    venv.create(directory, symlinks=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    paths = [str(tree / "src"), *(path for path in sys.path if path.endswith("site-packages"))]
    (packages / "paths.pth").write_text("\n".join(paths), encoding="utf-8")
    return directory / "bin" / "python"


def convert(commit: str, work: list[Job], directory: Path) -> None:
    """Run all conversions with the code of a commit."""
    tree = directory / "tree"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, commit], cwd=ROOT, check=True)
    try:
        python = environment(tree, directory / "environment")
        asked = [(str(job.source), str(directory / job.name), job.options) for job in work]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "KEPT_TREE": str(tree)}
        subprocess.run([python, "-c", CONVERT], input=json.dumps(asked), text=True, env=env, check=True)
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def contents(directory: Path) -> dict[str, bytes]:
    """The files of an output; none where the conversion was refused."""
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def compare(name: str, one: dict[str, bytes], other: dict[str, bytes]) -> bool:
    """Print a line about two outputs; whether nothing but words differs."""
    different = sorted(file for file in one.keys() | other.keys() if one.get(file) != other.get(file))
    serious = [file for file in different if file not in WORDS]
    words = [file for file in different if file in WORDS]
    if not one and not other:
        print(f"{name}: refused by both")
        return False
    said = f"DIFFERENT: {', '.join(serious)}" if serious else f"{len(one) - len(words)} files identical"
    print(f"{name}: {said}" + (f" (words differ: {', '.join(words)})" if words else ""))
    return not serious


def main() -> None:
    """Convert with both commits, compare, and exit with 1 where something but words differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("commits", nargs=2, metavar="COMMIT")
    parser.add_argument("--work", type=Path, help="directory for sources and outputs; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = given.work or Path(temporary)
        work = jobs(directory / "sources")
        places = [directory / f"{number}-{commit}" for number, commit in enumerate(given.commits)]
        for commit, place in zip(given.commits, places, strict=True):
            place.mkdir(parents=True)
            convert(commit, work, place)
        results = [compare(job.name, *(contents(place / job.name) for place in places)) for job in work]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
