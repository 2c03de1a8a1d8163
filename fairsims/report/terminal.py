"""Blocks as plain text, aligned, at most 100 columns wide, and those of an audit that the command line prints."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Iterator

from fairsims.audit.power import power_sentence
from fairsims.audit.result import AuditResult
from fairsims.report import tables, words
from fairsims.report.document import Answer, Block, Cell, Code, Facts, Figure, Heading, Notes, Table, Text
from fairsims.report.measured import cost_numbers
from fairsims.report.numbers import duration
from fairsims.report.screened import image_notes, images_table

WIDTH = 100
FIRST = 46
"""Columns of a table's first column at most: the longest name that the tool itself gives a row."""
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories of control characters and of the separators that break a line without being one."""


def terminal_table(result: AuditResult) -> str:
    """Shares with intervals, targets and what they rest on, quality, cost, time and warnings of an audit."""
    return as_text(summary(result))


def summary(result: AuditResult) -> Iterator[Block]:
    """The blocks of a report that the command line ends with."""
    for a in result.attributes.values():
        if a.untargeted is not None:
            continue
        yield tables.shares_table(a, result)
        for said in (words.tier_note(a), words.verdict(a), words.drift_verdict(a)):
            if said:
                yield Text(text=said)
        if (rows := tables.conditions_table(a, result)) is not None:
            yield rows
        if said := words.conditions_verdict(a):
            yield Text(text=said)
    if (others := tables.untargeted_table(result)) is not None:
        yield others
        yield Text(text=words.side_effect(result) or "")
    if result.power is not None:
        yield Text(text=power_sentence(result.power))
    if images := images_table(result):
        yield images
    yield from (Text(text=line) for line in image_notes(result))
    for section in result.sections:
        yield tables.quality_table(section, result)
    if cost_numbers(result.cost):
        yield tables.cost_table(result)
        if said := words.resampling_note(result):
            yield Text(text=said)
    if result.cost is not None and result.cost.seconds is not None:
        yield Facts(rows=(("time", duration(result.cost.seconds)),))
    if result.warnings:
        yield Notes(lines=result.warnings)


def as_text(blocks: Iterable[Block]) -> str:
    """Blocks one below the other, an empty line between them; what is said of a table stands right under it.

    Names come from data: control characters are dropped, long names cut, sentences go on on the next line.
    """
    lines: list[str] = []
    table = False
    for block in blocks:
        below = table and isinstance(block, Text)
        lines += [*([""] if lines and not below else []), *_lines(block, "  " if below else "")]
        table = below or isinstance(block, Table)
    return "\n".join(line[:WIDTH].rstrip() for line in lines)


def _lines(block: Block, indent: str) -> Iterator[str]:
    match block:
        case Text() | Heading():
            yield from _wrapped(block.text, indent)
        case Notes():
            for line in block.lines:
                yield from _wrapped(f"warning: {line}", "", "  ")
        case Facts():
            wide = max(len(_seen(label)) for label, _ in block.rows)
            for label, text in block.rows:
                yield from _wrapped(f"{_seen(label).ljust(wide)}  {text}", "", " " * (wide + 2))
        case Table():
            yield from _table(block)
        case Figure():
            yield from _wrapped(block.alt, indent)
        case Code():
            yield from map(_seen, block.text.splitlines())
        case Answer():
            yield from _wrapped(f"{block.question} {block.answer or 'Open.'}", indent)


def _table(block: Table) -> Iterator[str]:
    caption = ": ".join(c for c in (block.caption_name, block.caption or block.folded) if c)
    if caption:
        yield from _wrapped(caption, "")
    kept, gap = list(range(len(block.columns))), 2
    columns = _columns(block, kept)
    if _width(columns, gap) > WIDTH:
        kept = [k for k in kept if not block.columns[k].wide_only]
        columns = _columns(block, kept)
    if _width(columns, gap) > WIDTH:
        columns = _columns(block, kept, below=True)
    if _width(columns, gap) > WIDTH:
        gap = 1
    room = WIDTH - _width(columns[1:], gap) - gap
    columns[0] = [_cut(line, min(FIRST, max(12, room))) for line in columns[0]]
    columns[0] = [line.ljust(max(map(len, columns[0]))) for line in columns[0]]
    yield from ((" " * gap).join(line).rstrip() for line in zip(*columns, strict=True))


def _columns(block: Table, kept: Iterable[int], below: bool = False) -> list[list[str]]:
    """Each column's lines, all of one width but for the first: title, what is said beside it, then the cells.

    `below` puts what is said beside a number under it in every row, not only in those that ask for it.
    """
    noted = any(c.note for c in block.columns)
    broken = [any((c.wrap or below) and c.small for c in r.cells) for r in block.rows]
    found = []
    for k in kept:
        column = block.columns[k]
        head = [column.title, *([column.note] if noted else [])]
        if k == 0:
            names = [line for r, two in zip(block.rows, broken, strict=True) for line in (r.head, *[""] * two)]
            found.append([*map(_seen, head), *(f"  {_seen(n)}" for n in names)])
            continue
        texts = [*map(_plain, head), *_aligned([r.cells[k - 1] for r in block.rows], broken)]
        wide = max(map(len, texts))
        found.append([t.ljust(wide) if column.name else t.rjust(wide) for t in texts])
    return found


def _aligned(cells: list[Cell], broken: list[bool]) -> list[str]:
    """Numbers right under each other, and so what stands beside them; in a broken row it stands below."""
    texts = [_plain(c.text) for c in cells]
    beside = ["" if two else _plain(" ".join(c.small)) for c, two in zip(cells, broken, strict=True)]
    wide, wider = max(map(len, texts), default=0), max(map(len, beside), default=0)
    lines: list[str] = []
    for c, text, small, two in zip(cells, texts, beside, broken, strict=True):
        lines.append(f"{text.rjust(wide)} {small.ljust(wider)}" if wider else text)
        lines += [_plain(" ".join(c.small))] * two
    return lines


def _width(columns: list[list[str]], gap: int) -> int:
    return sum(gap + max(map(len, c)) for c in columns) - gap


def _wrapped(text: str, indent: str, further: str | None = None) -> list[str]:
    return textwrap.wrap(
        _seen(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if further is None else further,
        break_on_hyphens=False,
    )


def _seen(text: str) -> str:
    return "".join(c for c in text if unicodedata.category(c) not in _UNSEEN)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 2] + ".."


def _plain(text: str) -> str:
    """Numbers as other programs read them."""
    return _seen(text).replace("−", "-").replace("—", "-")
