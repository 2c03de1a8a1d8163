"""A comparison's figure: error of the share, distances, precision and recall, an arm a line.

What stands in one panel differs by shape and fill, so that it survives grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from fairsims.report.figures import AFTER, BEFORE, TARGET, canvas

ROW = 0.5
"""Inches of an arm."""


def comparison_figure(result: Mapping[str, Any], path: Path, names: Mapping[str, str]) -> None:
    """Draw the arms of a `compare.json`, called by `names`, as PNG; without quality their errors alone."""
    rows = result["arms"]
    measured = result["quality"] is not None
    with canvas(path, ROW * len(rows) + 1.25, width=8.4 if measured else 4.8) as figure:
        panels = figure.subplots(1, 3 if measured else 1, sharey=True, squeeze=False)[0]
        _errors(panels[0], rows, float(result["tolerance"]))
        if measured:
            pair_of_numbers(panels[1], rows, {"fd_target": "to the target mix", "fd_reference": "as given"})
            _logarithmic(panels[1])
            panels[1].set_xlabel(f"{result['quality']['metric'].split()[0]} (closer is left)")
            pair_of_numbers(panels[2], rows, {"precision": "precision", "recall": "recall"})
            panels[2].set_xlabel("precision and recall")
        labels = [f"{names[r['arm']]}\n{r['evaluations_per_kept']:.1f} NFE" for r in rows]
        a_line_each(panels, labels)


def a_line_each(panels: Sequence[Axes], labels: Sequence[str]) -> None:
    """Panels that share an axis have a line for each arm, from the top."""
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    for axes in panels:
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        sns.despine(ax=axes, left=True)
        axes.tick_params(axis="y", length=0)


def _errors(axes: Axes, rows: Sequence[Mapping[str, Any]], tolerance: float) -> None:
    """Percentage points between the worst share and its target, with intervals."""
    axes.axvspan(-100 * tolerance, 100 * tolerance, color="0.88", linewidth=0, zorder=0)
    axes.axvline(0, color=TARGET, linestyle=(0, (5, 3)), linewidth=1.2)
    for y, row in enumerate(rows):
        axes.plot([100 * row["error_low"], 100 * row["error_high"]], [y, y], color=AFTER, linewidth=2)
        axes.plot(100 * row["error"], y, marker="o", color=AFTER, markersize=6)
    axes.set_xlabel("off target, percentage points")
    known = [Line2D([], [], color="0.88", linewidth=7, label="tolerance")]
    axes.legend(handles=known, loc="lower left", bbox_to_anchor=(-0.02, 1.0), frameon=False)


def pair_of_numbers(axes: Axes, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Two numbers of every arm: the first filled, the second open and of another shape."""
    looks: list[dict[str, Any]] = [
        {"marker": "o", "color": AFTER, "markerfacecolor": AFTER},
        {"marker": "D", "color": BEFORE, "markerfacecolor": "white"},
    ]
    for (column, label), look in zip(columns.items(), looks, strict=True):
        axes.plot([r[column] for r in rows], range(len(rows)), linestyle="none", markersize=6, label=label, **look)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, handletextpad=0.1, columnspacing=1
    )


def _logarithmic(axes: Axes) -> None:
    """Distances differ by factors; the axis is told in plain numbers."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    # Labels closer than half a decade would run into each other.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high > 10 * low else (1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
