"""Sections 4 and 5: how it was measured, and what was fixed beforehand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np

from fairsims.audit.intervals import wilson
from fairsims.errors import InputError
from fairsims.report import words
from fairsims.report.document import Block, Cell, Code, Column, Facts, Heading, Row, Table, Text, row, table
from fairsims.report.fields import list_of, object_of
from fairsims.report.sections.context import Context
from fairsims.report.sections.values import share_cell, value_text
from fairsims.report.view import AttributeView, AuditView, Share

FEW = 30
"""Images of a class below which its share is little more than a guess (measurement of small groups)."""


def measurement(context: Context) -> Iterator[Block]:
    """Methods, and the errors of the classifiers."""
    view = context.view
    for a in view.attributes:
        yield Heading(text=a.name)
        note = words.tier_note(a)
        if note:
            yield Text(text=f"{note} {words.assumption_note(a)}".strip())
        method = f"{a.method[:1].upper()}{a.method[1:]}" if a.method else "Method not recorded"
        tiers = set(a.tier.values())
        split = (
            f"; corrected with the classifier's errors on the “{a.split}” split"
            if a.split and ("B" in tiers or not tiers)
            else ""
        )
        yield Text(text=f"{method}{split}. Classes with fewer than {FEW} images are named in a warning.", soft=True)
        yield from _dependence(a, view)
    for classifier in _classifiers(view):
        facts = [
            (label, value_text(classifier[key]))
            for label, key in _CLASSIFIER
            if classifier.get(key) not in (None, "", [], 0)
        ]
        if facts:
            yield Heading(text=f"The classifier of {classifier.get('attribute') or view.main.name}")
            yield Facts(rows=tuple(facts))
    confusions = list(_confusions(view))
    for attribute, splits in groupby(confusions, key=lambda c: c[0]):
        of = f" ({attribute})" if len(view.attributes) > 1 else ""
        yield Heading(text=f"The classifier on images with known labels{of}")
        for _, found in splits:
            yield found
    if not confusions:
        yield Text(text="No errors of the classifier on images with known labels are recorded.")
    yield from context.questions("measurement")


_CLASSIFIER = (
    ("name", "name"),
    ("kind", "kind"),
    ("digest", "digest"),
    ("weights digest", "weights_digest"),
    ("input size, pixels", "input_size"),
    ("preprocessing", "preprocessing"),
    ("prompts", "prompts"),
    ("temperature", "temperature"),
    ("abstains below", "threshold"),
)


def _classifiers(view: AuditView) -> list[Mapping[str, Any]]:
    several = view.section("classifiers")
    return [object_of(several, n) for n in several] or [view.section("classifier")]


def _dependence(a: AttributeView, view: AuditView) -> Iterator[Block]:
    """How far the shares depend on where the classifier's errors were measured."""
    if len(a.by_split) == 1:
        yield Text(
            text="The classifier's errors were measured in one way only, so how far the share depends on that is not "
            "known.",
            soft=True,
        )
    if len(a.by_split) < 2:
        return
    of = f" ({a.name})" if len(view.attributes) > 1 else ""
    yield Heading(text=f"How much depends on the classifier's errors{of}")
    if said := words.sensitivity_sentence(a):
        yield Text(text=said)
    if moved := words.moved_sentence(a, view.sides):
        yield Text(text=f"{moved} A shift that every row shows does not depend on where those errors were measured.")
    many = len(a.classes) > 2
    sides = [words.side_name(s, view) for s in view.sides]
    columns = ["errors measured on"]
    columns += ["class", *sides] if many else [f"{a.focus}, {s}" for s in sides]
    rows = [
        row(split, *([c] if many else []), *(share_cell(found[s][c] if found.get(s) else None) for s in view.sides))
        for split, found in a.by_split.items()
        for c in (a.classes if many else (a.focus,))
    ]
    yield table(columns, rows, folded="Every class by split" if many else "")


def _confusions(view: AuditView) -> Iterator[tuple[str, Table]]:
    """Each held-out split of each classifier: counts `[true][predicted]` and the share called right."""
    paths: list[tuple[str, ...]] = [("classifiers", name) for name in view.section("classifiers")]
    for path in paths or [("classifier",)]:
        name = view.section(*path).get("attribute")
        attribute = next((a for a in view.attributes if a.name == name), view.main)
        # The audit may have a class that people alone know.
        classes = tuple(map(str, list_of(view.section(*path), "classes"))) or attribute.classes
        for split in view.section(*path, "confusions"):
            value = view.section(*path, "confusions", split)
            counts, k = value.get("counts"), len(classes)
            square = isinstance(counts, list) and len(counts) == k
            if not square or any(not isinstance(r, list) or len(r) != k for r in counts or []):
                raise InputError(
                    f"{'.'.join(path)}.confusions.{split}.counts of the audit is no {k} x {k} table; run the audit "
                    "again"
                )
            described = str(value.get("description") or "")
            columns = ["labelled", *(f"called {c}" for c in classes), "right"]
            rows = [_right(c, i, r) for i, (c, r) in enumerate(zip(classes, counts or [], strict=True))]
            yield (
                attribute.name,
                table(columns, rows, caption_name=split, caption=described, small=True),
            )


def _right(name: str, place: int, counts: list[int]) -> Row:
    total = sum(counts)
    if not total:
        return row(name, *map(words.number, counts), words.NOTHING)
    low, high = wilson(np.array([counts[place], total - counts[place]]))
    share = Share(share=counts[place] / total, low=float(low[0]), high=float(high[0]))
    return row(name, *map(words.number, counts), share_cell(share))


def plan(context: Context) -> Iterator[Block]:
    """The plan with its digest and time. Raises InputError when it is another than the audit names."""
    if context.plan is None:
        yield Text(
            text="No plan was fixed beforehand that this report could show: the audit has no plan.json. Target and "
            "tolerance above are those of the audit itself."
        )
        return
    found = object_of(context.plan, "plan")
    when = str(found.get("when") or "before measuring")
    rows = [
        ("written", f"{words.moment(context.plan.get('written')) or words.NOTHING}, {when}"),
        ("SHA-256 of the plan", str(context.plan.get("sha256") or words.NOTHING)),
    ]
    recorded = object_of(context.view.raw, "plan").get("sha256")
    if recorded is not None and recorded != context.plan.get("sha256"):
        raise InputError(
            f"{context.run / 'plan.json'} is not the plan that the audit was made by (its digest differs); restore it"
        )
    yield Facts(rows=tuple(rows), mono=True)
    planned = object_of(found, "attributes")
    if planned:
        yield table(
            ("attribute", Column(title="target", name=True), "tolerance or drift, points"),
            [_planned(name, object_of(planned, name)) for name in planned],
        )
    seeds = object_of(found, "seeds")
    facts = [("metrics", "; ".join(map(str, list_of(found, "metrics"))))] if found.get("metrics") else []
    facts += [(label, value_text(found[key])) for label, key in _PLAN if found.get(key) is not None]
    facts += [(f"seeds, {use}", words.seeds([list_of(seeds, use)])) for use in seeds]
    yield Facts(rows=tuple(facts))
    yield Code(
        text=json.dumps(dict(context.plan), indent=2, ensure_ascii=False),
        summary="The plan as it was written (plan.json)",
    )


_PLAN = (
    ("images a side", "n"),
    ("level of significance", "alpha"),
    ("mode", "mode"),
    ("fine-tuning, thousands of images", "budget_kimg"),
    ("rounds at most", "rounds"),
    ("strength at most", "cap"),
    ("older than this plan, taken over from an earlier run", "taken_over"),
)


def _planned(name: str, value: Mapping[str, Any]) -> Row:
    target = object_of(value, "target")
    text = words.mix(dict(target)) if target else str(value.get("target_text") or "none: it is to stay as it is")
    limit = value.get("tolerance", value.get("drift"))
    within = Cell(text=words.NOTHING if limit is None else f"±{100 * float(limit):.3g}")
    return row(name, text, within)
