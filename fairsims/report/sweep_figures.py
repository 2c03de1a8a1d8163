"""A sweep's charts: quality and share against strength, a line per budget.

Budgets differ by marker, dash and lightness as well as by hue, so the figures survive grey and colour blindness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from fairsims.files import read_json
from fairsims.report.figures import TARGET, canvas
from fairsims.report.numbers import short_percent

PANEL = (3.4, 2.6)
"""Inches of one panel."""
COLUMNS = 3
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))

Draw = Callable[[Axes, pd.DataFrame, "Style"], None]
Style = Mapping[float, dict[str, Any]]
"""Budget to how its line looks."""


def sweep_figures(folder: Path) -> list[Path]:
    """Draw `quality.png` and, where a target is set, `share.png` of the sweep in `folder`; returns their paths."""
    table, result = pd.read_parquet(folder / "sweep.parquet"), read_json(folder / "sweep.json")
    drawn = []
    if result["quality"] is not None:
        drawn.append(folder / "quality.png")
        quality_figure(table, result, drawn[-1])
    if result["target_share"] is not None:
        drawn.append(folder / "share.png")
        share_figure(table, result, drawn[-1])
    return drawn


def quality_figure(table: pd.DataFrame, result: Mapping[str, Any], path: Path) -> None:
    """Distance to the reference (in the target's mix, if there is a target) against strength."""
    measure = "fd_reference" if result["target_share"] is None else "fd_target"
    base = float(table.loc[table["mode"] == "base", measure].iloc[0])
    # An auxiliary is no panel's: it goes the other way.
    worst = float(table.loc[table["mode"] != "auxiliary", measure].max())

    def draw(axes: Axes, panel: pd.DataFrame, styles: Style) -> None:
        axes.axhline(base, color="0.5", linestyle=(0, (1, 1)), linewidth=1.2)
        for budget, points in panel.groupby("budget_kimg"):
            line = points.sort_values("omega")
            axes.plot([0.0, *line["omega"]], [base, *line[measure]], **styles[float(str(budget))])
        # Distances beyond a few times the base's would press the rest flat; the table has them.
        axes.set_ylim(0, 1.08 * min(worst, 3 * base))

    mix = "the reference" if measure == "fd_reference" else "the target mix"
    known = [Line2D([], [], color="0.5", linestyle=(0, (1, 1)), linewidth=1.2, label="base")]
    _panels(table, path, draw, known, f"{result['quality']['metric'].split()[0]} to {mix}", percents=False)


def share_figure(table: pd.DataFrame, result: Mapping[str, Any], path: Path) -> None:
    """Share of the classes that have to grow against strength, with the target and what the linear rule promised."""
    target, focus = float(result["target_share"]), result["focus"]
    base = float(table.loc[table["mode"] == "base", "share"].iloc[0])

    def draw(axes: Axes, panel: pd.DataFrame, styles: Style) -> None:
        axes.axhline(target, color=TARGET, linestyle=(0, (5, 3)), linewidth=1.2)
        rule = panel.drop_duplicates("omega").sort_values("omega")
        pi = sum(result["pool_shares"][c] for c in focus)
        axes.plot([0.0, *rule["omega"]], [pi, *rule["linear"]], color="0.55", linewidth=2.5, zorder=1)
        for budget, points in panel.groupby("budget_kimg"):
            line, style = points.sort_values("omega"), styles[float(str(budget))]
            # Side by side, so that one budget's intervals do not hide another's.
            place = list(styles).index(float(str(budget))) - (len(styles) - 1) / 2
            x = line["omega"] + 0.012 * place * float(table["omega"].max())
            axes.plot([0.0, *x], [base, *line["share"]], **style)
            if line["linear_measured"].notna().all():
                axes.plot(x, line["linear_measured"], linestyle="none", marker="_", color=style["color"])
            if len(focus) == 1:
                axes.vlines(x, line[f"low.{focus[0]}"], line[f"high.{focus[0]}"], color=style["color"], linewidth=1)
        axes.set_ylim(-0.02, 1.02)

    known = [
        Line2D([], [], color=TARGET, linestyle=(0, (5, 3)), linewidth=1.2, label=f"target {short_percent(target)}"),
        Line2D([], [], color="0.55", linewidth=2.5, label="linear rule"),
        Line2D([], [], color="0.3", linestyle="none", marker="_", label="rule, from the auxiliary as measured"),
    ]
    known = known if table["linear_measured"].notna().any() else known[:2]
    _panels(table, path, draw, known, f"share of {' + '.join(focus)}".replace("$", r"\$"), percents=True)


def _panels(
    table: pd.DataFrame, path: Path, draw: Draw, known: Sequence[Line2D], label: str, *, percents: bool
) -> None:
    """A panel per mode, size and interval, all on the same axes, and one legend for all."""
    combined = table[~table["mode"].isin(["base", "auxiliary"])]
    groups = list(_groups(combined))
    styles = _styles(sorted(combined["budget_kimg"].unique()))
    columns = 2 if len(groups) == 4 else min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    legend_height = 0.22 * (1 + (len(known) + len(styles)) // 2)
    with canvas(path, PANEL[1] * rows + legend_height, width=max(4.8, PANEL[0] * columns)) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, (title, panel) in zip(panels, groups, strict=False):
            draw(axes, panel, styles)
            axes.set_title(title, loc="left", fontweight="bold")
            axes.tick_params(labelbottom=True)
            sns.despine(ax=axes)
            if percents:
                axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        for axes in panels[len(groups) :]:
            axes.set_visible(False)
        figure.supxlabel("strength ω", fontsize=9.5)
        figure.supylabel(label, fontsize=9.5)
        _legend(figure, [*known, *(Line2D([], [], label=f"{b:g} kimg", **s) for b, s in styles.items())])


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, handlelength=2.6)


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for key, panel in table.groupby(["mode", "size", "interval"], sort=False):
        mode, size, interval = map(str, key)
        yield f"{mode}, {int(size):,} images" + ("" if interval == "none" else f", σ {interval}"), panel


def _styles(budgets: Sequence[float]) -> Style:
    """Light to dark with the budget, and a marker and a dash of its own for each."""
    colors = sns.color_palette("viridis_r", len(budgets) + 1)[1:]
    return {
        float(b): {
            "color": colors[i],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[i % len(DASHES)],
            "markersize": 5,
            "linewidth": 1.5,
        }
        for i, b in enumerate(budgets)
    }
