"""Check whether the code that an output of our own class carries is the code that `kept` writes. It is never run."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.weights import some
from kept.families.native import KEPT
from kept.native.carried_code import carried_files
from kept.output.record import RECORD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kept.commands.findings import Findings

ADVICE = "read it before you load the model with trust_remote_code; import kept runs kept's own code instead"


def check_code(directory: Path, family: object, sums: Mapping[Path, str], found: Findings) -> None:
    """Say whose the code in a directory is. `sums` has the sha256 of each file that the record names.

    Code of this version is a remark, and so is code that the record names, such as that of another version. Any other
    code is a finding.
    """
    if family != KEPT.name:
        return
    files = {file.name: file for file in sorted(directory.glob("*.py")) if file.is_file()}
    own = {name: sha256(content).hexdigest() for name, content in carried_files().items()}
    missing = [name for name in own if name not in files]
    if not files:
        found.remarks.append("carries no code: transformers loads it after import kept only")
        return
    stored = {name: digest(file) for name, file in files.items()}
    others = [name for name in stored if stored[name] != own.get(name)]
    recorded = [name for name in others if stored[name] == sums.get(files[name])]
    changed = [name for name in others if name not in recorded]
    if changed:
        found.damage.append(f"{directory}: {some(changed)}: not code of this kept, nor named in {RECORD}; {ADVICE}")
    elif recorded:
        found.remarks.append(f"carried code: {some(recorded)}: as {RECORD} says, not as this kept writes it; {ADVICE}")
    elif missing:
        found.remarks.append(f"carried code: {some(missing)}: missing; kept convert --to same writes all files")
    else:
        found.remarks.append(f"carried code: the {len(files)} files are those that this version of kept writes")
