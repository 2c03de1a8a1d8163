"""What was found, in sentences: page, terminal, dashboard and model card take them from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fairsims.audit.facts import SIDES, Side
from fairsims.audit.result import AttributeResult, AuditResult, ConditionResult
from fairsims.report.measured import DISTANCES, KEPT, cost_numbers, quality_numbers, steered
from fairsims.report.numbers import fixed, number, points, points_interval, share_text, short_percent

LIMIT = (
    "Attribute classes are perceived presentation as labelled by a classifier or by people; "
    "this report is evidence, not a certificate."
)
SAME_SEEDS = "Both grids come from the same seeds, in the same order."
NEAREST = (
    "The generated images that lie nearest to a real image of the reference, nearest first, in the upper row; below "
    "each that real image. A copy would look alike."
)
MODES = {
    "paired": "paired contrast, merged weights: base + w·(positive − auxiliary), one network at sampling time",
    "paired-guided": "paired contrast at each noise level: base + ω·(positive − auxiliary), three networks",
    "merged": "merged weights: (1 + w)·base − w·auxiliary, one network at sampling time",
    "guided": "SIMS guidance: (1 + ω)·base − ω·auxiliary at each noise level, two networks at sampling time",
    "resampled": "classifier resampling: images are generated and kept or dropped to match the target",
}
MODES["sims"] = MODES["guided"]
MEASURES = {
    "least_ratio": "least representation ratio, share over target",
    "total_variation": "total variation, the part of the images that would have to change class",
    "jensen_shannon": "Jensen–Shannon distance, base 2",
    "fairness_discrepancy": "fairness discrepancy, Euclidean",
    "largest_gap": "largest gap of a share",
    "min_over_max": "smallest share over largest",
}
TIERS = {
    "A": "corrected with labels that people gave images of this very source",
    "B": "corrected with the classifier's errors on validation images",
    "C": "uncorrected classifier counts; brackets cover sampling error only",
}


def headline(a: AttributeResult) -> str:
    """ "woman share 25.1% [23.2, 27.0] → 49.8% [47.5, 52.1]; target 50%"."""
    shares = " → ".join(share_text(a.side(side)[a.focus]) for side in SIDES if a.side(side))
    target = f"; target {short_percent(a.target[a.focus])}" if a.focus in a.target else ""
    return f"{a.focus} share {shares}{target}"


def verdict(a: AttributeResult) -> str | None:
    """Whether the target was reached, in neutral words; None when there was none to reach."""
    if not a.target:
        return None
    width = "the tolerance" if a.tolerance is None else f"±{100 * a.tolerance:.3g} points"
    if a.reached is None:
        return f"Open whether the target is reached (a 95% interval reaches beyond {width} of it)."
    if a.reached:
        return f"Target reached (every 95% interval lies within {width} of it)."
    return f"Target not reached (a 95% interval lies wholly outside {width} of it)."


def condition_off(a: AttributeResult, r: ConditionResult, sides: Sequence[Side]) -> float:
    """How far a condition is from the target, or where there is none, how far it moved."""
    last, first = r.side(sides[-1]), r.side(sides[0])
    return max(abs(last[c].share - a.target.get(c, first[c].share)) for c in last)


def conditions_verdict(a: AttributeResult) -> str | None:
    """Whether each class asked for has the target, and the worst of them; None where that cannot be said."""
    found = a.by_condition
    if found is None or not found.rows:
        return None
    missing = f" {len(found.missing)} classes have no image on some side." if found.missing else ""
    side: Side = "after" if "after" in found.worst else "before"
    if side not in found.worst:
        return missing.strip() or None
    worst, width = found.worst[side], "the tolerance" if a.tolerance is None else f"±{100 * a.tolerance:.3g} points"
    said = {
        True: f"Target reached in each class asked for (every 95% interval lies within {width} of it).",
        False: f"Target not reached in each class asked for (the largest gap lies beyond {width}).",
        None: "Open whether the target is reached in each class asked for.",
    }[found.reached]
    return (
        f"{said} The worst is {worst.condition}: {worst.cls} {points(worst.gap, signed=False)} points off; the largest "
        f"gap there is lies between {points(worst.low, signed=False)} and {points(worst.high, signed=False)} points "
        f"(95%, all classes at once).{missing}"
    )


def short_verdict(a: AttributeResult) -> str | None:
    """`verdict` in two words and the tolerance."""
    if not a.target:
        return None
    within = "" if a.tolerance is None else f", ±{100 * a.tolerance:.3g} points"
    return {True: "reached", False: "not reached", None: "open if reached"}[a.reached] + within


def drift_verdict(a: AttributeResult) -> str | None:
    """Whether an attribute that was to stay did, in neutral words; None when it was not to."""
    drift = a.drift
    if drift is None:
        return None
    largest, within = f"the largest change is {points(drift.largest, signed=False)} points", f"±{100 * drift.limit:.3g}"
    if drift.preserved is None:
        return f"Open whether it is preserved: {largest}, a 95% interval reaches beyond {within}."
    if drift.preserved:
        return f"Preserved: {largest}, every 95% interval lies within {within}."
    return f"Not preserved: {largest}, a 95% interval lies wholly outside {within}."


def untargeted_note(a: AttributeResult) -> str | None:
    """How far an attribute moved that nobody asked to move; None of the others. No verdict: nothing was promised."""
    if a.untargeted is None or not a.difference:
        return None
    limit = f"±{100 * a.untargeted.limit:.3g} points"
    how = f"moved, a 95% interval lies wholly outside {limit}" if a.untargeted.moved else f"none clearly beyond {limit}"
    return f"Not targeted. Its largest change is {_largest_change(a)}: {how}."


def side_effect(result: AuditResult) -> str | None:
    """The largest drift of what was not targeted, beside a verdict; None where nothing was watched."""
    if not result.untargeted:
        return None
    a = result.untargeted[0]
    count = sum(1 for other in result.untargeted if other.untargeted is not None and other.untargeted.moved)
    more = "" if count < 2 else f"; {count} attributes moved"
    what = "moved" if a.untargeted is not None and a.untargeted.moved else "moved most"
    return f"Not targeted: {a.name} {what}, {_largest_change(a)}{more}."


def _largest_change(a: AttributeResult) -> str:
    change = a.difference[a.focus]
    return f"{a.focus} {points(change.delta)} points {points_interval(change)}".rstrip()


def moved_freely(a: AttributeResult) -> str:
    """How far an attribute moved that had neither target nor limit."""
    furthest = max(a.difference, key=lambda c: abs(a.difference[c].delta))
    change = a.difference[furthest]
    said = f"{furthest} {points(change.delta)} points {points_interval(change)}".rstrip()
    return f"It had no target and no limit; its largest change is {said}."


def tier_note(a: AttributeResult) -> str | None:
    """ "Tier B: corrected with ...", side by side where the sides differ; None in files of the first format."""
    said = {}
    for side, tier in a.tier.items():
        n = f" ({a.labels[side].n:,} labelled)" if side in a.labels else ""
        said[side] = f"tier {tier}: {TIERS[tier]}{n}"
    if len(set(said.values())) <= 1:
        return next((f"{v[0].upper()}{v[1:]}." for v in said.values()), None)
    return "; ".join(f"{side.capitalize()}, {text}" for side, text in said.items()) + "."


def limits_note(result: AuditResult, a: AttributeResult) -> str:
    """What the calls of the attribute's classifier must not be taken for, where it says so."""
    classifier = result.classifier_of(a.name)
    return str(classifier.more.get("limits", "")) if classifier is not None else ""


def assumption_note(a: AttributeResult) -> str:
    """What the shares rest on; side by side where the sides differ."""
    if len(set(a.assumption.values())) <= 1:
        return next(iter(a.assumption.values()), "")
    return " ".join(f"{side.capitalize()}: {text}" for side, text in a.assumption.items())


def moved_sentence(a: AttributeResult, sides: Sequence[Side]) -> str | None:
    """How far the headline share depends on which held-out split corrects it; None with fewer than two splits."""
    moved = {s: m for s in sides if (m := a.moved_between_splits(s)) is not None}
    if not moved:
        return None
    parts = (f"{points(m, signed=False)} points" + (f" {s}" if len(moved) > 1 else "") for s, m in moved.items())
    return f"Between the splits the {a.focus} share moves by {' and '.join(parts)}."


def sensitivity_sentence(a: AttributeResult) -> str | None:
    """How far the headline share would move were the classifier's errors others; None where nobody worked it out."""
    found = {s: v for s, v in a.sensitivity.items() if a.focus in v.low and a.focus in v.high}
    if not found:
        return None
    parts = (
        f"[{100 * v.low[a.focus]:.1f}, {100 * v.high[a.focus]:.1f}]{f' {side}' if a.after else ''}"
        for side, v in found.items()
    )
    off = points(next(iter(found.values())).points, signed=False)
    return (
        f"Were the classifier right on each class {off} points more or less often here than on those images, the "
        f"{a.focus} share would lie in {' and '.join(parts)}."
    )


def quality_sentence(result: AuditResult) -> str | None:
    """The distances before and after in one sentence; None when none were measured."""
    if "after" not in result.sides or result.quality is None:
        return None
    found = [q for q in quality_numbers(result.quality) if q.key in DISTANCES]
    parts = [f"{q.name} {' → '.join(fixed(q.values.get(side), q.digits) for side in SIDES)}" for q in found]
    return f"{result.quality.metric or 'Quality'}, lower is closer: {'; '.join(parts)}." if parts else None


def neighbours_sentence(result: AuditResult) -> str | None:
    """What precision, recall and the nearest reference images say and rest on; None when they were not measured."""
    facts = None if result.quality is None else result.quality.precision_recall
    if facts is None or facts.k is None or facts.n is None:
        return None
    return (
        "Precision is the share of generated images that lie at least as near to some real image as that image's "
        f"neighbour number {facts.k} among the real ones; recall is the same with the roles exchanged. Both come from "
        f"{facts.n:,} images a side and depend on that number. Images that repeat the reference would lie much nearer "
        "to it than real images lie to each other."
    )


def cost_sentence(result: AuditResult) -> str | None:
    """Evaluations per kept image of the retargeted model beside resampling of the base; None when not measured."""
    for row in cost_numbers(result.cost):
        if row.name == KEPT and row.base is not None and row.retargeted is not None:
            return (
                f"An image in the target mix costs {number(row.retargeted)} network evaluations; "
                f"resampling the base to the same mix costs {number(row.base)}."
            )
    return None


def resampling_note(result: AuditResult) -> str | None:
    """What a kept image of the cost table is; None where none was counted."""
    if not any(row.name == KEPT and row.base is not None for row in cost_numbers(result.cost)):
        return None
    if len(result.sides) == 1:
        return "Kept: what is left when generated images are classified and dropped until the mix is the target's."
    made = "by the base" if result.method is not None else "as before"
    return f"Resampled: generated {made}, classified, and kept or dropped until the mix is the target's."


def side_name(side: Side, result: AuditResult) -> str:
    """A side as a reader calls it: an audit of one source has no before."""
    return side if len(result.sides) == 2 else "measured"


def side_names(result: AuditResult) -> list[str]:
    """The sides of an audit as a reader calls them."""
    return [side_name(side, result) for side in result.sides]


def furthest_below(a: AttributeResult, side: Side) -> str:
    """The class that lies furthest below its target."""
    shares: Mapping[str, float] = {c: s.share for c, s in a.side(side).items()}
    return min(a.target, key=lambda c: shares[c] - a.target[c])


def shares_alt(result: AuditResult, only: AttributeResult | None = None) -> str:
    """Alternative text of the shares of all attributes, or of one: every number in them."""
    sentences = []
    for a in result.attributes.values() if only is None else (only,):
        of = f"{a.name}: " if only is None and len(result.attributes) > 1 else ""
        for c in a.classes:
            target = f", target {short_percent(a.target[c])}" if c in a.target else ""
            after = f", after {share_text(a.after[c])}" if a.after else ""
            sentences.append(f"{of}{c}: {'before ' if after else ''}{share_text(a.before[c])}{after}{target}")
    return "Shares with 95% intervals. " + "; ".join(sentences) + "."


def calibration_alt(result: AuditResult) -> str:
    """Alternative text of the shares by strength: every number in them."""
    points = "; ".join(f"{p.strength:.3g}: {share_text(p)}" for p in result.by_strength)
    chosen = "" if result.strength is None else f" Chosen strength {result.strength:.3g}."
    audit = f" Audit: {headline(result.main)}." if chosen else ""
    return f"{steered(result).name} at each strength, 95% intervals. {points}.{chosen}{audit}"


def grid_alt(side: Side, model: str | None = None) -> str:
    """Alternative text of a grid of images."""
    of = "the base model" if model is None else model
    when = "before retargeting" if side == "before" else "after retargeting, from the same seeds as before"
    return f"Grid of images generated by {of} {when}"


def joint_alt(result: AuditResult) -> str:
    """Alternative text of the heat maps; the tables below them have every number."""
    pairs = "; ".join(" and ".join(p.attributes) for p in result.joint)
    return f"Heat map of joint shares and lifts of {pairs}. The tables below give every number."


def nearest_alt(side: Side, result: AuditResult) -> str:
    """Alternative text of a gallery of nearest reference images."""
    pairs = result.quality.nearest_pairs.get(side, ()) if result.quality is not None else ()
    distances = ", ".join(number(p.distance) for p in pairs)
    return f"{len(pairs)} generated images, {side}, above their nearest reference images, at distances {distances}"


def quality_alt(result: AuditResult) -> str:
    """Alternative text of the distances by strength: every number in them."""
    points = []
    for p in result.by_strength:
        found = [f"{name} {number(d)}" for key, name in DISTANCES.items() if (d := getattr(p, key)) is not None]
        points += [f"{p.strength:.3g}: {', '.join(found)}"] if found else []
    metric = (result.quality.metric if result.quality is not None else None) or "Quality"
    return f"{metric} at each strength, lower is closer. {'; '.join(points)}."
