"""Joint shares as a heat map: each cell says its share and its lift, so that nothing rests on colour alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fairsims.audit.result import AuditResult, JointResult, JointSide
from fairsims.report.figures import canvas, short_name
from fairsims.report.numbers import fixed, percent
from fairsims.report.words import side_name

BESIDE = 3
"""Panels of at most this many columns stand beside each other."""


def joint_figure(result: AuditResult, path: Path) -> None:
    """Write a panel for each pair of attributes and side, as PNG: the attribute with more classes down the side."""
    # On a phone three panels abreast would be too small to read.
    grid = [[(pair, side) for side in pair.sides] for pair in result.joint if pair.sides]
    beside = all(min(_size(pair)) <= BESIDE for row in grid for pair, _ in row)
    rows = grid if beside else [[panel] for row in grid for panel in row]
    heights = [0.42 * max(_size(row[0][0])) + 0.75 for row in rows]
    with canvas(path, sum(heights)) as figure:
        panels = figure.subplots(len(rows), max(map(len, rows)), squeeze=False, height_ratios=heights)
        for places, row in zip(panels, rows, strict=True):
            for axes in places[len(row) :]:
                axes.set_axis_off()
            for axes, (pair, side) in zip(places, row, strict=False):
                _panel(axes, pair, pair.sides[side], side_name(side, result))


def _size(pair: JointResult) -> tuple[int, int]:
    side = next(iter(pair.sides.values()))
    return len(side.rows), len(side.columns)


def _panel(axes: Axes, pair: JointResult, side: JointSide, name: str) -> None:
    rows, columns = _size(pair)
    shares = pd.DataFrame(index=list(side.rows), columns=list(side.columns), dtype=float)
    texts = shares.astype(object)
    for cell in side.cells:
        lift = "" if cell.lift is None else f"\n×{fixed(cell.lift)}"
        shares.loc[cell.classes] = cell.share
        texts.loc[cell.classes] = f"{percent(cell.share)}{lift}"
    across, down = 1, 0
    if rows < columns:
        shares, texts, across, down = shares.T, texts.T, down, across
    top = max(c.share for s in pair.sides.values() for c in s.cells)
    looks = {"fontsize": 7.5, "linespacing": 1.1}
    sns.heatmap(shares, ax=axes, cmap="Blues", vmin=0, vmax=top, annot=texts, fmt="", cbar=False, annot_kws=looks)
    axes.set_xticklabels([short_name(str(c), 14) for c in shares.columns], fontsize=8, rotation=0)
    axes.set_yticklabels([short_name(str(r), 14) for r in shares.index], fontsize=8, rotation=0)
    axes.tick_params(length=0)
    axes.set_xlabel(short_name(pair.attributes[across]), fontsize=8)
    axes.set_ylabel(short_name(pair.attributes[down]), fontsize=8)
    axes.set_title(name, loc="left", fontweight="bold")
