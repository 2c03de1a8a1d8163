"""What the reports of a retargeting and of a comparison over prompts are both made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairsims.files import write_text
from fairsims.report.document import (
    Block,
    Cell,
    Column,
    Document,
    Facts,
    Heading,
    Result,
    Section,
    Table,
    cell,
    row,
    table,
)
from fairsims.report.html import as_html
from fairsims.report.markdown import as_markdown
from fairsims.report.numbers import fixed

Found = Mapping[str, Any]
Part = tuple[str, str, list[Block]]
"""Id, title and blocks of a section; without blocks it is left out."""


def prompt_page(
    folder: Path,
    result: Found,
    parts: Sequence[Part],
    *,
    title: str,
    line: str,
    verdict: str,
    summary: str,
    warnings: Iterable[str],
    source: str,
) -> Document:
    """The report of a run in `folder`, made from its file `source`; `line` and `verdict` are its result."""
    there = [part for part in parts if part[2]]
    return Document(
        run=folder.resolve().name,
        title=title,
        model=result["model"],
        created=result["created"],
        version=result["fairsims"],
        results=(Result(name=result["attribute"], line=line, verdict=verdict),),
        preserved=(),
        summary=summary,
        warnings=tuple(warnings),
        sections=tuple(
            Section(id=key, number=n, title=name, blocks=tuple(blocks))
            for n, (key, name, blocks) in enumerate(there, 1)
        ),
        source=source,
    )


def write_page(found: Document, folder: Path) -> None:
    """Write `report.md` and `report.html`."""
    write_text(folder / "report.md", as_markdown(found, folder))
    write_text(folder / "report.html", as_html(found))


def feasibility_table(classes: Sequence[str], rows: Sequence[Found]) -> Table:
    """What each prompt has, needs, and what serves it: before any training."""
    shown = shown_class(classes)
    return table(
        ("prompt", f"{classes[shown]}, base", "target", "least strength", "within the cap", "promised"),
        (
            row(
                named(r["prompt"]),
                share_cell(r, shown),
                cell(fixed(r["target"][shown])),
                _least(r),
                cell("yes" if r["within_cap"] else "positive part" if r["positive"] else "no"),
                cell(fixed(r["reachable"][shown])),
            )
            for r in rows
        ),
        caption="What the complement of each prompt can do",
    )


def _least(found: Found) -> Cell:
    # Earlier versions called it so.
    least = found.get("least_strength", found.get("least_omega"))
    return cell("none" if least is None else fixed(least))


def calibration_table(rows: Sequence[Found], caption: str) -> Table:
    """What was tried, and what the worst prompt was there."""
    return table(
        (
            "strength",
            "share of what has to grow",
            "mean off",
            "worst off",
            Column(title="worst prompt", name=True),
            "images",
        ),
        (
            row(
                fixed(r["strength"], 3),
                cell(fixed(r["share"]), f"± {1.96 * r['se']:.2f}"),
                cell(fixed(r["mean_off"], 3)),
                cell(fixed(r["worst_off"], 3)),
                cell(named(r["worst"])),
                cell(f"{r['n']:,}"),
            )
            for r in rows
        ),
        caption=caption,
    )


def reproduction(result: Found, *first: tuple[str, str]) -> list[Block]:
    """What a run was made with, after the facts that only it has."""
    sampler = result["sampler"]
    rows = (
        *first,
        ("sampler", f"{sampler['scheduler']}, {sampler['steps']} steps, guidance scale {sampler['guidance']:g}"),
        ("unconditional branch", sampler["unconditional"]),
        ("prompts", " ".join(filter(None, (result["prompts_from"]["name"], result["prompts_from"]["source"])))),
        ("classifier", f"{result['classifier']['name']}, errors of split {result['classifier']['split']}"),
    )
    digests = (
        ("base, SHA-256", result["base_digest"]),
        ("classifier, SHA-256", result["classifier"]["digest"]),
        ("plan, SHA-256", result["plan"]["sha256"]),
        ("command", result["command"]),
    )
    return [Facts(rows=rows), Heading(text="Digests"), Facts(rows=digests, mono=True)]


def agreed_column(result: Found, note: str) -> Column:
    """The column that says whether images show what their prompts name: a share, or CLIP's cosine."""
    return Column(title="shows what is asked for" if agreed_digits(result) == 2 else "CLIP-T", note=note)


def agreed_digits(result: Found) -> int:
    """Decimals of it."""
    return 3 if result.get("agreement_as") == "cosine" else 2


def share_cell(r: Found, k: int) -> Cell:
    """A share with its interval."""
    return cell(fixed(r["share"][k]), f"[{fixed(r['low'][k])}, {fixed(r['high'][k])}]")


def shown_class(classes: Sequence[str]) -> int:
    """The class that stands for the others: of two the second, whose share says the other's."""
    return 1 if len(classes) > 1 else 0


def named(prompt: str) -> str:
    """A prompt as a reader calls it."""
    return prompt or "(empty prompt)"
