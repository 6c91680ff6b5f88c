"""What a page is made of: sections, and in them tables, groups of charts, and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slimgpt_bench.report.drawing import marker

_SHAPES = ("dot", "square", "diamond", "triangle", "cross")

Mark = Literal["", "good", "bad", "unsure", "quiet", "code"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a table.

    Attributes:
        text: what counts.
        note: beside it, smaller: an interval, say.
        mark: what kind of news it is; said in words too, never by colour alone.
    """

    text: str
    note: str = ""
    mark: Mark = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: what it shows.
        header: of its columns.
        rows: as many values as the header has.
        words: columns, by number, that hold words and not numbers.
        folded: shown when asked for: the numbers of a chart.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    words: frozenset[int] = frozenset()
    folded: bool = False

    @property
    def kind(self) -> str:
        return "table"

    def cells(self) -> list[list[Cell]]:
        """Rows with every value as a cell."""
        return [[x if isinstance(x, Cell) else Cell(x) for x in row] for row in self.rows]


@dataclass(frozen=True, slots=True)
class Series:
    """One of several things in the same drawings.

    Attributes:
        name: of it.
        place: among them; decides colour and shape.
        plain: it is what the others are compared with.
    """

    name: str
    place: int
    plain: bool = False

    @property
    def style(self) -> str:
        return "s0" if self.plain else f"s{1 + self.place % 5}"

    @property
    def shape(self) -> str:
        return "hollow" if self.plain else _SHAPES[self.place % len(_SHAPES)]

    @property
    def swatch(self) -> str:
        """The marker as a drawing of its own; what stands beside it is its name."""
        mark = marker(8, 8, self.style, self.shape)
        return f'<svg viewBox="0 0 16 16" class="swatch" aria-hidden="true">{mark}</svg>'


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its heading.

    Attributes:
        heading: above it.
        svg: made by :mod:`slimgpt_bench.report.drawing`, which escapes what it is given.
    """

    heading: str
    svg: str


@dataclass(frozen=True, slots=True)
class Charts:
    """Drawings that belong together, side by side where there is room.

    Attributes:
        charts: of them.
        series: what is drawn in all of them; none where there is only one thing.
    """

    charts: tuple[Chart, ...]
    series: tuple[Series, ...] = ()

    @property
    def kind(self) -> str:
        return "charts"


@dataclass(frozen=True, slots=True)
class Prose:
    """A sentence or two.

    Attributes:
        text: of them.
        mark: ``bad`` is set apart: a reader must not miss it.
    """

    text: str
    mark: Mark = ""

    @property
    def kind(self) -> str:
        return "prose"


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading within a section.

    Attributes:
        text: of it.
        note: below it: protocol and machine.
    """

    text: str
    note: str = ""

    @property
    def kind(self) -> str:
        return "heading"


@dataclass(frozen=True, slots=True)
class Fact:
    """One number that a reader takes home.

    Attributes:
        value: the number and its unit.
        label: what it is.
        detail: its interval and what it holds for.
        mark: what kind of news it is.
    """

    value: str
    label: str
    detail: str
    mark: Mark = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Numbers side by side."""

    facts: tuple[Fact, ...]

    @property
    def kind(self) -> str:
        return "facts"


Block = Table | Charts | Prose | Heading | Facts


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        key: its anchor.
        title: its heading.
        blocks: what it holds.
        lead: how to read it.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""
