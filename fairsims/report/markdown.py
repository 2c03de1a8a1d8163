"""The report as Markdown: the same sections and numbers as the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fairsims.report import words
from fairsims.report.document import Answer, Block, Code, Document, Facts, Figure, Heading, Notes, Section, Table, Text


def as_markdown(report: Document, folder: Path) -> str:
    """The whole report; pictures by their path from `folder`."""
    lines = [f"# {plain(report.run)}", ""]
    created = f" · {report.created}" if report.created else ""
    lines += [f"fairsims audit report{created}{f' · model {plain(report.model)}' if report.model else ''}", ""]
    for r in report.results:
        lines += [f"**{plain(r.line)}**", "", *([plain(r.verdict), ""] if r.verdict else [])]
    for said in (*report.preserved, report.summary, words.LIMIT):
        lines += [plain(said), ""]
    if report.warnings:
        lines += ["**Warnings**", "", *(f"- {plain(w)}" for w in report.warnings), ""]
    for section in report.sections:
        lines += section_lines(section, folder)
    lines.append(f"Written by fairsims {plain(report.version or '')} from {report.source}.".replace("  ", " "))
    return "\n".join(lines) + "\n"


def section_lines(section: Section, folder: Path, level: int = 2) -> list[str]:
    """One section with its heading."""
    lines = [f"{'#' * level} {section.number}. {plain(section.title)}", ""]
    if section.clauses:
        lines += [f"*{plain(section.clauses)}*", ""]
    return lines + block_lines(section.blocks, folder, level + 1)


def block_lines(blocks: Iterable[Block], folder: Path, level: int = 3) -> list[str]:
    """Blocks one after the other, an empty line after each."""
    return [line for b in blocks for line in (*_block(b, folder, level), "")]


def _block(block: Block, folder: Path, level: int) -> Iterator[str]:
    match block:
        case Text():
            yield plain(block.text)
        case Heading():
            yield f"{'#' * level} {plain(block.text)}"
        case Notes():
            yield from (f"- {plain(line)}" for line in block.lines)
        case Facts():
            yield from (f"- {plain(label)}: {plain(text)}" for label, text in block.rows)
        case Table():
            yield from _table(block)
        case Figure():
            said = f"**{plain(block.name)}** {plain(block.caption)}".strip() if block.name else plain(block.caption)
            yield from ([said, ""] if said else [])
            yield f"![{plain(block.alt)}](<{block.path.relative_to(folder).as_posix()}>)"
        case Code():
            fence = "`" * max(3, 1 + max((len(m) for m in re.findall(r"`+", block.text)), default=0))
            yield from (f"**{plain(block.summary)}**", "", fence, *block.text.splitlines(), fence)
        case Answer():
            yield f"**{plain(block.question)}**"
            yield ""
            if block.answer:
                yield from (plain(line) for line in block.answer.splitlines())
            else:
                yield f"*Open.* {plain(block.why)}"


def _table(block: Table) -> Iterator[str]:
    caption = ": ".join(plain(c) for c in (block.caption_name, block.caption or block.folded) if c)
    yield from ([caption, ""] if caption else [])
    yield f"| {' | '.join(map(plain, block.titles))} |"
    yield f"|{'|'.join('---' if k == 0 or c.name else '--:' for k, c in enumerate(block.columns))}|"
    for r in block.rows:
        cells = [r.head, *map(str, r.cells)]
        shown = [f"**{plain(c)}**" if r.strong and c else plain(c) for c in cells]
        yield f"| {' | '.join(shown)} |"


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    escaped = re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.replace("&", "&amp;").split()))
    # What would begin a list or a heading of its own at the start of a line, and a bare address that would be a link.
    escaped = re.sub(r"^([-+=])", r"\\\1", escaped)
    escaped = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", escaped)
    return re.sub(r"(?i)\b(https?|ftp)://", r"\1:\\//", escaped)
