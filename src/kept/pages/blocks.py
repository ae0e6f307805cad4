"""The content of a page: sections of blocks. The template renders each kind of block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kept.formatting import shared_prefix

DRAWN = 4
"""Maximum number of curves in a chart that can be distinguished."""


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
    """Text to copy, with a label."""

    kind: ClassVar[str] = "code"
    label: str
    text: str


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
class Shares:
    """A heat map of fractions from 0 to 1."""

    kind: ClassVar[str] = "shares"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class MatrixCell:
    """A figure of one model, and its signed change against the first. `tone` is "good", "bad" or empty."""

    value: str
    change: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Matrix:
    """A table of domain by model."""

    kind: ClassVar[str] = "matrix"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[MatrixCell, ...]], ...]


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
        """Length of the common prefix of both continuations, in characters."""
        return shared_prefix(self.source, self.output)


@dataclass(frozen=True)
class TextPairs:
    """Prompts with two continuations each; `names` are the models'."""

    kind: ClassVar[str] = "pairs"
    names: tuple[str, str]
    pairs: tuple[TextPair, ...]


@dataclass(frozen=True)
class Point:
    """A point of a curve; `error` is the standard error of `y`."""

    x: float
    y: float
    error: float = 0.0


@dataclass(frozen=True)
class Curve:
    """A line of a chart. `style` is an index into the styles of `chart_style.py`."""

    name: str
    points: tuple[Point, ...]
    style: int


@dataclass(frozen=True)
class LineChart:
    """A line chart. `summary` describes it in words for screen readers."""

    kind: ClassVar[str] = "picture"
    caption: str
    summary: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    log_y: bool = False

    @property
    def legend(self) -> tuple[tuple[str, int], ...]:
        """Names with their styles; empty for a single curve."""
        return tuple((curve.name, curve.style) for curve in self.curves) if len(self.curves) > 1 else ()


@dataclass(frozen=True)
class Bar:
    """A bar with its standard error."""

    name: str
    value: float
    error: float


@dataclass(frozen=True)
class BarChart:
    """A chart of horizontal bars from zero, with whiskers of one standard error."""

    kind: ClassVar[str] = "picture"
    caption: str
    summary: str
    x: str
    bars: tuple[Bar, ...]
    legend: ClassVar[tuple[tuple[str, int], ...]] = ()


@dataclass(frozen=True)
class Mark:
    """A point of a scatter plot with the standard errors of both coordinates."""

    name: str
    x: float
    y: float
    errors: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class ScatterPlot:
    """A scatter plot of named points around a named origin."""

    kind: ClassVar[str] = "picture"
    caption: str
    summary: str
    x: str
    y: str
    origin: str
    marks: tuple[Mark, ...]
    legend: ClassVar[tuple[tuple[str, int], ...]] = ()


@dataclass(frozen=True)
class LayerCell:
    """A layer of a picture: its index, and a style of mixer and MLP; None for an absent branch."""

    index: int
    mixer: int | None
    mlp: int | None
    is_new: bool = False


@dataclass(frozen=True)
class LayerRow:
    """The layers of one model, a cell for each column; None where the model has no such layer."""

    name: str
    cells: tuple[LayerCell | None, ...]


@dataclass(frozen=True)
class LayerMap:
    """A picture of the layers of two models. `legend` has the form of each branch with the class of its colour."""

    kind: ClassVar[str] = "layers"
    caption: str
    summary: str
    rows: tuple[LayerRow, ...]
    legend: tuple[tuple[str, str], ...]


Block = (
    Paragraph
    | Heading
    | Code
    | Notes
    | Table
    | Shares
    | Changes
    | TextPairs
    | LineChart
    | BarChart
    | ScatterPlot
    | LayerMap
    | Matrix
)


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
    """A whole page. `kept`: whether the promise is kept; None if it was not measured."""

    title: str
    kept: bool | None
    verdict: str
    lede: tuple[str, ...]
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
