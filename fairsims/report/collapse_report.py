"""A self-consuming loop in words: the terminal's table and the Markdown section with its figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairsims.files import read_json, write_text
from fairsims.report.collapse_figures import NAMES, headline_name, minority
from fairsims.report.document import Cell, Column, Table, Text, cell, row, table
from fairsims.report.markdown import block_lines
from fairsims.report.numbers import NOTHING, moment
from fairsims.report.terminal import as_text

LEVEL_NOTES = {"augmentation": "synthetic per real", "fresh": "α", "synthetic": "synthetic only"}
"""What a level is, by loop."""


def collapse_table(result: Mapping[str, Any], measure: str | None = None) -> Table:
    """A row per cell: a measure in the first and the last generation; of the headline's also growth and difference."""
    settings = result["settings"]
    last, main = settings["generations"], measure in (None, result["headline"])
    columns = [
        Column(title="method"),
        Column(title="level", note=LEVEL_NOTES[settings["loop"]]),
        Column(title="synthetic", note="share", wide_only=True),
        Column(title="generation 1"),
        Column(title=f"generation {last}"),
    ]
    rows = []
    for c in result["cells"]:
        values = c["measures"][measure or result["headline"]]
        cells: list[str | Cell] = [f"{c['level']:g}", f"{c['share']:.0%}", _estimate(values[0]), _estimate(values[-1])]
        if main:
            growth = c["change"]["growth"]
            cells += [NOTHING if growth is None else f"×{growth:.2f}", _estimate(c["change"]["difference"])]
        rows.append(row(NAMES.get(c["method"], c["method"]), *cells))
    if main:
        columns += [Column(title="growth"), Column(title="difference")]
    what = headline_name(result) if main else str(measure).replace("_", " ")
    caption = f"{what[:1].upper()}{what[1:]}, mean over {settings['repeats']} repeats with 95% intervals"
    return table(columns, rows, caption=caption + ("; differences are paired by repeat" if main else ""))


def collapse_text(result: Mapping[str, Any]) -> str:
    """The table and the thresholds for the terminal."""
    return as_text([collapse_table(result), *(Text(text=line) for line in threshold_lines(result))])


def loops_headline(result: Mapping[str, Any]) -> str:
    """What was run, in a line."""
    settings, cells = result["settings"], len(result["cells"])
    return (
        f"{settings['setting']}: {settings['loop']} loop, {cells} {'cell' if cells == 1 else 'cells'} of "
        f"{settings['generations']} generations, by {headline_name(result)}"
    )


def threshold_lines(result: Mapping[str, Any]) -> list[str]:
    """Each threshold as a sentence."""
    if result["threshold"] is None:
        return []
    lines, tolerance = [], result["threshold"]["tolerance"]
    for found in result["threshold"]["found"]:
        against = (
            f"its own generation 1 by {tolerance:.0%}"
            if found["against"] == "own"
            else "standard training's generation 1"
        )
        name = {"standard": "Standard training"}.get(found["method"], NAMES[found["method"]])
        if found["share"] is None:
            lines.append(f"{name} exceeds {against} at no synthetic share that was tried.")
            continue
        low, high = (f"{found[k]:.0%}" if found[k] is not None else "beyond" for k in ("low", "high"))
        lines.append(
            f"{name} exceeds {against} once {found['share']:.0%} [{low}, {high}] or more of the data is synthetic, "
            f"{found['ratio']:.2f} synthetic per real."
        )
    if result["settings"]["setting"] == "gaussian":
        lines.append(f"Published for a 2-D Gaussian with SIMS: {result['threshold']['published_gaussian']:.0%}.")
    return lines


def estimate(value: Mapping[str, Any]) -> str:
    """`0.143 [0.140, 0.147]`"""
    if value["low"] is None:
        return f"{value['mean']:.3g}"
    return f"{value['mean']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"


def _estimate(value: Mapping[str, Any]) -> Cell:
    text, _, limits = estimate(value).partition(" ")
    return cell(text, limits)


def write_collapse_report(folder: Path) -> Path:
    """Write `report.md` beside the figures of a finished run; returns its path."""
    result = read_json(folder / "collapse.json")
    path = folder / "report.md"
    write_text(path, collapse_markdown(result, [p.name for p in sorted(folder.glob("*.png"))]))
    return path


def collapse_markdown(result: Mapping[str, Any], figures: list[str]) -> str:
    """The section: what was run, the table, thresholds, bounds, shares, figures."""
    settings, machine = result["settings"], result["machine"]
    last = settings["generations"]
    lines = [
        "## Self-consuming loop",
        "",
        f"`{result['command']}`" if result["command"] else "",
        "",
        f"Setting {settings['setting']}, loop {settings['loop']}, {last} generations, {settings['repeats']} repeats, "
        f"{result['n']} real points in generation 1; SIMS with ω = {settings['omega']:g} and a budget of "
        f"{settings['budget']:g}. {moment(result['created'])}, {machine['cpus']} CPUs"
        + (f", {machine['gpu']}" if machine["gpu"] else "")
        + f", {result['seconds']:g} s.",
        "",
        *block_lines([collapse_table(result)], Path()),
    ]
    lines += [f"- {line}" for line in threshold_lines(result)]
    lines += _share_lines(result) + _bound_lines(result)
    return "\n".join([*lines, "", *(f"![{name.removesuffix('.png')}]({name})" for name in figures), ""])


def _share_lines(result: Mapping[str, Any]) -> list[str]:
    name = minority(result)
    if name is None:
        return []
    return [
        f"- share of {name.removeprefix('share.')}, {NAMES[c['method']]} at {c['level']:g}: "
        f"{estimate(c['measures'][name][0])} in generation 1, {estimate(c['measures'][name][-1])} in the last"
        for c in result["cells"]
    ]


def _bound_lines(result: Mapping[str, Any]) -> list[str]:
    """How often each bound holds, where it applies."""
    bounds, lines = result["theory"]["bounds"], []
    for name in ("kl_upper", "chi2_lower", "chi2_upper") if bounds else ():
        judged = [b["holds"][name] for b in bounds if b["holds"][name] is not None]
        lines.append(
            f"- bound {name}: holds in {sum(judged)} of the {len(judged)} generations that it applies to "
            f"({len(bounds)} in all)"
        )
    return lines
