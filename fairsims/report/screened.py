"""What was read, what was passed over, and which images are no further samples: one table, and a line each."""

from __future__ import annotations

from collections.abc import Iterator

from fairsims.audit.facts import SourceFacts
from fairsims.audit.result import AuditResult
from fairsims.report import words
from fairsims.report.document import Table, row, table
from fairsims.report.numbers import NOTHING, number

MOST_SIZES = 5


def images_table(result: AuditResult) -> Table | None:
    """A row per side: read and passed over, of one colour, copies, and what n is worth; None for older audits."""
    rows = []
    for side in result.sides:
        pool = result.pools.get(side)
        if pool is None or pool.screening is None:
            continue
        s, passed = pool.screening, NOTHING
        if pool.found is not None:
            passed = number(sum(p.n for p in pool.found.passed.values()))
        counts = (passed, *(number(p.n) for p in (s.constant, s.copies, s.near)), number(s.tiny.n + s.huge.n))
        rows.append(row(words.side_name(side, result), number(s.n), *counts, number(round(s.worth))))
    columns = ("images", "read", "passed over", "one colour", "copies", "nearly", "odd size", "worth")
    return table(columns, rows, small=True) if rows else None


def image_notes(result: AuditResult) -> Iterator[str]:
    """By which rule files were passed over, and what was done to the others."""
    for side in result.sides:
        pool = result.pools.get(side)
        if pool is not None:
            yield from (f"{words.side_name(side, result)}: {line}" for line in _notes(pool))


def _notes(pool: SourceFacts) -> Iterator[str]:
    found, screening = pool.found, pool.screening
    if guide := pool.made_by.get("guide"):
        inside = "" if "interval" not in guide else " at noise levels {:g} to {:g}".format(*guide["interval"])
        yield f"guided by the network {guide['digest'][:12]} with guidance {guide['guidance']:g}{inside}"
    if pool.conditions is not None:
        how = "each as often as any other" if pool.labels == "balanced" else "drawn at random for each image"
        yield f"asked for by {pool.conditions:,} classes or prompts, {how} ({pool.labels})"
    if found is not None:
        if found.passed:
            listed = (f"{p.n:,} {rule} ({', '.join(p.names)})" for rule, p in found.passed.items())
            yield f"passed over {'; '.join(listed)}"
        if len(found.sizes) > 1 or (found.policy.get("resize") and found.sizes):
            sizes = [f"{n:,} of {size}" for size, n in found.sizes.items()]
            more = f" and {len(sizes) - MOST_SIZES} more sizes" if len(sizes) > MOST_SIZES else ""
            done = (
                f", brought to {found.policy['resize']} by {found.policy['fit']}" if found.policy.get("resize") else ""
            )
            yield f"sizes {', '.join(sizes[:MOST_SIZES])}{more}{done}"
        if others := {m: n for m, n in found.modes.items() if m not in ("L", "RGB")}:
            yield f"converted to 8-bit grey or RGB {', '.join(f'{n:,} {mode}' for mode, n in others.items())}"
        yield from found.notes
    if screening is not None:
        for what, p in (("tiny", screening.tiny), ("huge", screening.huge)):
            if p.n:
                yield f"{p.n:,} {what} images among the others ({', '.join(p.names)})"
