"""Who answers for the report, and what the images look like."""

from __future__ import annotations

from collections.abc import Iterator

from fairsims.report import words
from fairsims.report.alternatives import grid_alt
from fairsims.report.document import Block, Facts, Figure, Heading, Text
from fairsims.report.numbers import NOTHING, moment
from fairsims.report.questions import QUESTIONS, open_ids
from fairsims.report.sections.context import Context


def summary(context: Context) -> Iterator[Block]:
    """Who answers for the report, and what the images look like."""
    result, still = context.result, len(open_ids(context.answers))
    yield Facts(
        rows=(
            ("written by", f"fairsims {result.fairsims or '(version not recorded)'}"),
            ("audit format", result.format),
            ("measured", moment(result.created) or NOTHING),
            (
                "open questions",
                f"{still} of {len(QUESTIONS)}; each stands in its section as open" if still else "none",
            ),
            (
                "signature",
                "manifest.dsse.json beside this file, if it was signed; fairsims verify holds every file against it",
            ),
        )
    )
    yield from context.questions("report.id", "report.status", "report.prepared_by", "report.reviewed_by")
    yield Heading(text="Images")
    grids = [(side, path) for side in result.sides if (path := context.audit / f"grid-{side}.png").exists()]
    if not grids:
        yield Text(text="No image grid was written for this run.")
    elif context.two_sided and result.same_seeds:
        yield Text(text=words.SAME_SEEDS)
    for side, path in grids:
        name = words.side_name(side, result).capitalize()
        yield Figure(path=path, alt=grid_alt(side, result.model), name=name, grid=True)
