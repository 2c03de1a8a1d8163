"""A document of a few kinds of blocks: written once, shown on pages, in terminal and dashboard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    soft: bool = False
    """A remark beside what matters."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Warnings, a line each."""

    kind: ClassVar[str] = "notes"
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Labels and what they say."""

    kind: ClassVar[str] = "facts"
    rows: tuple[tuple[str, str], ...]
    mono: bool = False
    """Digests and commands."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    title: str
    note: str = ""
    """Said small beside the title."""
    name: bool = False
    """Holds names, not numbers."""
    wide_only: bool = False
    """Left out on a narrow screen, where `Row.under` says the same."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number and what is said small beside it: intervals, as a rule."""

    text: str
    small: tuple[str, ...] = ()
    wrap: bool = False
    """Whether a narrow screen may break `small`."""

    def __str__(self) -> str:
        return " ".join((self.text, *self.small))


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: the name at its head, then a cell for each further column."""

    head: str
    cells: tuple[Cell, ...]
    strong: bool = False
    under: str = ""
    """What a narrow screen says under the head."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; `columns` are those of the heads and of the cells."""

    kind: ClassVar[str] = "table"
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    caption_name: str = ""
    """Said before the caption, strong."""
    folded: str = ""
    """Text that opens the table, which is closed at first; empty: it is open."""
    small: bool = False
    """No wider than its content, beside its neighbours of the same kind."""

    @property
    def titles(self) -> tuple[str, ...]:
        """Headings with what is said beside them."""
        return tuple(f"{c.title} ({c.note})" if c.title and c.note else c.title or c.note for c in self.columns)

    def records(self) -> list[dict[str, str]]:
        """Heading to text, a dict for each row."""
        return [dict(zip(self.titles, (r.head, *map(str, r.cells)), strict=True)) for r in self.rows]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A PNG beside the audit with what it shows in words."""

    kind: ClassVar[str] = "figure"
    path: Path
    alt: str
    caption: str = ""
    name: str = ""
    """Said before the caption, strong."""
    grid: bool = False
    """Images, shown pixel by pixel beside their neighbours of the same kind; a chart otherwise."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text as it is, closed at first under `summary`."""

    kind: ClassVar[str] = "code"
    text: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question that no tool can answer, and the answer; "" where it is open."""

    kind: ClassVar[str] = "answer"
    id: str
    question: str
    why: str
    answer: str


Block = Text | Heading | Notes | Facts | Table | Figure | Code | Answer


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report."""

    id: str
    """Names it in addresses and wherever another part speaks of it."""
    number: int
    """Its place in the report."""
    title: str
    blocks: tuple[Block, ...]
    clauses: str = ""
    """Which rules ask for it."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was found about one attribute."""

    name: str
    line: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """The whole report."""

    run: str
    title: str
    model: str | None
    created: str | None
    version: str | None
    results: tuple[Result, ...]
    preserved: tuple[str, ...]
    """A line for each attribute that was to stay as it is."""
    summary: str
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    source: str = "audit/audit.json"
    """The file that everything here is read from."""


def table(columns: Sequence[str | Column], rows: Iterable[Row], **options: Any) -> Table:
    """A table whose columns may be given by their titles."""
    named = tuple(c if isinstance(c, Column) else Column(title=c) for c in columns)
    return Table(columns=named, rows=tuple(rows), **options)


def row(head: str, *cells: str | Cell, strong: bool = False, under: str = "") -> Row:
    """A row whose cells may be given as their text."""
    named = tuple(c if isinstance(c, Cell) else Cell(text=c) for c in cells)
    return Row(head=head, cells=named, strong=strong, under=under)


def cell(text: str, *small: str, wrap: bool = False) -> Cell:
    """A cell with those of the small texts that say something."""
    return Cell(text=text, small=tuple(s for s in small if s), wrap=wrap)


def soft(text: str) -> Text:
    """A remark."""
    return Text(text=text, soft=True)
