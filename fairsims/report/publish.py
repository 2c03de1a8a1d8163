"""An audit as files: `audit.json`, tables, grids of images, galleries, figures and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from fairsims.audit.facts import Pair, by_side
from fairsims.audit.result import AuditResult, save_audit
from fairsims.audit.tables import write_tables
from fairsims.data import ImageDataset
from fairsims.data.marks import COMPOSITE, is_generated, mark_chunk
from fairsims.data.sources import ImageSource
from fairsims.pools import Pool
from fairsims.report.grids import image_grid
from fairsims.report.html import write_report

GRID, COLUMNS = 64, 16
"""Images in a grid, the first ones of the source."""
PIXELS = 64
"""Images of sides up to this are shown twice as large."""


def publish(
    run: Path,
    result: AuditResult,
    before: ImageSource,
    after: ImageSource | None = None,
    reference: ImageSource | None = None,
    labels: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write everything that shows an audit into `run/audit/` and `run/report.html`.

    `reference` are the real images that the audit's nearest reference images were found among; without them there is
    no gallery. `labels` are those by people that it rests on. Where the run has a pool `before`, its images are shown,
    which start from the same noise as those after.
    """
    folder = run / "audit"
    save_audit(run, result)
    write_tables(folder, result, labels)
    pairs = {} if result.quality is None else result.quality.nearest_pairs
    scale = 2 if before.shape[1] <= PIXELS else 1
    for side, source in by_side(before, after).items():
        paired = side == "before" and result.shown is not None
        seen = Pool(run / side) if paired else source
        shown = range(min(GRID, len(seen)))
        image_grid(seen.read(shown), COLUMNS, folder / f"grid-{side}.png", scale=scale, mark=grid_mark(seen, shown))
        if reference is not None and pairs.get(side):
            _gallery(pairs[side], source, reference, folder / f"nearest-{side}.png", 2 * scale)
    write_report(run)


def _gallery(pairs: Sequence[Pair], source: ImageSource, reference: ImageSource, path: Path, scale: int) -> None:
    """Generated images above their nearest real ones."""
    generated = source.read([p.generated for p in pairs])
    real = reference.read([p.training for p in pairs])
    if real.shape != generated.shape:
        real = interpolate(real, source.shape[1:])
    mark = grid_mark(source, [p.generated for p in pairs]) or grid_mark(reference, [p.training for p in pairs])
    image_grid(torch.cat([generated, real]), len(pairs), path, scale=scale, mark=mark)


def grid_mark(source: ImageSource, positions: Sequence[int]) -> bytes:
    """The mark of a picture put together from images of which one is marked as generated."""
    files = (source.encoded(i) for i in positions) if isinstance(source, Pool | ImageDataset) else ()
    return mark_chunk(kind=COMPOSITE) if any(f is not None and is_generated(f) for f in files) else b""
