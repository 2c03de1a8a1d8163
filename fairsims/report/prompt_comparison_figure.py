"""The figure of a comparison over prompts: how far each prompt is off its target, and quality, an arm a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fairsims.report.comparison_figure import ROW, a_line_each, pair_of_numbers
from fairsims.report.figures import AFTER, TARGET, canvas

SPREAD = 0.24
"""How far the prompts of an arm are spread about its line."""


def prompt_comparison_figure(result: Mapping[str, Any], path: Path, names: Mapping[str, str]) -> None:
    """Draw the arms of a `prompt-compare.json`, called by `names`, as PNG; without quality their errors alone."""
    rows, measured = result["arms"], result["quality"] is not None
    with canvas(path, ROW * len(rows) + 1.3, width=8.0 if measured else 5.2) as figure:
        panels = figure.subplots(1, 2 if measured else 1, sharey=True, squeeze=False)[0]
        _errors(panels[0], result, rows)
        if measured:
            pair_of_numbers(panels[1], [r["quality"] for r in rows], {k: k for k in ("precision", "recall")})
            panels[1].set_xlabel("precision and recall")
        labels = [f"{names[r['arm']]}\n{r['cost']['evaluations_per_kept']:.0f} NFE" for r in rows]
        a_line_each(panels, labels)


def _errors(axes: Axes, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Largest |share - target| of each neutral prompt, their mean, and what it would be were the target met."""
    for y, row in enumerate(rows):
        off = prompts_off(result, row)
        places = [y + SPREAD * (2 * k / max(len(off) - 1, 1) - 1) for k in range(len(off))]
        axes.plot(off, places, linestyle="none", marker="o", color="0.7", markersize=3)
        found = row["summary"]["neutral"]["metrics"]["off"]
        axes.plot([found["value"]], [y], linestyle="none", marker="s", color=AFTER, markersize=7)
        axes.plot([found["were_the_target_met"]] * 2, [y - 0.34, y + 0.34], color=TARGET, linewidth=1.4)
    axes.set_xlim(left=-0.01)
    axes.set_xlabel("off target, |share − target|")
    known = [
        Line2D([], [], linestyle="none", marker="o", color="0.7", markersize=3, label="a prompt"),
        Line2D([], [], linestyle="none", marker="s", color=AFTER, label="mean"),
        Line2D([], [], color=TARGET, linewidth=1.4, label="were it met"),
    ]
    axes.legend(handles=known, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, columnspacing=1)


def prompts_off(result: Mapping[str, Any], row: Mapping[str, Any]) -> list[float]:
    """How far an arm's neutral prompts are off their targets, in the order of the file."""
    return [
        max(abs(s - t) for s, t in zip(r["share"], result["targets"][r["prompt"]], strict=True))
        for r in row["prompts"]
        if result["kinds"][r["prompt"]] == "neutral"
    ]
