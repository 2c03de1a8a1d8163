"""A retargeting over prompts in words, tables and a figure: for the terminal and for `report.md` in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairsims.audit.prompts import METRICS
from fairsims.files import write_text
from fairsims.report.document import Block, Cell, Column, Figure, Heading, Row, Table, Text, cell, row, table
from fairsims.report.figures import canvas, short_name
from fairsims.report.markdown import block_lines, plain
from fairsims.report.terminal import as_text

KINDS = {"neutral": "Prompts that were retargeted", "held-out": "Held out: audited only"}
FIGURE = "prompts.png"
ROW = 0.26
"""Height of a prompt in the figure, in inches."""


def prompt_text(result: Mapping[str, Any]) -> str:
    """The result for the terminal."""
    return as_text(_summary(result))


def feasibility_table(classes: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """What each prompt has, needs, and what serves it: before any training."""
    shown = _shown(classes)
    return table(
        ("prompt", f"{classes[shown]}, base", "target", "least omega", "within the cap", "promised"),
        (
            row(
                _named(r["prompt"]),
                _share(r, shown),
                cell(f"{r['target'][shown]:.2f}"),
                cell("none" if r["least_omega"] is None else f"{r['least_omega']:.2f}"),
                cell("yes" if r["within_cap"] else "positive part" if r["positive"] else "no"),
                cell(f"{r['reachable'][shown]:.2f}"),
            )
            for r in rows
        ),
        caption="What the complement of each prompt can do",
    )


def write_prompt_report(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `prompts.png` and `report.md` of a finished run."""
    dot_plot(result, folder / FIGURE)
    title = f"# {plain(result['attribute'])} over {len(result['prompts'])} prompts of {plain(result['model'])}"
    blocks: list[Block] = [*_summary(result), Figure(path=folder / FIGURE, alt=_alt(result))]
    blocks += [
        Heading(text="Before training"),
        feasibility_table(result["classes"], result["feasibility"]),
        Heading(text="Calibration"),
        table(
            ("strength", "share of what has to grow", "mean off", "worst off", "worst prompt", "images"),
            (
                row(
                    f"{r['strength']:.3f}",
                    cell(f"{r['share']:.2f}", f"± {1.96 * r['se']:.2f}"),
                    cell(f"{r['mean_off']:.3f}"),
                    cell(f"{r['worst_off']:.3f}"),
                    cell(r["worst"]),
                    cell(str(r["n"])),
                )
                for r in result["calibration"]
            ),
            caption="Share of each prompt's classes that have to grow; a prompt weighs as much as it has to move",
        ),
        Heading(text="Other guidance scales"),
        table(
            ("guidance scale", "mean off target"),
            (row(f"{g['guidance_scale']:g}", cell(f"{g['metrics']['off']:.3f}")) for g in result["guidance"]),
            caption="With the strength that was calibrated at the user's scale",
        ),
    ]
    write_text(folder / "report.md", "\n".join([title, "", *block_lines(blocks, folder)]))


def dot_plot(result: Mapping[str, Any], path: Path) -> None:
    """Each neutral and held-out prompt: share before, after, with the target."""
    k = _shown(result["classes"])
    rows = [r for r in result["prompts"] if r["target"] is not None]
    rows.sort(key=lambda r: (r["kind"] != "neutral", r["before"]["share"][k]))
    with canvas(path, 1.2 + ROW * len(rows)) as figure:
        axes = figure.subplots()
        for y, r in enumerate(rows):
            target = r["target"][k]
            axes.plot([target, target], [y - 0.4, y + 0.4], color="0.4", linewidth=1)
            for side, color, marker in (("before", "0.55", "o"), ("after", "#1f6f8b", "D")):
                s = r[side]
                ends = [[max(0.0, s["share"][k] - s["low"][k])], [max(0.0, s["high"][k] - s["share"][k])]]
                axes.errorbar([s["share"][k]], [y], xerr=ends, fmt=marker, color=color, markersize=4, linewidth=1)
        names = [short_name(r["prompt"], 48) + ("" if r["kind"] == "neutral" else " (held out)") for r in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"share of {short_name(result['classes'][k])}: before ○, after ◆, target |")


def _summary(result: Mapping[str, Any]) -> list[Block]:
    classes, k = result["classes"], _shown(result["classes"])
    blocks: list[Block] = []
    for kind, caption in KINDS.items():
        rows = [r for r in result["prompts"] if r["kind"] == kind]
        if rows:
            columns = ("prompt", f"{classes[k]}, before", "after", "target")
            blocks.append(table(columns, (_prompt(r, k) for r in rows), caption=caption))
            blocks.append(_metrics(result["summary"][kind]))
            worst = result["summary"][kind]["after"]["worst"]
            blocks.append(
                Text(
                    text=f"The worst prompt after is {_named(worst['prompt'])}, {worst['gap']:.2f} off; the largest "
                    f"gap there is lies between {worst['low']:.2f} and {worst['high']:.2f} (95%, all prompts at once)."
                )
            )
    if result["kept"] is not None:
        kept = result["kept"]
        text = "Explicit prompts show the class that they name in {before:.2f} of images before and {after:.2f} after."
        blocks.append(Text(text=text.format(**kept)))
    unrelated = [r for r in result["prompts"] if r["kind"] == "unrelated"]
    if unrelated:
        moved = sum(r["grey_levels_moved"] for r in unrelated) / len(unrelated)
        people = [r for r in result["prompts"] if r["kind"] == "neutral"]
        of_people = sum(r["grey_levels_moved"] for r in people) / len(people)
        blocks.append(
            Text(
                text=f"Images of unrelated prompts differ from those of the same seed before by {moved:.1f} grey "
                f"levels on average, those of retargeted prompts by {of_people:.1f}."
            )
        )
    s, scale = result["sampler"], {f"{g['guidance_scale']:g}": g["metrics"]["off"] for g in result["guidance"]}
    at = " and ".join(f"{off:.3f} at {g}" for g, off in scale.items())
    blocks.append(
        Text(
            text=f"Strength {result['strength']:.3f}, {result['mode']}, guidance scale {s['guidance']:g}, "
            f"{s['steps']} steps of {s['scheduler']}; the unconditional branch is {s['unconditional']}. "
            "At other guidance scales the mean "
            f"distance to the target is {at}."
        )
    )
    return blocks


def _metrics(summary: Mapping[str, Any]) -> Table:
    def value(side: str, name: str) -> Cell:
        return cell(f"{summary[side]['metrics'][name]['value']:.3f}")

    return table(
        ("metric", "before", "after", Column(title="were the target met")),
        (
            row(
                METRICS[name],
                value("before", name),
                value("after", name),
                cell(f"{summary['after']['metrics'][name]['were_the_target_met']:.3f}"),
            )
            for name in METRICS
        ),
    )


def _prompt(r: Mapping[str, Any], k: int) -> Row:
    return row(_named(r["prompt"]), _share(r["before"], k), _share(r["after"], k), cell(f"{r['target'][k]:.2f}"))


def _share(r: Mapping[str, Any], k: int) -> Cell:
    return cell(f"{r['share'][k]:.2f}", f"({r['low'][k]:.2f}–{r['high'][k]:.2f})")


def _shown(classes: Sequence[str]) -> int:
    """The class that tables and figure show: of two the second, whose share says the other's."""
    return 1 if len(classes) > 1 else 0


def _named(prompt: str) -> str:
    return prompt or "(empty prompt)"


def _alt(result: Mapping[str, Any]) -> str:
    return f"Dot plot: share of {result['classes'][_shown(result['classes'])]} before and after, by prompt"
