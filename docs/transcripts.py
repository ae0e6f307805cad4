"""Run the commands that README.md and docs/ show with an output, and compare what they print.

python docs/transcripts.py                   print differences; exit 1 if there are any
python docs/transcripts.py --write           write the outputs that differ into the pages, `...` lines too
python docs/transcripts.py --long PAGE ...   run the transcripts that take minutes too; only these pages

A transcript is a block of `sh` that a block of `text` follows. The transcripts of a page run in order, in an empty
directory with links to the files of the repository. Only stdout is shown; progress goes to stderr.

Every word and number must be equal, apart from durations, checksums and the width of tables. A line `...` stands for
any lines. A comment before the `sh` block changes this:

    <!-- transcript: within 2 % -->    numbers with a decimal point may differ by 2 %: they depend on the machine
    <!-- transcript: long -->          it runs only with --long
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MODEL = "out/SmolLM2-135M-Instruct.Q4_1.gguf"
"""`make smollm2` fetches it."""

NEEDS = {"docs/tutorial.md": (MODEL,), "docs/tutorial-korean.md": (MODEL, "data", "evals")}
"""Files of the repository's directory without which a page is skipped."""

TRANSCRIPT = re.compile(
    r"(?:^<!-- transcript: (?P<rules>.*?) -->\n)?^```sh\n(?P<commands>(?:(?!```).*\n)+)```\n\n?"
    r"^```text\n(?P<shown>(?:(?!```).*\n)*)```$",
    re.MULTILINE,
)

RULES = re.compile(r"long|within ([\d.]+) %")

VOLATILE = (
    (re.compile(r"\b[\d.]+ (?:ms|s|min|seconds|minutes)\b"), "TIME"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "SUM"),
    (re.compile("─+"), "─"),
)
"""Patterns of text that differs between runs, with the word that replaces it before outputs are compared."""

DECIMAL = re.compile(r"[-+]?\d+(?:\.\d+(?:e[-+]\d+)?|e[-+]\d+)")

ROUNDING = 1e-9
"""Differences in float64 below this are rounding errors, which depend on the machine; an exact promise allows them."""


@dataclass(frozen=True)
class Transcript:
    """Commands and the output that a page shows; `within` is the relative tolerance of decimals."""

    commands: str
    shown: str
    long: bool
    within: float

    @classmethod
    def of(cls, found: re.Match[str]) -> Transcript:
        """Return the transcript that a match of `TRANSCRIPT` is. Raises ValueError for an unknown rule."""
        rules = [] if found["rules"] is None else [RULES.fullmatch(rule) for rule in found["rules"].split(", ")]
        if None in rules:
            raise ValueError(f"transcript: unknown rule in {found['rules']!r}")
        tolerance = [float(rule[1]) / 100 for rule in rules if rule and rule[1]]
        long = any(rule and rule[0] == "long" for rule in rules)
        return cls(found["commands"], found["shown"], long, max(tolerance, default=0.0))

    def agrees(self, output: str) -> bool:
        """Whether the shown output is that of the commands."""
        return _lines_agree(_comparable(self.shown), _comparable(output), self.within)


@dataclass(frozen=True)
class Difference:
    """A transcript whose commands printed another output; `span` is the position of the shown output in its page."""

    transcript: Transcript
    output: str
    span: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.transcript.commands}--- shown\n{self.transcript.shown}--- printed\n{self.output}"


def _comparable(text: str) -> list[list[str]]:
    """Return the words of each line, with names for volatile parts; empty lines are left out."""
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return [line.split() for line in text.splitlines() if line.strip()]


def _lines_agree(shown: list[list[str]], output: list[list[str]], within: float) -> bool:
    if not shown:
        return not output
    if shown[0] == ["..."]:
        return any(_lines_agree(shown[1:], output[start:], within) for start in range(len(output) + 1))
    return bool(output) and _words_agree(shown[0], output[0], within) and _lines_agree(shown[1:], output[1:], within)


def _words_agree(shown: list[str], output: list[str], within: float) -> bool:
    return len(shown) == len(output) and all(_word_agrees(a, b, within) for a, b in zip(shown, output, strict=True))


def _word_agrees(shown: str, output: str, within: float) -> bool:
    """Compare the decimals in two words as numbers, and everything else as text."""
    if DECIMAL.sub("0.0", shown) != DECIMAL.sub("0.0", output):
        return False
    pairs = zip(map(float, DECIMAL.findall(shown)), map(float, DECIMAL.findall(output)), strict=True)
    return all(abs(a - b) <= within * abs(a) or max(abs(a), abs(b)) < ROUNDING for a, b in pairs)


def missing(page: str) -> list[str]:
    """Return the files that a page needs and that are not here."""
    return [name for name in NEEDS.get(page, ()) if not (ROOT / name).exists()]


def run(page: str, *, long: bool = False) -> list[Difference]:
    """Run the transcripts of a page and return those whose output differs. Raises SystemExit if a command fails."""
    different = []
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder))
        for found in TRANSCRIPT.finditer((ROOT / page).read_text(encoding="utf-8")):
            transcript = Transcript.of(found)
            if transcript.long and not long:
                continue
            output = _output(page, transcript.commands, Path(folder))
            if not transcript.agrees(output):
                different.append(Difference(transcript, output, found.span("shown")))
    return different


def write(page: str, different: list[Difference]) -> None:
    """Write the outputs that were printed into a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for one in reversed(different):
        start, end = one.span
        text = text[:start] + one.output + text[end:]
    (ROOT / page).write_text(text, encoding="utf-8")


def _fill(folder: Path) -> None:
    """Link the files of the repository into an empty directory, and the model into its `out`."""
    for entry in ROOT.iterdir():
        if entry.name != "out" and not entry.name.startswith("."):
            (folder / entry.name).symlink_to(entry)
    (folder / "out").mkdir()
    if (ROOT / MODEL).is_file():
        (folder / MODEL).symlink_to(ROOT / MODEL)


def _output(page: str, commands: str, folder: Path) -> str:
    """Return what commands print on stdout."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / ".cache"),
    }
    shell = ["bash", "-e", "-o", "pipefail", "-c", commands]
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{page}: exit code {done.returncode} of\n{commands}{done.stderr[-2000:]}")
    lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip("\n") + "\n")


def pages() -> list[str]:
    """Return the pages with transcripts, relative to the repository."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [file for file in files if TRANSCRIPT.search(file.read_text(encoding="utf-8"))]
    return [str(file.relative_to(ROOT)) for file in found]


def main() -> int:
    """Compare or write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=pages(), metavar="PAGE")
    parser.add_argument("--write", action="store_true", help="write outputs that differ into the pages")
    parser.add_argument("--long", action="store_true", help="run the transcripts that take minutes too")
    options = parser.parse_args()
    total = 0
    for page in options.pages:
        if absent := missing(page):
            print(f"{page}: skipped, {', '.join(absent)} is missing")
            continue
        different = run(page, long=options.long)
        print(*different, f"{page}: {len(different)} outputs differ", sep="\n")
        total += len(different)
        if options.write:
            write(page, different)
    return 1 if total and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
