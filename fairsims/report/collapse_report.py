"""A self-consuming loop in words: the terminal's table and the Markdown section with its figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairsims.files import read_json, write_text
from fairsims.report.collapse_figures import LEVELS, NAMES, headline_name, minority
from fairsims.report.numbers import moment


def collapse_table(result: Mapping[str, Any]) -> str:
    """A line per cell: drift in the first and the last generation, growth, and the paired difference."""
    last = result["settings"]["generations"]
    lines = [f"{headline_name(result)}, mean over {result['settings']['repeats']} repeats [95% interval]"]
    lines.append(f"{'method':<10}{'level':>8}{'share':>7}{'gen 1':>26}{f'gen {last}':>26}{'growth':>8}  difference")
    for cell in result["cells"]:
        change = cell["change"]
        growth = "-" if change["growth"] is None else f"x{change['growth']:.2f}"
        lines.append(
            f"{NAMES[cell['method']]:<10}{cell['level']:>8g}{cell['share']:>7.0%}{estimate(change['first']):>26}"
            f"{estimate(change['last']):>26}{growth:>8}  {estimate(change['difference'])}"
        )
    return "\n".join([*lines, *threshold_lines(result)])


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
        name = NAMES[found["method"]]
        if found["share"] is None:
            lines.append(f"{name} exceeds {against} at no synthetic share tried")
            continue
        low, high = (f"{found[k]:.0%}" if found[k] is not None else "beyond" for k in ("low", "high"))
        lines.append(
            f"{name} exceeds {against} from a synthetic share of {found['share']:.0%} on [{low}, {high}]: "
            f"{found['ratio']:.2f} synthetic per real"
        )
    if result["settings"]["setting"] == "gaussian":
        lines.append(f"published for a 2-D Gaussian (SIMS): {result['threshold']['published_gaussian']:.0%}")
    return lines


def estimate(value: Mapping[str, Any]) -> str:
    """`0.143 [0.140, 0.147]`"""
    if value["low"] is None:
        return f"{value['mean']:.3g}"
    return f"{value['mean']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"


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
        f"| method | level | {headline_name(result)}, generation 1 | generation {last} | growth | difference |",
        "|---|---|---|---|---|---|",
    ]
    for cell in result["cells"]:
        change, level = cell["change"], LEVELS[settings["loop"]].format(cell["level"])
        growth = "-" if change["growth"] is None else f"{change['growth']:.2f}"
        lines.append(
            f"| {NAMES[cell['method']]} | {level} | {estimate(change['first'])} | {estimate(change['last'])} | "
            f"{growth} | {estimate(change['difference'])} |"
        )
    lines += ["", "Means over repeats with 95% intervals; differences are paired by repeat.", ""]
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
