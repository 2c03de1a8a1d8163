"""A comparison's tables and its page: the figure's numbers are all in its alternative text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairsims.files import write_text
from fairsims.report.comparison_figure import comparison_figure
from fairsims.report.document import Block, Column, Figure, Row, Text, cell, row, table
from fairsims.report.markdown import block_lines, plain
from fairsims.report.numbers import NOTHING, duration, fixed, number, percent, points, short_percent
from fairsims.report.terminal import as_text

NAMES = {
    "base": "base",
    "resampled": "base, resampled",
    "finetuned": "base, fine-tuned",
    "merged": "SIMS, merged",
    "guided": "SIMS, guided",
    "paired": "paired contrast",
}
"""Arm to how a reader calls it."""
Arm = Mapping[str, Any]


def write_comparison(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `compare.png` and `compare.md` of a comparison's result."""
    path = folder / "compare.png"
    comparison_figure(result, path, {row["arm"]: NAMES[row["arm"]] for row in result["arms"]})
    ways = f"in {len(result['arms'])} ways at equal evaluations per kept image"
    title = f"# {plain(result['attribute'])}: {plain(_target(result))}, {ways}"
    blocks = (*comparison_blocks(result), Figure(path=path, alt=comparison_alt(result)))
    write_text(folder / "compare.md", "\n".join([title, "", *block_lines(blocks, folder)]))


def comparison_text(result: Mapping[str, Any]) -> str:
    """A comparison for the terminal."""
    return as_text(comparison_blocks(result))


def comparison_blocks(result: Mapping[str, Any]) -> list[Block]:
    """Where the arms end up, what they cost, and what the numbers are."""
    arms = result["arms"]
    columns: list[str | Column] = ["way", "share", "off target, points"]
    if measured := result["quality"] is not None:
        columns += [Column(title="FD", note="target mix"), Column(title="FD", note="as given"), "precision", "recall"]
    costs = (
        "way",
        "steps",
        Column(title="NFE", note="an image"),
        Column(title="images", note="per kept"),
        Column(title="NFE", note="per kept"),
        "training",
        "calibration",
        "strength",
    )
    return [
        table(columns, (_end(row, measured) for row in arms), caption="Where they end up"),
        table(costs, map(_cost, arms), caption="What they cost"),
        Text(text=comparison_notes(result)),
    ]


def comparison_headline(result: Mapping[str, Any]) -> str:
    """What was compared and which arm came nearest."""
    nearest = min(result["arms"], key=lambda row: abs(row["error"]))
    return (
        f"{result['attribute']}: {_target(result)}; of {len(result['arms'])} ways the nearest is "
        f"{NAMES[nearest['arm']]}, {nearest['worst']} off target by {_off(nearest)} points"
    )


def comparison_alt(result: Mapping[str, Any]) -> str:
    """Alternative text of `comparison_figure`: every number in it."""
    sentences = []
    for arm in result["arms"]:
        text = f"{NAMES[arm['arm']]}: {arm['worst']} off target by {_off(arm)} points"
        if "fd_target" in arm:
            text += f", FD {number(arm['fd_target'])} to the target mix and {number(arm['fd_reference'])} as given"
            text += f", precision {fixed(arm['precision'])}, recall {fixed(arm['recall'])}"
        sentences.append(text)
    return f"Error of the share with 95% intervals, and quality, by arm. {'; '.join(sentences)}."


def _end(arm: Arm, measured: bool) -> Row:
    quality = []
    if measured:
        quality = [number(arm["fd_target"]), number(arm["fd_reference"]), fixed(arm["precision"]), fixed(arm["recall"])]
    off = cell(points(arm["error"]), _limits(arm))
    return row(NAMES[arm["arm"]], f"{arm['worst']} {percent(arm['share.' + arm['worst']])}", off, *quality)


def _cost(arm: Arm) -> Row:
    training = f"{arm['training_kimg']:g} kimg, {duration(arm['training_seconds'])}"
    return row(
        NAMES[arm["arm"]],
        f"{arm['steps']}",
        f"{arm['evaluations_per_image']:g}",
        fixed(arm["images_per_kept"]),
        fixed(arm["evaluations_per_kept"], 1),
        training if arm["training_kimg"] else NOTHING,
        f"{arm['calibration_images']:,} images" if arm["calibration_images"] else NOTHING,
        NOTHING if arm["strength"] is None else fixed(arm["strength"]),
    )


def _off(arm: Arm) -> str:
    return f"{points(arm['error'])} {_limits(arm)}"


def _limits(arm: Arm) -> str:
    return f"[{points(arm['error_low'])}, {points(arm['error_high'])}]"


def _target(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{c} {short_percent(t)}" for c, t in result["target"].items())


def comparison_notes(result: Mapping[str, Any]) -> str:
    """What the numbers are and how the costs were made equal."""
    first = result["arms"][0]
    text = (
        f"{first['images']:,} images of each arm on the same seeds; shares corrected for the classifier's errors "
        f"(split {result['split']}). NFE: network evaluations. Guided sets {result['evaluations_per_kept']:.1f} of "
        "them per kept image; every other arm has the sampler steps that come nearest. One auxiliary serves merged and "
        "guided; its training is counted for both."
    )
    quality = result["quality"]
    if quality is None:
        return text + " No real data was at hand to measure quality against."
    return (
        f"{text} {quality['metric']}, against {quality['reference']['name']} as given and re-weighted to the target "
        f"({quality['reference']['labels']} labels); lower is closer."
    )
