"""A comparison's page in Markdown: the table and the figure, whose numbers are all in its alternative text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairsims.files import write_text
from fairsims.report.comparison_figure import comparison_figure
from fairsims.report.numbers import NOTHING, duration, fixed, number, percent, points, short_percent

NAMES = {
    "base": "base", "resampled": "base, resampled", "finetuned": "base, fine-tuned", "merged": "SIMS, merged",
    "guided": "SIMS, guided",
}  # fmt: skip
"""Arm to how a reader calls it."""
Row = Mapping[str, Any]


def write_comparison(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `compare.png` and `compare.md` of a comparison's result."""
    comparison_figure(result, folder / "compare.png", {row["arm"]: NAMES[row["arm"]] for row in result["arms"]})
    title = f"# {result['attribute']}: {_target(result)}, in five ways at equal evaluations per kept image"
    figure = f"![{comparison_alt(result)}](compare.png)"
    parts = [title, comparison_table(result), comparison_notes(result), figure]
    write_text(folder / "compare.md", "\n\n".join(parts) + "\n")


def comparison_table(result: Mapping[str, Any]) -> str:
    """A Markdown table, a row an arm."""
    rows = comparison_rows(result)
    lines = [list(rows[0]), ["---", *["---:"] * (len(rows[0]) - 1)]]
    lines += [list(row.values()) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comparison_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Column to text, a row an arm."""
    return [_cells(row) for row in result["arms"]]


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
    for row in result["arms"]:
        text = f"{NAMES[row['arm']]}: {row['worst']} off target by {_off(row)} points"
        if "fd_target" in row:
            text += f", FD {number(row['fd_target'])} to the target mix and {number(row['fd_reference'])} as given"
            text += f", precision {fixed(row['precision'])}, recall {fixed(row['recall'])}"
        sentences.append(text)
    return f"Error of the share with 95% intervals, and quality, by arm. {'; '.join(sentences)}."


def _cells(row: Row) -> dict[str, str]:
    found = {"arm": NAMES[row["arm"]], "share": f"{row['worst']} {percent(row['share.' + row['worst']])}",
             "off target, points [95%]": _off(row)}  # fmt: skip
    if "fd_target" in row:
        found |= {"FD, target mix": number(row["fd_target"]), "FD, as given": number(row["fd_reference"])}
        found |= {"precision": fixed(row["precision"]), "recall": fixed(row["recall"])}
    training = f"{row['training_kimg']:g} kimg, {duration(row['training_seconds'])}"
    return found | {
        "steps": f"{row['steps']}",
        "NFE an image": f"{row['evaluations_per_image']:g}",
        "images per kept": fixed(row["images_per_kept"]),
        "NFE per kept": fixed(row["evaluations_per_kept"], 1),
        "training": training if row["training_kimg"] else NOTHING,
        "calibration": f"{row['calibration_images']:,} images" if row["calibration_images"] else NOTHING,
        "strength": NOTHING if row["strength"] is None else fixed(row["strength"]),
    }


def _off(row: Row) -> str:
    return f"{points(row['error'])} [{points(row['error_low'])}, {points(row['error_high'])}]"


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
