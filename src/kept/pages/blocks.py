"""The content of a page: sections of blocks. The template renders each kind of block."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar

from kept.formatting import shared_prefix
from kept.pages.charts import Chart

LETTER = r"[^\W\u2e80-\u9fff\uf900-\ufaff]"
"""A character of a word; Chinese and Japanese are written without spaces, so that each of theirs stands alone."""

WORD_START, WORD_END = re.compile(LETTER), re.compile(rf"{LETTER}+\Z")


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    kind: ClassVar[str] = "words"
    text: str


@dataclass(frozen=True)
class Heading:
    """A title inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Code:
    """Text to copy, with a label. `wraps`: it is prose, whose long lines wrap; those of code scroll."""

    kind: ClassVar[str] = "code"
    label: str
    text: str
    wraps: bool = False


@dataclass(frozen=True)
class Notes:
    """Short remarks, one per line."""

    kind: ClassVar[str] = "notes"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table. The first `words` and the last `last` columns are text, the others are numbers."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    last: int = 0


@dataclass(frozen=True)
class Share:
    """A fraction from 0 to 1, and its interval in words."""

    value: float
    bounds: str = ""


@dataclass(frozen=True)
class Shares:
    """A heat map of fractions."""

    kind: ClassVar[str] = "shares"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Share, ...]], ...]


@dataclass(frozen=True)
class MatrixCell:
    """A figure of one model, and its signed change against the first. `tone` is "good", "bad" or empty."""

    value: str
    change: str = ""
    tone: str = ""


@dataclass(frozen=True)
class MatrixRow:
    """A row of a matrix: its name, what its figures are and rest on, and a cell for each model."""

    name: str
    detail: str
    cells: tuple[MatrixCell, ...]


@dataclass(frozen=True)
class Matrix:
    """A table of measurement by model."""

    kind: ClassVar[str] = "matrix"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[MatrixRow, ...]


@dataclass(frozen=True)
class Change:
    """One quantity before and after, as numbers and in words."""

    name: str
    before: float
    after: float
    words: tuple[str, str]

    @property
    def same(self) -> bool:
        """Whether both values are equal; no bars are drawn then."""
        return self.before == self.after

    @property
    def percent(self) -> tuple[float, float]:
        """The lengths of the two bars in percent of the longer one."""
        largest = max(self.before, self.after, 1e-300)
        return 100 * self.before / largest, 100 * self.after / largest


@dataclass(frozen=True)
class Changes:
    """Quantities before and after, as bars."""

    kind: ClassVar[str] = "changes"
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class TextPair:
    """A prompt with the continuations of two models."""

    prompt: str
    source: str
    output: str

    @property
    def shared(self) -> int:
        """Length of the common prefix of both continuations, in characters, up to the word in which they differ."""
        same = shared_prefix(self.source, self.output)
        inside = any(WORD_START.match(text, same) for text in (self.source, self.output))
        return len(WORD_END.sub("", self.source[:same])) if inside else same


@dataclass(frozen=True)
class TextPairs:
    """Prompts with two continuations each; `names` are the models'."""

    kind: ClassVar[str] = "pairs"
    names: tuple[str, str]
    pairs: tuple[TextPair, ...]


@dataclass(frozen=True)
class LayerStyle:
    """The look of an operation: a colour for its kind and a texture for its form, from 0 to 3 each.

    `branch` is "mixer" or "mlp", which have colours of their own.
    """

    branch: str
    colour: int
    texture: int


@dataclass(frozen=True)
class LayerBox:
    """An operation of a layer. `part`: its size relative to the largest one of its branch, from 0 to 1."""

    style: LayerStyle
    part: float


@dataclass(frozen=True)
class LayerCell:
    """A layer of a picture: mixer and MLP, None for an absent branch, and both in words."""

    words: str
    boxes: tuple[LayerBox | None, LayerBox | None]
    is_new: bool = False


@dataclass(frozen=True)
class LayerColumn:
    """The same layer before and after, None where it does not exist, and its index after."""

    before: LayerCell | None
    after: LayerCell | None
    index: int | None


@dataclass(frozen=True)
class LayerMap:
    """A picture of the layers of two models, with a legend of their operations."""

    kind: ClassVar[str] = "layers"
    caption: str
    summary: str
    columns: tuple[LayerColumn, ...]
    legend: tuple[tuple[str, LayerStyle], ...]


Block = Paragraph | Heading | Code | Notes | Table | Shares | Changes | TextPairs | Chart | LayerMap | Matrix


@dataclass(frozen=True)
class Section:
    """A part of the page; `name` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Fact:
    """One important figure at the top of the page."""

    value: str
    name: str


@dataclass(frozen=True)
class Page:
    """A whole page. `kept`: whether the promise is kept; None if it was not measured.

    The first sentence of `lede` is the result. `beside_record`: the page lies beside `kept.json`, and links it.
    """

    title: str
    kept: bool | None
    verdict: str
    lede: tuple[str, ...]
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    beside_record: bool

    def facts_per_row(self, most: int) -> int:
        """Return how many facts stand in a row of at most `most`, so that rows are equally full."""
        rows = math.ceil(len(self.facts) / most)
        return math.ceil(len(self.facts) / max(rows, 1))
