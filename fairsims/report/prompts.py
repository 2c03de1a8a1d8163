"""A retargeting over prompts as one document: for the terminal, `report.md` and `report.html` in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fairsims.audit.prompts import METRICS
from fairsims.pools import Pool
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
from fairsims.report.grids import image_grid
from fairsims.report.numbers import duration, fixed, points
from fairsims.report.prompt_figure import dot_plot, prompt_alt
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
from fairsims.report.publish import grid_mark
from fairsims.report.terminal import as_text

RESULT = "prompts.json"
KINDS = {"neutral": "Retargeted prompts", "held-out": "Prompts that were held out: audited only"}
FIGURE = "prompts.png"
PICTURED, EACH = 12, 8
"""Prompts whose pictures are shown, and how many of each on each side."""
NAMES = {
    "off": "off target, mean over prompts",
    "bias": "bias(P)",
    "parity_gap": "parity gap",
    "kl": "KL from the target",
    "discrepancy": "L2 from the target",
}


def prompt_text(result: Found) -> str:
    """The result for the terminal."""
    return as_text([*_shares(result), *_stayed(result), *_others(result), *_guidance(result), Text(text=_how(result))])


def write_prompt_report(folder: Path, result: Found) -> None:
    """Write `prompts.png`, rows of pictures, `report.md` and `report.html` of a finished run."""
    dot_plot(result, folder / FIGURE)
    pictures = _pictures(folder, result)
    write_page(prompt_document(folder, result, pictures), folder)


def prompts_headline(result: Found) -> str:
    """What was retargeted and how near it came."""
    neutral = result["summary"]["neutral"]
    off = " to ".join(fixed(neutral[side]["metrics"]["off"]["value"]) for side in ("before", "after"))
    floor = fixed(neutral["after"]["metrics"]["off"]["were_the_target_met"])
    of = f"{result['attribute']} over {neutral['after']['prompts']} prompts"
    return f"{of}: off target from {off} on average ({floor} were it met)"


def prompt_document(folder: Path, result: Found, pictures: Sequence[Block] = ()) -> Document:
    """The report of a run in `folder`."""
    chart = Figure(path=folder / FIGURE, alt=prompt_alt(result))
    parts: list[Part] = [
        ("shares", "Shares by prompt", [chart, *_shares(result)]),
        ("stayed", "What was to stay", _stayed(result)),
        ("others", "Other attributes", _others(result)),
        ("pictures", "Pictures", list(pictures)),
        ("before", "Before training", [feasibility_table(result["classes"], result["feasibility"])]),
        ("calibration", "Calibration", _calibration(result)),
        ("guidance", "Other guidance scales", _guidance(result)),
        ("cost", "Cost and reproduction", _reproduction(result)),
    ]
    return prompt_page(
        folder,
        result,
        parts,
        title=f"{result['attribute']} by prompt",
        line=prompts_headline(result),
        verdict=_verdict(result, "neutral"),
        summary=_how(result),
        warnings=_warnings(result),
        source=RESULT,
    )


def _shares(result: Found) -> list[Block]:
    """Each prompt before and after with its target, and peers' metrics beside what they would be were it met."""
    blocks: list[Block] = []
    for kind, caption in KINDS.items():
        rows = [r for r in result["prompts"] if r["kind"] == kind]
        if not rows:
            continue
        blocks += [
            _prompts(result, rows, caption),
            Text(text=_verdict(result, kind)),
            _metrics(result["summary"][kind]),
        ]
        pooled = result["summary"][kind]["after"]["pooled"]
        of_each = ", ".join(
            f"{c} {fixed(s)} [{fixed(a)}, {fixed(b)}]"
            for c, s, a, b in zip(result["classes"], pooled["share"], pooled["low"], pooled["high"], strict=True)
        )
        blocks.append(soft(f"All of them pooled, after: {of_each}. Opposite prompts cancel there."))
    return blocks


def _prompts(result: Found, rows: Sequence[Found], caption: str) -> Table:
    classes = result["classes"]
    apart = [k for k, c in enumerate(classes) if c == "undetermined"]
    shown = (
        [shown_class(classes)] if len(classes) - len(apart) == 2 else [k for k in range(len(classes)) if k not in apart]
    )
    columns: list[str | Column] = ["prompt"]
    for k in shown:
        columns += [Column(title=classes[k], note="before"), Column(title=classes[k], note="after"), "target"]
    columns += ["undetermined" for _ in apart]
    agreed = any("agreement" in r for r in rows)
    columns += [agreed_column(result, "before → after")] if agreed else []

    def line(r: Found) -> Row:
        cells = [
            c
            for k in shown
            for c in (share_cell(r["before"], k), share_cell(r["after"], k), cell(fixed(r["target"][k])))
        ]
        cells += [cell(f"{fixed(r['before']['share'][k])} → {fixed(r['after']['share'][k])}") for k in apart]
        cells += [cell(_two(r.get("agreement"), agreed_digits(result)))] if agreed else []
        return row(named(r["prompt"]), *cells)

    return table(columns, map(line, rows), caption=caption)


def _verdict(result: Found, kind: str) -> str:
    after = result["summary"][kind]["after"]
    worst = after["worst"]
    return (
        f"Of {after['prompts']} prompts {after['met']} are shown to be within {result['tolerance']:g} of the target "
        f"and {after['missed']} to be further off, by intervals that hold for all at once (95%); of the others these "
        f"images do not tell. The worst is {named(worst['prompt'])}, {fixed(worst['gap'])} off; the largest gap there "
        f"is lies between {fixed(worst['low'])} and {fixed(worst['high'])}."
    )


def _metrics(summary: Found) -> Table:
    def value(side: str, name: str) -> Cell:
        return cell(f"{summary[side]['metrics'][name]['value']:.3f}")

    return table(
        ("metric", "before", "after", "were the target met"),
        (
            row(
                NAMES[name],
                value("before", name),
                value("after", name),
                cell(f"{summary['after']['metrics'][name]['were_the_target_met']:.3f}"),
            )
            for name in METRICS
        ),
        caption="So few images of each prompt scatter: the last column is what perfect shares would read",
    )


def _stayed(result: Found) -> list[Block]:
    """Explicit prompts, unrelated prompts, images of the same seed."""
    blocks: list[Block] = []
    if result["kept"] is not None:
        by_class = {f"naming {c}": r for c, r in result["kept"]["by_class"].items()}
        blocks.append(
            table(
                ("explicit prompts", "before", "after", Column(title="change", note="points, 95%")),
                (
                    row(
                        name,
                        fixed(r["before"]),
                        fixed(r["after"]),
                        cell(points(r["after"] - r["before"]), f"[{points(r['low'])}, {points(r['high'])}]"),
                    )
                    for name, r in ({"all": result["kept"]} | by_class).items()
                ),
                caption="Share of images that show the class that the prompt names",
            )
        )
    kinds = list(dict.fromkeys(r["kind"] for r in result["prompts"]))
    columns: list[str | Column] = ["prompts", Column(title="moved", note="grey levels"), "same class called"]
    more = [k for k in ("similarity",) if all(k in r for r in result["prompts"])]
    columns += [Column(title="similarity", note="classifier's features") for _ in more]
    agreed = any("agreement" in r for r in result["prompts"])
    columns += [agreed_column(result, "before → after")] if agreed else []

    def line(kind: str) -> Row:
        rows = [r for r in result["prompts"] if r["kind"] == kind]
        cells = [f"{_mean(rows, 'grey_levels_moved'):.1f}", fixed(_mean(rows, "same_call"))]
        cells += [fixed(_mean(rows, k), 3) for k in more]
        judged = [r["agreement"] for r in rows if "agreement" in r]
        if agreed:
            means = {s: _mean(judged, s) for s in ("before", "after")} if judged else None
            cells.append(_two(means, agreed_digits(result)))
        return row(kind, *cells)

    blocks.append(table(columns, map(line, kinds), caption="Images of the same seed, before beside after"))
    if not any(r["kind"] == "unrelated" for r in result["prompts"]):
        blocks.append(soft("The prompts name none that have to stay as they are (unrelated): that was not measured."))
    return blocks


def _others(result: Found) -> list[Block]:
    blocks: list[Block] = []
    for other in result["others"]:
        # Earlier versions called it held.
        asked = other.get("preserved", other.get("held"))
        balanced = ", which the sets were balanced for" if asked else ""
        blocks.append(
            table(
                (other["attribute"], "before", "after", Column(title="change", note="points, 95%")),
                (
                    row(
                        r["class"],
                        fixed(r["before"]),
                        fixed(r["after"]),
                        cell(points(r["change"]), f"[{points(r['low'])}, {points(r['high'])}]"),
                    )
                    for r in other["classes"]
                ),
                caption=f"{other['attribute']}{balanced}, over the retargeted prompts",
            )
        )
        worst = other["worst"]
        moved = f"It moved most for {named(worst['prompt'])}: {worst['class']} by {points(worst['change'])} points."
        blocks.append(Text(text=moved))
        blocks.append(
            table(
                (f"{result['attribute']} & {other['attribute']}", "before", "after"),
                (row(r["cell"], *(_ranged(r[side]) for side in ("before", "after"))) for r in other["joint"]),
                caption=f"Joint cells of {result['attribute']} and {other['attribute']}",
                folded="Joint cells",
            )
        )
    return blocks


def _calibration(result: Found) -> list[Block]:
    caption = "Share of each prompt's classes that have to grow; a prompt weighs as much as it has to move"
    short = "The target lies beyond the cap: the strength is the least that does as much as any."
    return [
        *_rounds(result),
        calibration_table(result["calibration"], caption),
        *([Text(text=short)] if result["at_cap"] else []),
    ]


def _rounds(result: Found) -> list[Block]:
    """What each round came to, where there was more than one."""
    rounds = result.get("rounds", ())
    if len(rounds) < 2:
        return []
    found = table(
        ("round", "strength", "expected off, mean over prompts"),
        (row(str(r["round"]), cell(fixed(r["strength"], 3)), cell(fixed(r["expected_off"], 3))) for r in rounds),
        caption=f"Rounds: each asks for more where prompts lagged behind; round {result['round']} is used",
    )
    return [found]


def _guidance(result: Found) -> list[Block]:
    if not result["guidance"]:
        return []
    own = result["sampler"]["guidance"]
    return [
        table(
            ("guidance scale", "off target, mean", "bias(P)", "KL from the target"),
            (
                row(
                    f"{g['guidance_scale']:g}",
                    *(f"{g['metrics'][name]:.3f}" for name in ("off", "bias", "kl")),
                    strong=g["guidance_scale"] == own,
                )
                for g in result["guidance"]
            ),
            caption=f"Retargeted prompts at the strength that was calibrated at {own:g}",
        )
    ]


def _reproduction(result: Found) -> list[Block]:
    cost = result["cost"]
    evaluations = cost["evaluations_per_image"]
    return reproduction(
        result,
        ("network evaluations an image", f"{evaluations['before']:g} before, {evaluations['after']:g} after"),
        ("trained", f"{cost['trained_kimg']:g} thousand images"),
        ("time", duration(sum(cost["seconds"].values()))),
    )


def _how(result: Found) -> str:
    s = result["sampler"]
    return (
        f"Strength {fixed(result['strength'], 3)}, {result['mode']}, guidance scale {s['guidance']:g}, {s['steps']} "
        f"steps of {s['scheduler']}; the unconditional branch is {s['unconditional']}."
    )


def _warnings(result: Found) -> Iterator[str]:
    beyond = [named(r["prompt"]) for r in result["feasibility"] if not r["within_cap"] and not r["positive"]]
    if beyond:
        yield f"Out of reach of the complement under the cap, without a positive part: {', '.join(beyond)}."
    if result["at_cap"]:
        yield "The prompts together do not reach their targets at any strength up to the cap."
    if not any(r["kind"] == "held-out" for r in result["prompts"]):
        yield "No prompt was held out: whether the change generalises was not measured."


def _pictures(folder: Path, result: Found) -> list[Block]:
    """Of each retargeted prompt the same seeds before, in the upper row, and after."""
    pools = {side: Pool(folder / side) for side in ("before", "after") if (folder / side / "pool.json").exists()}
    if len(pools) < 2:
        return []
    known, blocks = pools["before"].conditions, []
    chosen = [r["prompt"] for kind in ("neutral", "held-out", "unrelated") for r in _first(result, kind)]
    scale = 2 if pools["before"].shape[1] <= 64 else 1
    for n, text in enumerate(chosen):
        places = (pools["before"].positions == known.index(text)).nonzero()[0][:EACH].tolist()
        images = [image for pool in pools.values() for image in pool.read(places).numpy()]
        path = folder / f"pictures-{n:02d}.png"
        image_grid(np.stack(images), len(places), path, scale=scale, mark=grid_mark(pools["before"], places))
        caption = "before in the upper row, after in the lower one, from the same seeds"
        blocks.append(Figure(path=path, name=named(text), caption=caption, alt=f"{named(text)}: {caption}", grid=True))
    return list(blocks)


def _first(result: Found, kind: str) -> list[Found]:
    """Of many prompts of a kind those that are furthest off after, else the first ones."""
    rows, most = [r for r in result["prompts"] if r["kind"] == kind], PICTURED if kind == "neutral" else PICTURED // 4

    def off(r: Found) -> float:
        return float(max(abs(s - t) for s, t in zip(r["after"]["share"], r["target"], strict=True)))

    return sorted(rows, key=off, reverse=True)[:most] if kind != "unrelated" else rows[:most]


def _mean(rows: Sequence[Found], key: str) -> float:
    return float(sum(r[key] for r in rows) / len(rows))


def _two(found: Found | None, digits: int = 2) -> str:
    return "–" if found is None else f"{fixed(found['before'], digits)} → {fixed(found['after'], digits)}"


def _ranged(r: Found) -> Cell:
    return cell(fixed(r["share"]), f"[{fixed(r['low'])}, {fixed(r['high'])}]")
