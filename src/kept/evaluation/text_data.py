"""The texts on which perplexity is measured: plain text, or the data files and directories that training reads."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from kept.distillation.data.documents import KINDS, TextSource, is_text
from kept.distillation.data.text_files import suffixes
from kept.verification.text import read_text

if TYPE_CHECKING:
    from pathlib import Path

BETWEEN = "\n\n"
"""Characters between two documents."""


def read_texts(path: Path, characters: int, field: str) -> str:
    """Return the first characters of a text file, or of the documents of a data file or directory, joined.

    Only as many documents are read as are needed. A file of an unknown kind is plain text. Raises InputError for a file
    that cannot be read, with the same bounds as for training data.
    """
    kind, compression = suffixes(path)
    if not path.is_dir() and not compression and (is_text(path) or kind not in KINDS):
        return read_text(path, characters)
    source = TextSource((path,), field)
    in_pieces = [is_text(file.path) for file in source.files()]
    parts: list[str] = []
    size, last = 0, None
    with closing(source.documents()) as documents:
        for document in documents:
            continued = document.file == last and in_pieces[document.file]
            parts.append(document.text if last is None or continued else BETWEEN + document.text)
            size, last = size + len(parts[-1]), document.file
            if size >= characters:
                break
    return "".join(parts)[:characters]
