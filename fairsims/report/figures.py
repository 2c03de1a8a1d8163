"""The report's charts as PNG: before and after differ by shape and fill as well as by colour, so they survive grey.

Drawn on figures of their own, never on pyplot's, and without dates or versions: one audit gives one picture, byte for
byte.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from fairsims.audit.result import AttributeResult, AuditResult
from fairsims.errors import InputError
from fairsims.files import atomic
from fairsims.report.measured import DISTANCES, steered
from fairsims.report.numbers import ShareLike, percent, short_percent

WIDTH = 4.8
"""Inches. Narrow on purpose: on a phone the report shrinks it by a third and the labels stay legible."""
DPI = 220
BEFORE, AFTER, TARGET = "#B85600", "#003F73", "#222222"
"""Okabe and Ito's vermilion and blue, the blue darkened until the two differ in grey as well, and near-black."""


def shares_figure(result: AuditResult, path: Path) -> None:
    """Write the share of every class before and after, with 95% intervals and the target, as PNG."""
    attributes = list(result.attributes.values())
    heights = [0.62 * len(a.classes) + 0.45 for a in attributes]
    with canvas(path, sum(heights) + 0.55) as figure:
        panels = figure.subplots(len(attributes), 1, squeeze=False, height_ratios=heights)[:, 0]
        for attribute, axes in zip(attributes, panels, strict=True):
            _share_panel(attribute, axes)
        panels[-1].set_xlabel("share of generated images, 95% interval")
        _legend(figure, any(a.after for a in attributes), any(a.target for a in attributes))


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
            _error_bar(axes, p.strength, p, vertical=True, color=BEFORE, marker="o", fill="white")
        handles = [_handle(BEFORE, "o", "white", "calibration seeds")]
        if target is not None:
            if within := controlled.tolerance:
                axes.axhspan(target - within, target + within, color="0.9", linewidth=0, zorder=0)
            axes.axhline(target, color=TARGET, linestyle=(0, (5, 3)), linewidth=1.2)
            label = f"target {short_percent(target)}" + (" ± tolerance" if controlled.tolerance else "")
            handles.append(Line2D([], [], color=TARGET, linestyle=(0, (5, 3)), linewidth=1.2, label=label))
        if result.strength is not None:
            axes.axvline(result.strength, color=AFTER, linestyle=":", linewidth=1.4)
            if controlled.after is not None:
                _error_bar(axes, result.strength, controlled.after, vertical=True, color=AFTER, marker="s", fill=AFTER)
                resampled = ", resampled" if result.method is not None and result.method.resampled else ""
                handles.append(_handle(AFTER, "s", AFTER, f"audit seeds at {result.strength:.3g}{resampled}"))
            else:
                handles.append(Line2D([], [], color=AFTER, linestyle=":", label=f"chosen: {result.strength:.3g}"))
        axes.set_xlabel("strength")
        axes.set_ylabel(short_name(controlled.name, 34))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, **_LEGEND)


def quality_figure(result: AuditResult, path: Path) -> None:
    """Write the Fréchet distances at each strength and the chosen strength, as PNG.

    Raises InputError when no strength has any.
    """
    points = [p for p in result.by_strength if p.fd_reference is not None]
    if not points:
        raise InputError("the audit has no distances by strength; expected at least one to draw them")
    styles = {"fd_reference": (BEFORE, "o", "white"), "fd_target": (AFTER, "s", AFTER)}
    with canvas(path, 3.1) as figure:
        axes: Axes = figure.subplots()
        handles = []
        for key, (color, marker, fill) in styles.items():
            found = [(p.strength, d) for p in points if (d := getattr(p, key)) is not None]
            if found:
                x, y = zip(*found, strict=True)
                axes.plot(x, y, color=color, marker=marker, markerfacecolor=fill, markeredgewidth=1.4, markersize=5)
                handles.append(_handle(color, marker, fill, DISTANCES[key]))
        if result.strength is not None:
            axes.axvline(result.strength, color=TARGET, linestyle=":", linewidth=1.4)
            handles.append(Line2D([], [], color=TARGET, linestyle=":", label=f"chosen: {result.strength:.3g}"))
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"strength, {points[0].quality_n:,} images at each" if points[0].quality_n else "strength")
        metric = result.quality.metric if result.quality is not None else None
        axes.set_ylabel(short_name(metric or "distance", 34))
        figure.legend(handles=handles, loc="outside upper left", ncols=1, frameon=False, **_LEGEND)


_LEGEND: dict[str, Any] = {"handletextpad": 0.5, "columnspacing": 1.2, "borderaxespad": 0.2, "handlelength": 1.6}


def _share_panel(a: AttributeResult, axes: Axes) -> None:
    for row, c in enumerate(a.classes):
        sides = [(a.before[c], BEFORE, "o", "white")]
        sides += [(a.after[c], AFTER, "s", AFTER)] if a.after else []
        for k, (share, color, marker, fill) in enumerate(sides):
            y = row + (k - 0.5 * (len(sides) - 1)) * 0.42
            _error_bar(axes, y, share, vertical=False, color=color, marker=marker, fill=fill)
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
            axes.plot([a.target[c]] * 2, [row - 0.44, row + 0.44], color=TARGET, linestyle=(0, (4, 2)), linewidth=1.3)
    axes.set_title(short_name(a.name), loc="left", fontweight="bold")
    axes.set_yticks(range(len(a.classes)), [short_name(c) for c in a.classes])
    axes.set_ylim(len(a.classes) - 0.45, -0.55)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=False, axis="y")
    sns.despine(ax=axes, left=True)


def _error_bar(axes: Axes, at: float, share: ShareLike, *, vertical: bool, color: str, marker: str, fill: str) -> None:
    """One share with its interval; `at` is its place on the other axis."""
    low = share.share if share.low is None else share.low
    high = share.share if share.high is None else share.high
    ends = ([at, at], [low, high]) if vertical else ([low, high], [at, at])
    cap = "_" if vertical else "|"
    axes.plot(*ends, color=color, linewidth=1.6, marker=cap, markersize=9, markeredgewidth=1.6)
    point = ([at], [share.share]) if vertical else ([share.share], [at])
    axes.plot(
        *point, marker=marker, color=color, markerfacecolor=fill, markeredgewidth=1.4, markersize=5, linestyle="none"
    )


def _legend(figure: Figure, after: bool, target: bool) -> None:
    handles = [_handle(BEFORE, "o", "white", "before" if after else "measured")]
    handles += [_handle(AFTER, "s", AFTER, "after")] if after else []
    handles += [Line2D([], [], color=TARGET, linestyle=(0, (4, 2)), linewidth=1.3, label="target")] if target else []
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, **_LEGEND)


def _handle(color: str, marker: str, fill: str, label: str) -> Line2D:
    return Line2D(
        [], [], color=color, marker=marker, markerfacecolor=fill, markeredgewidth=1.4, markersize=5, label=label
    )


def short_name(text: str, width: int = 20) -> str:
    """A name from data as a label: `$` would start a formula, and a long one would squeeze the axes."""
    return (text if len(text) <= width else text[: width - 1] + "…").replace("$", r"\$")


@contextmanager
def canvas(path: Path, height: float, width: float = WIDTH) -> Iterator[Figure]:
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
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with atomic(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
