"""Section 9: what was found, what was done about it, what it cost, what is left."""

from __future__ import annotations

from collections.abc import Iterator

from fairsims.errors import InputError
from fairsims.report import words
from fairsims.report.document import Block, Cell, Facts, Heading, Row, Table, Text, row, table
from fairsims.report.sections.context import Context
from fairsims.report.sections.representation import furthest
from fairsims.report.sections.values import share_cell, value_text
from fairsims.report.view import AttributeView, AuditView


def mitigation(context: Context) -> Iterator[Block]:
    """Finding, method, cost, and who owns what is left."""
    view, pictures = context.view, context.pictures
    method = view.section("method")
    found = [row for a in view.attributes if a.target for row in _findings(a, view)]
    if found:
        columns = ["attribute: group furthest below its target", "before", "gap, points"]
        yield table(columns + (["after", "gap, points"] if context.two_sided else []), found, caption="Findings")
    else:
        yield Text(text="No target was set, so the audit finds no group short of one.")
    facts = tuple(_method(view))
    if facts:
        yield Heading(text="Method")
        yield Facts(rows=facts)
    if rounds := list(_rounds(view)):
        yield table(
            ("round", "complement set", "strength", "error"),
            rounds,
            caption="Rounds: each trains an auxiliary from the base, on a complement set corrected by the error that "
            "the last one left. The error is the worst share's, as a multiple of what it may be off.",
        )
    if "calibration" in pictures:
        yield pictures["calibration"]
    elif method:
        yield Text(text="This run has no calibration points.", soft=True)
    yield from _cost(view, bool(method))
    yield from context.questions("residual")


def _findings(a: AttributeView, view: AuditView) -> Iterator[Row]:
    """A row for the group furthest below before, and for the one after where that is another."""
    for c in dict.fromkeys(furthest(a.side(side), a.target) for side in view.sides):
        cells: list[Cell] = []
        for side in view.sides:
            share = a.side(side)[c]
            cells += [share_cell(share), Cell(text=words.points(share.share - a.target[c]))]
        yield row(f"{a.name}: {c}", *cells)


def _method(view: AuditView) -> Iterator[tuple[str, str]]:
    method = view.section("method")
    mode = method.get("mode")
    if mode is not None:
        yield "mode", words.MODES.get(str(mode), str(mode))
    for label, key in (
        ("strength", "strength"),
        ("largest strength allowed", "cap"),
        ("planned ω", "planned_omega"),
        ("least feasible ω", "least_omega"),
        ("complement set, images", "complement_size"),
        ("complement set, mix", "complement"),
        ("fine-tuning, thousands of images", "budget_kimg"),
    ):
        if method.get(key) is not None:
            yield label, words.mix(method[key]) if key == "complement" else value_text(method[key])
    interval = method.get("interval")
    if isinstance(interval, list) and len(interval) == 2:
        yield "auxiliary called", f"at noise levels from {value_text(interval[0])} to {value_text(interval[1])}"
    if method.get("resampled") is not None:
        done = "yes, images of the retargeted model were kept or dropped by the classifier"
        yield "remainder resampled", done if method["resampled"] else "no"
    generated = method.get("generated")
    if isinstance(generated, dict):
        for name, shares in generated.items():
            yield f"{name} before resampling", words.mix(shares)
    if method.get("reason"):
        yield "why this plan", str(method["reason"])


def _rounds(view: AuditView) -> Iterator[Row]:
    """The rounds of complement, fine-tune and calibration, when there was more than one."""
    rounds = view.raw.get("rounds")
    if not isinstance(rounds, list) or len(rounds) < 2:
        return
    for r in rounds:
        n = (
            {k: r[k] for k in ("round", "complement_size", "strength", "error") if k in r}
            if isinstance(r, dict)
            else {}
        )
        # A round whose calibration found no rise has neither strength nor error.
        lost = n.get("strength", 0) is None and n.get("error", 0) is None
        told = [v for k, v in n.items() if not (lost and k in ("strength", "error"))]
        if len(n) < 4 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in told):
            raise InputError("'rounds' in the audit holds what is no round; run the audit again")
        kept = r.get("kept") is True
        yield row(
            f"{n['round']}{', kept' if kept else ''}",
            f"{words.number(n['complement_size'])} images",
            "no rise found" if lost else words.fixed(n["strength"]),
            words.NOTHING if lost else words.fixed(n["error"]),
            strong=kept,
        )


def _cost(view: AuditView, retargeted: bool) -> Iterator[Block]:
    two_sided = len(view.sides) == 2
    yield Heading(text="Cost")
    if not view.cost:
        yield Text(text="Cost was not recorded.")
    elif two_sided:
        columns = (
            f"{'base' if retargeted else 'before'}, resampled to the target",
            "retargeted" if retargeted else "after",
        )
        rows = [row(r.name, words.fixed(r.base, r.digits), words.fixed(r.retargeted, r.digits)) for r in view.cost]
        yield table(("cost", *columns), rows)
        yield Text(
            text="Resampling is the plain alternative: generate from the base, classify, keep what the target needs.",
            soft=True,
        )
    else:
        yield table(("cost", "measured"), [row(r.name, words.fixed(r.base, r.digits)) for r in view.cost])
    if view.stages:
        yield _stages(view)


def _stages(view: AuditView) -> Table:
    rows = [
        row(s.stage, words.number(s.images), words.number(s.evaluations), words.duration(s.seconds))
        for s in view.stages
    ]
    if view.seconds is not None:
        rows.append(row("whole run", "", "", words.duration(view.seconds), strong=True))
    return table(("stage", "images", "evaluations", "time"), rows, caption="Stages of this run")
