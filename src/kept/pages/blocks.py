"""What a page is made of: sections of plain blocks. The template knows how each kind is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kept.formatting import shared_prefix

DRAWN = 4
"""Curves that one picture has: as many as can be told apart."""


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
    """Text to copy, and what it is for."""

    kind: ClassVar[str] = "code"
    label: str
    text: str


@dataclass(frozen=True)
class Notes:
    """Short remarks, one a line."""

    kind: ClassVar[str] = "notes"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of text. The first `words` columns are words, and the last `last`; the others are numbers."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    last: int = 0


@dataclass(frozen=True)
class Shares:
    """A grid of shares from 0 to 1, each cell as dark as it is large."""

    kind: ClassVar[str] = "shares"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Change:
    """One quantity before and after: in words, and as parts of the larger of the two."""

    name: str
    before: float
    after: float
    words: tuple[str, str]

    @property
    def same(self) -> bool:
        """Whether nothing changed: two equal bars would show nothing."""
        return self.before == self.after

    @property
    def percent(self) -> tuple[float, float]:
        """How long the two bars are."""
        largest = max(self.before, self.after, 1e-300)
        return 100 * self.before / largest, 100 * self.after / largest


@dataclass(frozen=True)
class Changes:
    """Quantities before and after, as bars."""

    kind: ClassVar[str] = "changes"
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class TextPair:
    """One prompt, and what each of two models wrote after it."""

    prompt: str
    source: str
    output: str

    @property
    def shared(self) -> int:
        """Number of characters before the two differ."""
        return shared_prefix(self.source, self.output)


@dataclass(frozen=True)
class TextPairs:
    """Prompts with two continuations each, and whose they are."""

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
    """A line of a picture. `style` is its place among the styles that figures.py has."""

    name: str
    points: tuple[Point, ...]
    style: int


@dataclass(frozen=True)
class LineChart:
    """A picture of curves. `summary` says in words what is to be seen, for who cannot see it."""

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
        """Names with their styles, where there is something to tell apart."""
        return tuple((curve.name, curve.style) for curve in self.curves) if len(self.curves) > 1 else ()


@dataclass(frozen=True)
class Bar:
    """A bar with its standard error."""

    name: str
    value: float
    error: float


@dataclass(frozen=True)
class BarChart:
    """A picture of lying bars, from zero, with whiskers of one standard error."""

    kind: ClassVar[str] = "picture"
    caption: str
    summary: str
    x: str
    bars: tuple[Bar, ...]
    legend: ClassVar[tuple[tuple[str, int], ...]] = ()


@dataclass(frozen=True)
class Mark:
    """A point of a plane with the standard errors of both its places."""

    name: str
    x: float
    y: float
    errors: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class ScatterPlot:
    """A picture of marks with their names, about an origin that has a name too."""

    kind: ClassVar[str] = "picture"
    caption: str
    summary: str
    x: str
    y: str
    origin: str
    marks: tuple[Mark, ...]
    legend: ClassVar[tuple[tuple[str, int], ...]] = ()


Block = Paragraph | Heading | Code | Notes | Table | Shares | Changes | TextPairs | LineChart | BarChart | ScatterPlot


@dataclass(frozen=True)
class Section:
    """A part of the page; `name` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Fact:
    """One figure at the top of the page."""

    value: str
    name: str


@dataclass(frozen=True)
class Page:
    """All of it. `kept` is None where no promise was measured."""

    title: str
    kept: bool | None
    verdict: str
    lede: tuple[str, ...]
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
