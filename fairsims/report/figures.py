"""The report's charts as PNG: before and after differ by shape and fill as well as by colour, so they survive grey.

Drawn on figures of their own, never on pyplot's, and without dates or versions: one audit gives one picture, byte for
byte.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from fairsims.audit.result import AttributeResult, AuditResult, JointResult, JointSide
from fairsims.errors import InputError
from fairsims.files import atomic
from fairsims.report.document import Figure
from fairsims.report.measured import DISTANCES, steered
from fairsims.report.numbers import ShareLike, fixed, percent, short_percent
from fairsims.report.sections import Context
from fairsims.report.words import calibration_alt, joint_alt, quality_alt, shares_alt, side_name

P = TypeVar("P")

PANEL = (3.4, 2.6)
"""Inches of one of several panels."""
BESIDE = 3
"""Panels of joint shares of at most this many columns stand beside each other."""
WIDTH = 4.8
"""Inches. Narrow on purpose: on a phone the report shrinks it by a third and the labels stay legible."""
DPI = 220
BEFORE, AFTER, TARGET = "#B85600", "#003F73", "#222222"
"""Okabe and Ito's vermilion and blue, the blue darkened until the two differ in grey as well, and near-black."""
LOOKS: dict[str, dict[str, Any]] = {
    BEFORE: {"color": BEFORE, "marker": "o", "markerfacecolor": "white", "markeredgewidth": 1.4, "markersize": 5},
    AFTER: {"color": AFTER, "marker": "s", "markerfacecolor": AFTER, "markeredgewidth": 1.4, "markersize": 5},
}


CALIBRATION = (
    "Share measured at each strength on calibration seeds, and the result on audit seeds that the calibration never saw"
)
JOINT = (
    "Share of images in each pair of classes; below it the lift, the share over what it would be if the attributes "
    "knew nothing of each other"
)


def draw(context: Context) -> dict[str, Figure]:
    """Draw what the audit has numbers for as `<run>/audit/*.png`; figures by name. The same audit, the same bytes."""
    result, found = context.result, {}
    distances = any(p.fd_reference is not None for p in result.calibration)
    joint = any(pair.sides for pair in result.joint)
    for name, there, figure, alt, caption in (
        ("shares", True, shares_figure, shares_alt, ""),
        ("calibration", bool(result.calibration), calibration_figure, calibration_alt, CALIBRATION),
        ("quality", distances, quality_figure, quality_alt, "Quality against strength; lower is closer"),
        ("joint", joint, joint_figure, joint_alt, JOINT),
    ):
        if there:
            path = context.audit / f"{name}.png"
            figure(result, path)
            found[name] = Figure(path=path, alt=alt(result), caption=caption)
    return found


def shares_figure(result: AuditResult, path: Path) -> None:
    """Write the share of every class before and after, with 95% intervals and the target, as PNG."""
    attributes = list(result.attributes.values())
    heights = [0.62 * len(a.classes) + 0.45 for a in attributes]
    with canvas(path, sum(heights) + 0.55) as figure:
        panels = figure.subplots(len(attributes), 1, squeeze=False, height_ratios=heights)[:, 0]
        for attribute, axes in zip(attributes, panels, strict=True):
            _share_panel(attribute, axes)
        panels[-1].set_xlabel("share of generated images, 95% interval")
        legend(figure, panels, ncols=3)


def calibration_figure(result: AuditResult, path: Path) -> None:
    """Write share against strength with 95% intervals, the target, the chosen strength and what the audit then found.

    Raises InputError when the audit holds no calibration.
    """
    if not result.calibration:
        raise InputError("the audit has no calibration points; expected at least one to draw them")
    controlled = steered(result)
    target = controlled.target
    with canvas(path, 3.1) as figure:
        axes: Axes = figure.subplots()
        tried = result.by_strength
        axes.plot([p.strength for p in tried], [p.share for p in tried], color=BEFORE, linewidth=1, alpha=0.6)
        for p in tried:
            _error_bar(axes, p.strength, p, BEFORE, "calibration seeds", vertical=True)
        if target is not None:
            if within := controlled.tolerance:
                axes.axhspan(target - within, target + within, color="0.9", linewidth=0, zorder=0)
            label = f"target {short_percent(target)}" + (" ± tolerance" if controlled.tolerance else "")
            axes.axhline(target, color=TARGET, linestyle=(0, (5, 3)), linewidth=1.2, label=label)
        if result.strength is not None:
            chosen = axes.axvline(result.strength, color=AFTER, linestyle=":", linewidth=1.4)
            if controlled.after is not None:
                resampled = ", resampled" if result.method is not None and result.method.resampled else ""
                label = f"audit seeds at {result.strength:.3g}{resampled}"
                _error_bar(axes, result.strength, controlled.after, AFTER, label, vertical=True)
            else:
                chosen.set_label(f"chosen: {result.strength:.3g}")
        axes.set_xlabel("strength")
        axes.set_ylabel(short_name(controlled.name, 34))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        legend(figure, [axes], ncols=2)


def quality_figure(result: AuditResult, path: Path) -> None:
    """Write the Fréchet distances at each strength and the chosen strength, as PNG.

    Raises InputError when no strength has any.
    """
    points = [p for p in result.by_strength if p.fd_reference is not None]
    if not points:
        raise InputError("the audit has no distances by strength; expected at least one to draw them")
    with canvas(path, 3.1) as figure:
        axes: Axes = figure.subplots()
        for key, color in (("fd_reference", BEFORE), ("fd_target", AFTER)):
            found = [(p.strength, d) for p in points if (d := getattr(p, key)) is not None]
            if found:
                axes.plot(*zip(*found, strict=True), label=DISTANCES[key], **LOOKS[color])
        if result.strength is not None:
            label = f"chosen: {result.strength:.3g}"
            axes.axvline(result.strength, color=TARGET, linestyle=":", linewidth=1.4, label=label)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"strength, {points[0].quality_n:,} images at each" if points[0].quality_n else "strength")
        metric = result.quality.metric if result.quality is not None else None
        axes.set_ylabel(short_name(metric or "distance", 34))
        legend(figure, [axes], ncols=1)


def joint_figure(result: AuditResult, path: Path) -> None:
    """Write a panel for each pair of attributes and side, as PNG: the attribute with more classes down the side."""
    # On a phone three panels abreast would be too small to read.
    grid = [[(pair, side) for side in pair.sides] for pair in result.joint if pair.sides]
    beside = all(min(_joint_size(pair)) <= BESIDE for row in grid for pair, _ in row)
    rows = grid if beside else [[panel] for row in grid for panel in row]
    heights = [0.42 * max(_joint_size(row[0][0])) + 0.75 for row in rows]
    with canvas(path, sum(heights)) as figure:
        panels = figure.subplots(len(rows), max(map(len, rows)), squeeze=False, height_ratios=heights)
        for places, row in zip(panels, rows, strict=True):
            for axes in places[len(row) :]:
                axes.set_axis_off()
            for axes, (pair, side) in zip(places, row, strict=False):
                _joint_panel(axes, pair, pair.sides[side], side_name(side, result))


def _joint_size(pair: JointResult) -> tuple[int, int]:
    side = next(iter(pair.sides.values()))
    return len(side.rows), len(side.columns)


def _joint_panel(axes: Axes, pair: JointResult, side: JointSide, name: str) -> None:
    rows, columns = _joint_size(pair)
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


def _share_panel(a: AttributeResult, axes: Axes) -> None:
    for row, c in enumerate(a.classes):
        sides = [(a.before[c], BEFORE, "before" if a.after else "measured")]
        sides += [(a.after[c], AFTER, "after")] if a.after else []
        for k, (share, color, label) in enumerate(sides):
            y = row + (k - 0.5 * (len(sides) - 1)) * 0.42
            _error_bar(axes, y, share, color, label, vertical=False)
            axes.annotate(
                percent(share.share),
                (1.0, y),
                xycoords=axes.get_yaxis_transform(),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                color=color,
                fontweight="bold" if k else "normal",
            )
        if c in a.target:
            look: dict[str, Any] = {"color": TARGET, "linestyle": (0, (4, 2)), "linewidth": 1.3, "label": "target"}
            axes.plot([a.target[c]] * 2, [row - 0.44, row + 0.44], **look)
    axes.set_title(short_name(a.name), loc="left", fontweight="bold")
    axes.set_yticks(range(len(a.classes)), [short_name(c) for c in a.classes])
    axes.set_ylim(len(a.classes) - 0.45, -0.55)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=False, axis="y")
    sns.despine(ax=axes, left=True)


def _error_bar(axes: Axes, at: float, share: ShareLike, color: str, label: str, *, vertical: bool) -> None:
    """One share with its interval; `at` is its place on the other axis."""
    low = share.share if share.low is None else share.low
    high = share.share if share.high is None else share.high
    ends = ([at, at], [low, high]) if vertical else ([low, high], [at, at])
    cap = "_" if vertical else "|"
    axes.plot(*ends, color=color, linewidth=1.6, marker=cap, markersize=9, markeredgewidth=1.6)
    point = ([at], [share.share]) if vertical else ([share.share], [at])
    axes.plot(*point, linestyle="none", label=label, **LOOKS[color])


def legend(figure: Canvas, panels: Iterable[Axes], **options: Any) -> None:
    """What the panels' labels say, each once."""
    known = {s: h for axes in panels for h, s in zip(*axes.get_legend_handles_labels(), strict=True)}
    spaces = {"handletextpad": 0.5, "columnspacing": 1.2, "borderaxespad": 0.2}
    figure.legend(known.values(), known, loc="outside upper left", frameon=False, **spaces | options)


def short_name(text: str, width: int = 20) -> str:
    """A name from data as a label: `$` would start a formula, and a long one would squeeze the axes."""
    return (text if len(text) <= width else text[: width - 1] + "…").replace("$", r"\$")


def panels(
    path: Path,
    parts: Mapping[str, P],
    draw: Callable[[Axes, P], None],
    *,
    x: str,
    y: str,
    limits: tuple[float | None, float | None] = (0, None),
    percents: bool = False,
) -> None:
    """Write a panel for each part under its title, all on the same axes, as PNG; the legend is the first panel's."""
    columns = 2 if len(parts) == 4 else min(3, len(parts))
    rows = math.ceil(len(parts) / columns)
    with canvas(path, PANEL[1] * rows, width=max(WIDTH, PANEL[0] * columns)) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, (title, part) in zip(grid, parts.items(), strict=False):
            draw(axes, part)
            if own := axes.get_legend():
                own.remove()
            axes.set(xlabel="", ylabel="")
            axes.set_title(title, loc="left", fontweight="bold")
            axes.tick_params(labelbottom=True)
            sns.despine(ax=axes)
        for axes in grid[len(parts) :]:
            axes.set_visible(False)
        # After everything is drawn: it ends the common axis's growing.
        grid[0].set_ylim(*limits)
        if percents:
            grid[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.supxlabel(x, fontsize=9.5)
        figure.supylabel(y, fontsize=9.5)
        labels = len(set(grid[0].get_legend_handles_labels()[1]))
        figure.set_figheight(PANEL[1] * rows + 0.22 * math.ceil(labels / 2 + 1))
        legend(figure, grid[:1], ncols=2, handlelength=2.6)


@contextmanager
def canvas(path: Path, height: float, width: float = WIDTH) -> Iterator[Canvas]:
    """A figure of these inches, written as PNG when the body is done."""
    style = sns.axes_style("whitegrid") | {
        "font.family": ["DejaVu Sans"],
        "font.size": 9.5,
        "axes.titlesize": 9.5,
        "axes.edgecolor": "0.6",
        "grid.color": "0.9",
    }
    with rc_context(style), warnings.catch_warnings():
        # A class may be named in a script that the font lacks; the table under the figure spells it out.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Canvas(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with atomic(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
