"""Text that must stay as it is: compared with a file in tests/goldens, or written there if KEPT_UPDATE_GOLDENS=1."""

from __future__ import annotations

import os
from pathlib import Path

GOLDENS = Path(__file__).parents[1] / "goldens"

HINT = "KEPT_UPDATE_GOLDENS=1 python -m pytest writes it anew; look at the difference before you commit it"


def check_golden(name: str, text: str) -> None:
    """Compare text with the golden file of this name."""
    file = GOLDENS / name
    if os.environ.get("KEPT_UPDATE_GOLDENS") == "1":
        file.write_text(text, encoding="utf-8")
    wanted = file.read_text(encoding="utf-8") if file.exists() else None
    assert text == wanted, f"{file} says otherwise: {HINT}"
