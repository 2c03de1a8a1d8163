"""The dot plot of a retargeting over prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairsims.report.figures import AFTER, BEFORE, LOOKS, TARGET, canvas, short_name
from fairsims.report.numbers import fixed

ROW = 0.26
"""Height of a prompt in the figure, in inches."""
MOST = 60
"""Prompts in it: those in between are left out of more."""


def dot_plot(result: Mapping[str, Any], path: Path) -> None:
    """Write each neutral and held-out prompt's share before and after, with intervals and target, as PNG."""
    k, rows = _shown(result), _rows(result)
    with canvas(path, 1.2 + ROW * len(rows)) as figure:
        axes = figure.subplots()
        for y, r in enumerate(rows):
            axes.plot([r["target"][k]] * 2, [y - 0.4, y + 0.4], color=TARGET, linewidth=1)
            for side, color in (("before", BEFORE), ("after", AFTER)):
                s = r[side]
                ends = [[max(0.0, s["share"][k] - s["low"][k])], [max(0.0, s["high"][k] - s["share"][k])]]
                axes.errorbar(
                    [s["share"][k]], [y], xerr=ends, linestyle="none", linewidth=1, label=side, **LOOKS[color]
                )
        names = [short_name(r["prompt"], 30) + ("" if r["kind"] == "neutral" else " (held out)") for r in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"share of {short_name(result['classes'][k])}: before ○, after ■, target |")


def prompt_alt(result: Mapping[str, Any]) -> str:
    """Every number of the dot plot."""
    k = _shown(result)
    said = (
        f"{r['prompt']}: {fixed(r['before']['share'][k])} to {fixed(r['after']['share'][k])}, "
        f"target {fixed(r['target'][k])}"
        for r in _rows(result)
    )
    return f"Share of {result['classes'][k]} before and after, by prompt. {'; '.join(said)}."


def _shown(result: Mapping[str, Any]) -> int:
    """Of two classes the second, whose share says the other's."""
    return 1 if len(result["classes"]) > 1 else 0


def _rows(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """From the least share before to the largest, held-out prompts above the others; of many every second or so."""
    k = _shown(result)
    rows = [r for r in result["prompts"] if r["target"] is not None]
    rows.sort(key=lambda r: (r["kind"] != "neutral", r["before"]["share"][k]))
    step = -(-len(rows) // MOST)
    return rows[::step]
