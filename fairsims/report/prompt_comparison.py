"""A comparison over prompts as one document: for the terminal, `report.md` and `report.html` in its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fairsims.report.document import (
    Block,
    Cell,
    Column,
    Document,
    Figure,
    Row,
    Table,
    Text,
    cell,
    row,
    soft,
    table,
)
from fairsims.report.numbers import NOTHING, duration, fixed, number, points
from fairsims.report.prompt_comparison_figure import prompt_comparison_figure, prompts_off
from fairsims.report.prompt_parts import (
    Found,
    Part,
    agreed_column,
    agreed_digits,
    calibration_table,
    feasibility_table,
    named,
    prompt_page,
    reproduction,
    share_cell,
    shown_class,
    write_page,
)
from fairsims.report.terminal import as_text

FIGURE, RESULT = "prompt-compare.png", "prompt-compare.json"
ARMS = {
    "base": "base",
    "words": "words added",
    "resampled": "resampled",
    "positive": "positive",
    "negative": "negative",
    "negative-positive": "both",
    "control": "control",
    "unconditional": "branch alone",
}
"""Arm to how a reader calls it."""
MEANT = {
    "words": "the words of the explicit prompts in each image's prompt, drawn at random in the target's shares",
    "resampled": "the base's images kept at rates of each prompt's own, by what the classifier calls them",
    "positive": "a LoRA of images in the target's mix",
    "negative": "away from a LoRA of each prompt's complement",
    "negative-positive": "away from the one and towards the other, two LoRAs side by side at one strength",
    "control": "away from a LoRA of the pool as it is, at the strength of negative",
    "unconditional": "the LoRA of negative, towards it, in guidance's unconditional branch alone",
}
"""What an arm does."""


def prompt_comparison_text(result: Found) -> str:
    """The result for the terminal."""
    parts = (_ends, _stayed, _costs, _left_out)
    return as_text([*(block for part in parts for block in part(result)), Text(text=_notes(result))])


def write_prompt_comparison(folder: Path, result: Found) -> None:
    """Write `prompt-compare.png`, `report.md` and `report.html` of a finished comparison."""
    prompt_comparison_figure(result, folder / FIGURE, ARMS)
    write_page(prompt_comparison_document(folder, result), folder)


def prompt_comparison_headline(result: Found) -> str:
    """What was compared and which arm came nearest."""
    nearest = min(result["arms"], key=_off)
    return (
        f"{result['attribute']} over {nearest['summary']['neutral']['prompts']} prompts; of {len(result['arms'])} ways "
        f"the nearest is {ARMS[nearest['arm']]}, {fixed(_off(nearest), 3)} off target on average, "
        f"{fixed(_floor(nearest), 3)} were it met"
    )


def prompt_comparison_document(folder: Path, result: Found) -> Document:
    """The report of a comparison in `folder`."""
    chart = Figure(path=folder / FIGURE, alt=prompt_comparison_alt(result))
    parts: list[Part] = [
        ("ends", "Where the arms end up", [chart, *_ends(result), *_left_out(result)]),
        ("stayed", "What was to stay", _stayed(result)),
        ("cost", "Cost", _costs(result)),
        (
            "shares",
            "Shares by prompt",
            [_prompts(result, kind) for kind in ("neutral", "held-out") if _has(result, kind)],
        ),
        ("before", "Before training", [feasibility_table(result["classes"], result["feasibility"])]),
        ("calibration", "Calibration", [_calibration(arm) for arm in result["arms"] if arm["calibration"]]),
        ("reproduction", "Reproduction", _reproduction(result)),
    ]
    return prompt_page(
        folder,
        result,
        parts,
        title=f"{result['attribute']} by prompt, {len(result['arms'])} ways",
        line=prompt_comparison_headline(result),
        verdict=_best(result),
        summary=_notes(result),
        warnings=_warnings(result),
        source=RESULT,
    )


def prompt_comparison_alt(result: Found) -> str:
    """Every number of the figure."""
    sentences = []
    for arm in result["arms"]:
        each = ", ".join(fixed(off) for off in prompts_off(result, arm))
        text = f"{ARMS[arm['arm']]}: mean {fixed(_off(arm), 3)}, were it met {fixed(_floor(arm), 3)}, prompts {each}"
        if arm["quality"]:
            text += f"; precision {fixed(arm['quality']['precision'])}, recall {fixed(arm['quality']['recall'])}"
        sentences.append(f"{text}; {arm['cost']['evaluations_per_kept']:.0f} network evaluations per kept image")
    return f"How far prompts are off their targets, by arm. {'. '.join(sentences)}."


def _ends(result: Found) -> list[Block]:
    """How far the arms' shares are off."""
    columns = (
        "way",
        "strength",
        Column(title="off target", note="mean; were it met"),
        Column(title="met", note=f"within {result['tolerance']:g}; missed"),
        Column(title="worst gap", note="95%, of all at once"),
        Column(title="worst prompt", name=True),
    )

    def line(arm: Found) -> Row:
        neutral = arm["summary"]["neutral"]
        worst = neutral["worst"]
        return row(
            ARMS[arm["arm"]],
            NOTHING if arm["strength"] is None else fixed(arm["strength"]),
            _with_floor(neutral),
            cell(f"{neutral['met']} of {neutral['prompts']}", f"{neutral['missed']}"),
            cell(fixed(worst["gap"]), f"[{fixed(worst['low'])}, {fixed(worst['high'])}]"),
            named(worst["prompt"]),
        )

    said = [f"{ARMS[arm['arm']]}: {arm['note']}." for arm in result["arms"] if arm["note"]]
    return [
        table(columns, map(line, result["arms"]), caption="How far the neutral prompts are off"),
        *(soft(text) for text in said),
    ]


def _stayed(result: Found) -> list[Block]:
    """What was to stay, and quality."""
    first = result["arms"][0]
    kept, agreed, q = first["kept"] is not None, result["agreement_by"] is not None, result["quality"]
    held = _has(result, "held-out")
    columns: list[str | Column] = ["way"]
    columns += [Column(title="held out", note="off; were it met")] if held else []
    columns += [Column(title="explicit kept", note="change, points, 95%")] if kept else []
    columns += [agreed_column(result, "neutral")] if agreed else []
    if q:
        columns += [Column(title="FD", note="target mix"), Column(title="FD", note="as drawn"), "precision", "recall"]
    blocks: list[Block] = []
    if len(columns) > 1:

        def line(arm: Found) -> Row:
            cells: list[str | Cell] = [_with_floor(arm["summary"]["held-out"])] if held else []
            cells += [_kept(arm["kept"])] if kept else []
            cells += [fixed((arm["agreement"] or {}).get("neutral"), agreed_digits(result))] if agreed else []
            if q:
                cells += [number(arm["quality"][k]) for k in ("fd_target", "fd_reference")]
                cells += [fixed(arm["quality"][k]) for k in ("precision", "recall")]
            return row(ARMS[arm["arm"]], *cells)

        blocks.append(table(columns, map(line, result["arms"]), caption="What was to stay, and quality"))
    if agreed:
        blocks.append(soft(f"Whether images of neutral prompts show what these name: by {result['agreement_by']}."))
    if not q:
        return [*blocks, soft("The classifier has no features: quality was not measured.")]
    said = (
        f"{q['metric']} of the neutral prompts' images to the {q['reference']['n']:,} of the base's own pool, from "
        "other seeds, re-weighted prompt by prompt to the targets and as drawn; precision and recall among them, "
        f"{q['n']:,} images a side. What moves the shares and nothing else comes nearest to the target mix; it does "
        "not say how good the base is."
    )
    return [*blocks, soft(said)]


def _costs(result: Found) -> list[Block]:
    """What a kept image costs: only resampling makes more images than it keeps."""
    own = result["arms"][0]["cost"]["evaluations_per_kept"]

    def line(arm: Found) -> Row:
        cost = arm["cost"]
        return row(
            ARMS[arm["arm"]],
            f"{cost['evaluations_per_image']:g}",
            fixed(cost["images_per_kept"]),
            fixed(cost["evaluations_per_kept"], 1),
            f"{cost['evaluations_per_kept'] / own:.2f}×",
            f"{cost['trained_kimg']:g} kimg" if cost["trained_kimg"] else NOTHING,
            f"{cost['calibration_images']:,} images" if cost["calibration_images"] else NOTHING,
        )

    columns = (
        "way",
        Column(title="NFE", note="an image"),
        Column(title="images", note="per kept"),
        Column(title="NFE", note="per kept"),
        Column(title="NFE", note="of the base's"),
        "training",
        "calibration",
    )
    return [
        table(columns, map(line, result["arms"]), caption="What a kept image costs"),
        soft("NFE: network evaluations. All ways but resampling cost what the base does; the pool is made for all."),
    ]


def _prompts(result: Found, kind: str) -> Table:
    """Share of each prompt in every arm."""
    shown = shown_class(result["classes"])
    texts = [text for text, of in result["kinds"].items() if of == kind]
    shares = {arm["arm"]: {r["prompt"]: r for r in arm["prompts"]} for arm in result["arms"]}

    return table(
        ("prompt", "target", *(ARMS[arm] for arm in shares)),
        (
            row(
                named(text),
                cell(fixed(result["targets"][text][shown])),
                *(share_cell(of[text], shown) for of in shares.values()),
            )
            for text in texts
        ),
        caption=f"Share of {result['classes'][shown]}, {kind} prompts",
    )


def _calibration(arm: Found) -> Table:
    return calibration_table(arm["calibration"], f"{ARMS[arm['arm']]}: what was tried")


def _left_out(result: Found) -> list[Block]:
    return [soft(f"Left out, {ARMS[arm]}: {why}.") for arm, why in result["left_out"].items()]


def _reproduction(result: Found) -> list[Block]:
    return reproduction(
        result,
        ("images of each prompt", ", ".join(f"{use} {n}" for use, n in result["images_of_each_prompt"].items())),
        ("time", duration(sum(result["seconds"].values()))),
    )


def _notes(result: Found) -> str:
    meant = "; ".join(f"{ARMS[arm['arm']]}: {MEANT[arm['arm']]}" for arm in result["arms"] if arm["arm"] in MEANT)
    return (
        f"{result['images_of_each_prompt']['audit']} images of each prompt in every arm, from the same seeds; shares "
        f"corrected for the classifier's errors (split {result['classifier']['split']}). "
        f"{meant[:1].upper()}{meant[1:]}."
    )


def _best(result: Found) -> str:
    nearest = min(result["arms"], key=_off)
    neutral = nearest["summary"]["neutral"]
    return (
        f"There {neutral['met']} of {neutral['prompts']} prompts are shown to be within {result['tolerance']:g} of the "
        f"target and {neutral['missed']} to be further off; the worst is {named(neutral['worst']['prompt'])}, "
        f"{fixed(neutral['worst']['gap'])} off."
    )


def _warnings(result: Found) -> Iterator[str]:
    if not _has(result, "held-out"):
        yield "No prompt was held out: whether the changes generalise was not measured."


def _has(result: Found, kind: str) -> bool:
    return kind in result["kinds"].values()


def _off(arm: Found) -> float:
    return float(arm["summary"]["neutral"]["metrics"]["off"]["value"])


def _floor(arm: Found) -> float:
    return float(arm["summary"]["neutral"]["metrics"]["off"]["were_the_target_met"])


def _with_floor(summary: Found) -> Cell:
    off = summary["metrics"]["off"]
    return cell(fixed(off["value"], 3), fixed(off["were_the_target_met"], 3))


def _kept(found: Found) -> Cell:
    change = points(found["after"] - found["before"])
    return cell(fixed(found["after"]), f"{change} [{points(found['low'])}, {points(found['high'])}]")
