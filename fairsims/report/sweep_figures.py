"""A sweep's charts: quality and share against strength, a line per budget; without a target quality against budget.

Budgets differ by marker, dash and lightness as well as by hue, so the figures survive grey and colour blindness.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fairsims.files import read_json
from fairsims.report.figures import TARGET, panels
from fairsims.report.numbers import short_percent
from fairsims.report.sweep_table import read_points


def sweep_figures(folder: Path) -> list[Path]:
    """Draw `quality.png` and, where a target is set, `share.png` of the sweep in `folder`; returns their paths."""
    table, result = read_points(folder), read_json(folder / "sweep.json")
    drawn = []
    if result["quality"] is not None:
        drawn.append(folder / "quality.png")
        (quality_figure if result["target_share"] is not None else arms_figure)(table, result, drawn[-1])
    if result["target_share"] is not None:
        drawn.append(folder / "share.png")
        share_figure(table, result, drawn[-1])
    return drawn


def quality_figure(table: pd.DataFrame, result: Mapping[str, Any], path: Path) -> None:
    """Distance to the reference in the target's mix against strength."""
    measure = "fd_target"
    base = float(table.loc[table["mode"] == "base", measure].iloc[0])
    # An auxiliary is no panel's: it goes the other way.
    worst = float(table.loc[table["mode"] != "auxiliary", measure].max())

    def draw(axes: Axes, points: pd.DataFrame) -> None:
        axes.axhline(base, color="0.5", linestyle=(0, (1, 1)), linewidth=1.2, label="base")
        _lines(axes, points, measure, base)

    # Distances beyond a few times the base's would press the rest flat; the table has them.
    limits = (0, 1.08 * min(worst, 3 * base))
    metric = result["quality"]["metric"].split()[0]
    panels(path, _parts(table), draw, x="strength", y=f"{metric} to the target mix", limits=limits)


def arms_figure(table: pd.DataFrame, result: Mapping[str, Any], path: Path) -> None:
    """Distance to the reference against the budget B, a line per strength, a panel per arm and size of the set.

    As figure 3 of the paper. The base is a dotted line, the base trained on for the same cost a grey one; what has no
    budget, autoguidance, is level.
    """
    measure = "fd_reference"
    base = float(table.loc[table["mode"] == "base", measure].iloc[0])
    moved = table[~table["mode"].isin(["base", "auxiliary", "longer"])]
    control = table[table["mode"] == "longer"]
    strengths, budgets = sorted(moved["strength"].unique()), sorted(table.loc[table["budget_kimg"] > 0, "budget_kimg"])
    colors = dict(zip(strengths, sns.color_palette("viridis_r", len(strengths) + 1)[1:], strict=True))
    markers = dict(zip(strengths, "osD^vPX" * len(strengths), strict=False))

    def draw(axes: Axes, points: pd.DataFrame) -> None:
        axes.axhline(base, color="0.5", linestyle=(0, (1, 1)), linewidth=1.2, label="base")
        for strength, line in points.groupby("strength"):
            look = {
                "color": colors[strength],
                "marker": markers[strength],
                "markersize": 5,
                "label": f"strength {strength:g}",
            }
            level = line["mode"].iloc[0] == "autoguided"
            x = budgets if level else line["budget_kimg"]
            axes.plot(x, [line[measure].iloc[0]] * len(budgets) if level else line[measure], linewidth=1.5, **look)
        same = control[(control["size"] == points["size"].iloc[0]) | points["size"].isna().iloc[0]]
        for _, line in (same if len(same) else control).groupby("size"):
            look = {"color": "0.6", "marker": "x", "markersize": 5, "label": "base trained on"}
            axes.plot(line["budget_kimg"], line[measure], linewidth=1.2, linestyle=(0, (5, 2)), **look)

    worst = float(moved[measure].max()) if len(moved) else base
    limits = (0, 1.08 * max(base, min(worst, 3 * base)))
    metric = result["quality"]["metric"].split()[0]
    parts = _arm_parts(moved) or {"base trained on": control}
    panels(path, parts, draw, x="B, thousand images", y=f"{metric} to the reference", limits=limits)


def _arm_parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The points of each arm by its title, the smaller budgets first."""
    found = {}
    told = table.reindex(columns=["mode", "size", "interval", "blocks", "guide"]).astype(object)
    told = told.where(told.notna(), "none")
    for key in dict.fromkeys(told.itertuples(index=False, name=None)):
        places = told.index[(told == list(key)).all(axis=1)]
        mode, size, interval, blocks, guide = map(str, key)
        title = mode + ("" if size == "none" or mode == "decayed" else f", {int(size):,} images")
        title += "" if interval == "none" else f", σ {interval}"
        title += "" if blocks == "none" else f" {blocks}"
        title += "" if guide == "none" else f", {Path(guide).name}"
        found[title] = table.loc[places].sort_values("budget_kimg", kind="stable")
    return found


def share_figure(table: pd.DataFrame, result: Mapping[str, Any], path: Path) -> None:
    """Share of the classes that have to grow against strength, with the target and what the linear rule promised."""
    target, focus = float(result["target_share"]), result["focus"]
    base = float(table.loc[table["mode"] == "base", "share"].iloc[0])
    pool = sum(result["pool_shares"][c] for c in focus)
    step = 0.012 * float(table["strength"].max())

    def draw(axes: Axes, points: pd.DataFrame) -> None:
        label = f"target {short_percent(target)}"
        axes.axhline(target, color=TARGET, linestyle=(0, (5, 3)), linewidth=1.2, label=label)
        rule = points.drop_duplicates("strength").sort_values("strength")
        strengths, promised = [0.0, *rule["strength"]], [pool, *rule["linear"]]
        axes.plot(strengths, promised, color="0.55", linewidth=2.5, zorder=1, label="linear rule")
        # Side by side, so that one budget's intervals do not hide another's.
        place = points["budget_kimg"].rank(method="dense")
        points = points.assign(strength=points["strength"] + step * (place - place.mean()))
        colors = _lines(axes, points, "share", base)
        for budget, line in points.groupby("budget"):
            if line["linear_measured"].notna().all():
                label = "rule, from the auxiliary as measured"
                look = {"linestyle": "none", "marker": "_", "color": colors[str(budget)]}
                axes.plot(line["strength"], line["linear_measured"], label=label, **look)
            if len(focus) == 1:
                low, high = line[f"low.{focus[0]}"], line[f"high.{focus[0]}"]
                axes.vlines(line["strength"], low, high, color=colors[str(budget)], linewidth=1)

    name = f"share of {' + '.join(focus)}".replace("$", r"\$")
    panels(path, _parts(table), draw, x="strength", y=name, limits=(-0.02, 1.02), percents=True)


def _parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The points of each mode, size and interval by its title, the smaller budgets first."""
    table = table[~table["mode"].isin(["base", "auxiliary"])]
    table = table.assign(budget=table["budget_kimg"].map("{:g} kimg".format))
    found = {}
    for key, points in table.groupby(["mode", "size", "interval"], sort=False):
        mode, size, interval = map(str, key)
        title = f"{mode}, {int(size):,} images" + ("" if interval == "none" else f", σ {interval}")
        found[title] = points.sort_values("budget_kimg", kind="stable")
    return found


def _lines(axes: Axes, points: pd.DataFrame, measure: str, base: float) -> dict[str, Any]:
    """A line for each budget, from the base at strength 0; their colours, the larger budget the darker."""
    budgets = list(points["budget"].unique())
    colors = dict(zip(budgets, sns.color_palette("viridis_r", len(budgets) + 1)[1:], strict=True))
    lines = pd.concat([points.drop_duplicates("budget").assign(strength=0.0, **{measure: base}), points])
    of = {"hue": "budget", "style": "budget", "palette": colors, "markers": True, "markeredgewidth": 0}
    sns.lineplot(lines, x="strength", y=measure, ax=axes, errorbar=None, linewidth=1.5, markersize=5, **of)
    return colors
