"""Section 0: who answers for the report, and what the images look like."""

from __future__ import annotations

from collections.abc import Iterator

from fairsims.report import words
from fairsims.report.alternatives import grid_alt
from fairsims.report.document import Block, Facts, Figure, Heading, Text
from fairsims.report.open_fields import FIELDS, open_ids
from fairsims.report.sections.context import Context


def summary(context: Context) -> Iterator[Block]:
    """Who answers for the report, and what the images look like."""
    view, still = context.view, len(open_ids(context.answers))
    rows = [("written by", f"fairsims {view.raw.get('fairsims') or '(version not recorded)'}")]
    rows += [("audit format", str(view.raw["format"])), ("measured", words.moment(view.raw.get("created")) or "—")]
    rows += [
        ("open questions", f"{still} of {len(FIELDS)}; each stands in its section as open" if still else "none"),
        (
            "signature",
            "manifest.dsse.json beside this file, if it was signed; fairsims verify holds every file against it",
        ),
    ]
    yield Facts(rows=tuple(rows))
    yield from context.questions("report.id", "report.status", "report.prepared_by", "report.reviewed_by")
    yield Heading(text="Images")
    grids = [(side, path) for side in view.sides if (path := context.audit / f"grid-{side}.png").exists()]
    if not grids:
        yield Text(text="No image grid was written for this run.")
    elif context.two_sided and view.same_seeds:
        yield Text(text="Both grids come from the same seeds, in the same order.")
    for side, path in grids:
        yield Figure(
            path=path, alt=grid_alt(side, view.model), name=words.side_name(side, view).capitalize(), grid=True
        )
