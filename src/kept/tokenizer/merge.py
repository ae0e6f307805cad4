"""Merge the pieces of a new tokenizer into a model's, without a change to words that have no new piece.

New merges follow the old ones. An appended merge joins only parts that all earlier merges leave separate, so old pieces
are built as before, and a word is split as before unless it contains a new piece. Each new piece is built from the
parts that the merges so far leave of it; how the new tokenizer built it does not matter.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.file_names import COPIED, SETTINGS, TOKENIZERS
from kept.checkpoint.json_file import to_json
from kept.checkpoint.output_path import check_apart
from kept.checkpoint.staging import staging
from kept.checkpoint.tokenizer_files import reader_files
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.errors import InputError
from kept.loaded import small_files
from kept.tokenizer.bpe import CHARACTERS, Bpe, Pair, apply_merges
from kept.verification.text import SAMPLE, read_whole, sample_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

CHARACTER, SPLIT, NOT_BUILT = (
    "have a character without a token",
    "are split by the pre-tokenizer",
    "cannot be built by merges",
)
"""Reasons for leaving out a piece."""

LONGEST_PIECE, MOST_PARTS = 512, 32
"""Maximum characters of a piece, and maximum parts that earlier merges leave of it: the search tries all splits."""


@dataclass(frozen=True)
class TokenCount:
    """Characters of one text, and its number of tokens before and after."""

    text: str
    characters: int
    before: int
    after: int

    @property
    def per_character(self) -> tuple[float, float]:
        """Tokens per character, before and after."""
        return self.before / max(1, self.characters), self.after / max(1, self.characters)


@dataclass(frozen=True)
class MergedTokenizer:
    """A merged tokenizer: path, number of tokens before and after, and number of skipped pieces by reason."""

    path: Path
    before: int
    after: int
    skipped: Mapping[str, int]
    token_counts: tuple[TokenCount, ...]


def merge_tokenizers(
    model: str | Path,
    new: str | Path,
    out: str | Path,
    *,
    max_added_tokens: int | None = None,
    texts: Iterable[str | Path] = (),
) -> MergedTokenizer:
    """Merge the pieces of one tokenizer into that of a model, and write the result to `out`.

    Old ids stay. New pieces get the next ids, characters first and then in the new tokenizer's order. Pieces that the
    result could never produce are left out and counted.

    Args:
        model: the model, or its tokenizer.
        new: the tokenizer with the new pieces, of the same kind.
        out: the directory to write.
        max_added_tokens: maximum number of new pieces.
        texts: UTF-8 files on which the number of tokens before and after is counted; without one, a built-in sample.

    Returns:
        Path, number of tokens before and after, pieces left out, and the counts on the texts.

    Raises:
        InputError: the two are of different kinds, or no piece is new.
        OutputError: `out` cannot be written.

    Example:
        ```python
        kept.merge_tokenizers("path/to/llama", "out/korean", "out/merged", max_added_tokens=2000)
        ```
    """
    if max_added_tokens is not None and max_added_tokens < 1:
        raise InputError(f"max_added_tokens: is {max_added_tokens}, it must be at least 1")
    directory = small_files(model)
    check_apart(Path(out), {"the model": directory, "the tokenizer": Path(new)})
    own = (directory / name for name in (*COPIED, *SETTINGS))
    read = {file: digest(file) for file in own if file.is_file()}
    old, other = Bpe.read(directory), Bpe.read(Path(new))
    read |= {file: digest(file) for file in (old.file, other.file)}
    if old.kind != other.kind:
        raise InputError(f"{new}: is {other.kind}, {directory} is {old.kind}; train it with --like {directory}")
    pieces = sorted(candidates(old, other), key=lambda piece: (len(piece) > 1, other.pieces[piece]))
    builder = MergeBuilder.of(old, old.reaching(pieces))
    for piece in pieces:
        if max_added_tokens is not None and len(builder.added) == max_added_tokens:
            break
        builder.add(piece)
    if not builder.added:
        raise InputError(f"{new}: has no piece that {directory} lacks and can make; there is nothing to merge")
    with staging(Path(out), {"model": str(directory), "new": str(new), "max_added_tokens": max_added_tokens}) as stage:
        for name, content in files(old, directory, builder).items():
            stage.write(name, content)
        found = [*token_counts(directory, stage.path, texts)]
        if changed := next((file for file, before in read.items() if digest(file) != before), None):
            raise InputError(f"{changed}: changed during the run; nothing was written, run it again")
        stage.publish()
    return MergedTokenizer(Path(out), old.size, old.size + len(builder.added), builder.skipped, tuple(found))


def candidates(old: Bpe, other: Bpe) -> Iterator[str]:
    """Yield the pieces that only the other tokenizer has, without its special tokens and single bytes."""
    own = {f"<0x{byte:02X}>" for byte in range(256)} if other.kind == CHARACTERS else set()
    known = {*old.tokens, *other.added, *own}
    return (piece for piece in other.pieces if piece not in known)


@dataclass
class MergeBuilder:
    """A tokenizer's merges followed by new ones. `within_words`: new pieces that fit into one of its words."""

    old: Bpe
    within_words: frozenset[str]
    ranks: dict[Pair, int]
    added: dict[str, None] = field(default_factory=dict)
    merges: list[Pair] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, old: Bpe, within_words: frozenset[str]) -> MergeBuilder:
        """Return the tokenizer without new pieces."""
        return cls(old, within_words, {pair: rank for rank, pair in enumerate(old.merges)})

    def add(self, piece: str) -> None:
        """Add a piece and the merges that make it, or count why not."""
        reason = self._reason(piece)
        if reason is None:
            self.added[piece] = None
        else:
            self.skipped[reason] += 1

    def _reason(self, piece: str) -> str | None:
        if piece not in self.within_words:
            return SPLIT
        if len(piece) == 1:
            return None
        if any(letter not in self.added and letter not in self.old.pieces for letter in piece):
            return CHARACTER
        return None if self._build(piece) else NOT_BUILT

    def _build(self, piece: str) -> bool:
        """Append merges that build a piece; return whether there are any."""
        parts = apply_merges(piece, self.ranks) if len(piece) <= LONGEST_PIECE else []
        if not 0 < len(parts) <= MOST_PARTS:
            return False
        built = merges_of(parts, lambda text: text == piece or text in self.added)
        new_merges = [pair for pair in dict.fromkeys(built or ()) if pair not in self.ranks]
        for rank, pair in enumerate(new_merges, len(self.old.merges) + len(self.merges)):
            self.ranks[pair] = rank
        if built is not None and apply_merges(piece, self.ranks) == [piece]:
            self.merges += new_merges
            return True
        for pair in new_merges:  # another merge applied first
            del self.ranks[pair]
        return False


def merges_of(parts: list[str], known: Callable[[str], bool]) -> list[Pair] | None:
    """Return merges, inner ones first, that join the parts through known intermediate texts; None if there are none."""
    found: dict[tuple[int, int], list[Pair]] = {(at, at + 1): [] for at in range(len(parts))}
    for length in range(2, len(parts) + 1):
        for begin in range(len(parts) - length + 1):
            end = begin + length
            if not known("".join(parts[begin:end])):
                continue
            for middle in range(begin + 1, end):
                left, right = found.get((begin, middle)), found.get((middle, end))
                if left is not None and right is not None:
                    pair = "".join(parts[begin:middle]), "".join(parts[middle:end])
                    found[begin, end] = [*left, *right, pair]
                    break
    return found.get((0, len(parts)))


def files(old: Bpe, directory: Path, builder: MergeBuilder) -> dict[str, bytes]:
    """Return the files of the merged tokenizer by name: `tokenizer.json` and the model's settings."""
    own = {n: c for n, c in reader_files(directory).items() if n not in {*TOKENIZERS, "vocab.json", "merges.txt"}}
    return {
        **{name: content if isinstance(content, bytes) else content.read_bytes() for name, content in own.items()},
        "tokenizer.json": to_json(document(old, builder)),
    }


def document(old: Bpe, builder: MergeBuilder) -> dict[str, Any]:
    """Return `tokenizer.json` of the merged tokenizer: the model's own with the new pieces and merges.

    Added tokens are listed among the pieces too; otherwise `tokenizers` assigns them new ids.
    """
    raw = old.raw()
    pieces = {**raw["model"]["vocab"], **old.added}
    ids = {piece: old.size + at for at, piece in enumerate(builder.added)}
    raw["model"]["vocab"] = {**pieces, **ids}
    texts = any(isinstance(pair, str) for pair in raw["model"]["merges"])
    raw["model"]["merges"] += [" ".join(pair) if texts else [*pair] for pair in builder.merges]
    return raw


def token_counts(before: Path, after: Path, texts: Iterable[str | Path] = ()) -> Iterator[TokenCount]:
    """Yield the token counts of each text with both tokenizers; without texts, those of the built-in sample."""
    named = {str(path): read_whole(Path(path)) for path in texts} or {SAMPLE: sample_text()}
    readers = TokenizerReader(before), TokenizerReader(after)
    for name, text in named.items():
        counts = (len(reader.encode(text, special=False)) for reader in readers)
        yield TokenCount(name, len(text), *counts)
