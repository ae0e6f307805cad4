"""Write the reference pages that are generated from the code.

python docs/generate.py            write
python docs/generate.py --check    exit 1 if a page is stale
"""

from __future__ import annotations

import sys
from pathlib import Path

from generators import command_line, families, passes, recipes, record

REFERENCE = Path(__file__).parent / "reference"

PAGES = {
    "cli.md": command_line.page,
    "families.md": families.page,
    "passes.md": passes.page,
    "recipes.md": recipes.page,
    "record.md": record.page,
}
"""The generated pages, each with the function that returns its text."""


def main() -> int:
    """Write or check the pages; return the exit code."""
    pages = {REFERENCE / name: page() for name, page in PAGES.items()}
    stale = [file for file, text in pages.items() if not file.exists() or file.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for file in stale:
            print(f"docs/reference/{file.name} is stale: run make docs")
        return 1 if stale else 0
    for file in stale:
        file.write_text(pages[file], encoding="utf-8")
        print(f"docs/reference/{file.name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
