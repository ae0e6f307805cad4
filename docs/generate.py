"""Write the reference pages that are generated from the code.

python docs/generate.py            write
python docs/generate.py --check    exit 1 if a page is stale
"""

from __future__ import annotations

import sys
from pathlib import Path

from generators import command_line, families, notebook, option_types, passes, recipes, record

ROOT = Path(__file__).parent.parent

PAGES = {
    "docs/notebook.md": notebook.page,
    "docs/reference/cli.md": command_line.page,
    "docs/reference/families.md": families.page,
    "docs/reference/passes.md": passes.page,
    "docs/reference/recipes.md": recipes.page,
    "docs/reference/record.md": record.page,
    "src/kept/option_types.py": option_types.page,
}
"""The generated files, each with the function that returns its text."""


def main() -> int:
    """Write or check the pages; return the exit code."""
    pages = {ROOT / name: page() for name, page in PAGES.items()}
    stale = [file for file, text in pages.items() if not file.exists() or file.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for file in stale:
            print(f"{file.relative_to(ROOT)} is stale: run make docs")
        return 1 if stale else 0
    for file in stale:
        file.write_text(pages[file], encoding="utf-8")
        print(f"{file.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
