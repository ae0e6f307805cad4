"""Output of `kept tokenizer`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kept.cli.display.console import printer

if TYPE_CHECKING:
    from kept.tokenizer.merge import MergedTokenizer
    from kept.tokenizer.train import TrainedTokenizer


def trained_table(done: TrainedTokenizer) -> dict[str, Any]:
    """`kept tokenizer train --json`."""
    return {**asdict(done), "path": str(done.path)}


def trained(done: TrainedTokenizer) -> None:
    """`kept tokenizer train`."""
    printer().print(
        f"{done.path}: written ({done.kind} BPE, {done.tokens} tokens); "
        f"{done.per_character:.3f} tokens per character on the first {done.characters} characters"
    )


def merged_table(done: MergedTokenizer) -> dict[str, Any]:
    """`kept tokenizer merge --json`."""
    found = {**asdict(done), "path": str(done.path), "skipped": dict(done.skipped)}
    for table, one in zip(found["token_counts"], done.token_counts, strict=True):
        table["per_character"] = [*one.per_character]
    return found


def merged(done: MergedTokenizer) -> None:
    """`kept tokenizer merge`."""
    console = printer()
    console.print(f"{done.path}: written ({done.after} tokens; before: {done.before})")
    for reason, count in done.skipped.items():
        console.print(f"tokens left out because they {reason}: {count}")
    for one in done.token_counts:
        before, after = one.per_character
        console.print(f"{one.text}: {before:.3f} tokens per character before, {after:.3f} after")
