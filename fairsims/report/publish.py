"""An audit as files: `audit.json`, tables, grids of images, galleries, figures and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from fairsims.audit.compare import write_audit
from fairsims.audit.sources import ImageSource
from fairsims.audit.tables import write_tables
from fairsims.report.grids import image_grid
from fairsims.report.html import write_report

GRID, COLUMNS = 64, 16
"""Images in a grid, the first ones of the source."""
PIXELS = 64
"""Images of sides up to this are shown twice as large."""


def publish(
    run: Path,
    result: Mapping[str, Any],
    before: ImageSource,
    after: ImageSource | None = None,
    reference: ImageSource | None = None,
    labels: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write everything that shows an audit into `run/audit/` and `run/report.html`.

    `reference` are the real images that the audit's nearest reference images were found among; without them there is
    no gallery. `labels` are those by people that it rests on.
    """
    folder, sources = run / "audit", {"before": before} | ({"after": after} if after is not None else {})
    write_audit(folder, result)
    write_tables(folder, result, labels)
    pairs = result.get("quality", {}).get("nearest_pairs", {})
    scale = 2 if before.shape[1] <= PIXELS else 1
    for when, source in sources.items():
        grid = source.read(range(min(GRID, len(source))))
        image_grid(grid, COLUMNS, folder / f"grid-{when}.png", scale=scale)
        if reference is not None and pairs.get(when):
            _gallery(pairs[when], source, reference, folder / f"nearest-{when}.png", 2 * scale)
    write_report(run)


def _gallery(pairs: list[dict[str, Any]], source: ImageSource, reference: ImageSource, path: Path, scale: int) -> None:
    """Generated images above their nearest real ones."""
    generated = source.read([p["generated"] for p in pairs])
    real = reference.read([p["training"] for p in pairs])
    if real.shape != generated.shape:
        real = interpolate(real, source.shape[1:])
    image_grid(torch.cat([generated, real]), len(pairs), path, scale=scale)
