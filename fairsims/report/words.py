"""Numbers and results in words, the same in every output. `—` stands for what was not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from fairsims.report.fields import number_of, object_of
from fairsims.report.view import AttributeView, AuditView, Share

NOTHING = "—"
LIMIT = (
    "Attribute classes are perceived presentation as labelled by a classifier or by people; "
    "this report is evidence, not a certificate."
)
MODES = {
    "merged": "merged weights: (1 + w)·base − w·auxiliary, one network at sampling time",
    "guided": "SIMS guidance: (1 + ω)·base − ω·auxiliary at each noise level, two networks at sampling time",
    "sims": "SIMS guidance: (1 + ω)·base − ω·auxiliary at each noise level, two networks at sampling time",
    "resampled": "classifier resampling: images are generated and kept or dropped to match the target",
}


def percent(value: float | None, digits: int = 1) -> str:
    """0.251 -> "25.1%"."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}%"


def short_percent(value: float | None) -> str:
    """0.5 -> "50%", 0.125 -> "12.5%": a target is shown as it was given."""
    return NOTHING if value is None else f"{100 * value:.4g}%"


def interval(share: Share | None) -> str:
    """ "[23.2, 27.0]" in percent, or "" without an interval."""
    if share is None or share.low is None or share.high is None:
        return ""
    return f"[{100 * share.low:.1f}, {100 * share.high:.1f}]"


def share_text(share: Share | None) -> str:
    """ "25.1% [23.2, 27.0]"."""
    return NOTHING if share is None else f"{percent(share.share)} {interval(share)}".rstrip()


def points(value: float | None, *, signed: bool = True) -> str:
    """0.247 -> "+24.7": percentage points, with a true minus sign."""
    if value is None:
        return NOTHING
    return f"{100 * value:{'+' if signed else ''}.1f}".replace("-", "−")


def points_interval(delta: Share | None) -> str:
    """ "[+22.0, +27.4]", or "" without an interval."""
    if delta is None or delta.low is None or delta.high is None:
        return ""
    return f"[{points(delta.low)}, {points(delta.high)}]"


def number(value: float | None) -> str:
    """Three significant digits, thousands separated, no exponent for everyday sizes: 6.48, 70,656, 0.0012."""
    if value is None:
        return NOTHING
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1e6 or 0 < abs(value) < 1e-4:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def fixed(value: float | None, digits: int = 2) -> str:
    """A fixed number of decimals, so that columns line up."""
    if value is None:
        return NOTHING
    text = f"{value:,.{digits}f}"
    # A true minus sign, and none before what rounds to zero.
    return text.replace("-", "−") if text.strip("-0.,") else text.lstrip("-")


def duration(seconds: float | None) -> str:
    """250.3 -> "4 min 10 s"."""
    if seconds is None:
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def seeds(ranges: object) -> str:
    """Seed ranges as the pools record them: [[200000, 202047]] -> "200000–202047"; a plain list is cut after eight."""
    if not isinstance(ranges, Sequence) or isinstance(ranges, str) or not ranges:
        return NOTHING
    parts = [f"{r[0]}–{r[-1]}" if isinstance(r, Sequence) and not isinstance(r, str) and r else str(r) for r in ranges]
    return ", ".join(parts[:8]) + (f", … ({len(parts)} in all)" if len(parts) > 8 else "")


def mix(shares: object) -> str:
    """{"man": 1.0, "woman": 0.0} -> "man 100%, woman 0%"; of many classes those that are there, the largest first."""
    if not isinstance(shares, dict) or not shares:
        return NOTHING
    if len(shares) > 6 and all(isinstance(v, int | float) for v in shares.values()):
        there = sorted((k for k, v in shares.items() if v >= 0.0005), key=lambda k: -shares[k])
        text = ", ".join(f"{k} {percent(shares[k])}" for k in there)
        return text + (f"; none of the other {len(shares) - len(there)}" if len(there) < len(shares) else "")
    return ", ".join(
        f"{k} {short_percent(round(v, 3))}" if isinstance(v, int | float) else f"{k} {v}" for k, v in shares.items()
    )


def headline(attribute: AttributeView) -> str:
    """ "woman share 25.1% [23.2, 27.0] → 49.8% [47.5, 52.1]; target 50%"."""
    c = attribute.focus
    text = f"{c} share {share_text(attribute.before[c])}"
    if attribute.after:
        text += f" → {share_text(attribute.after[c])}"
    if c in attribute.target:
        text += f"; target {short_percent(attribute.target[c])}"
    return text


def verdict(attribute: AttributeView) -> str | None:
    """Whether the target was reached, in neutral words; None when there was none to reach."""
    if not attribute.target:
        return None
    width = "the tolerance" if attribute.tolerance is None else f"±{100 * attribute.tolerance:.3g} points"
    if attribute.reached is None:
        return f"Open whether the target is reached (a 95% interval reaches beyond {width} of it)."
    if attribute.reached:
        return f"Target reached (every 95% interval lies within {width} of it)."
    return f"Target not reached (a 95% interval lies wholly outside {width} of it)."


def drift_verdict(attribute: AttributeView) -> str | None:
    """Whether a held attribute stayed as it was, in neutral words; None when it was not to."""
    drift = attribute.drift
    if drift is None:
        return None
    largest, within = f"the largest change is {points(drift.largest, signed=False)} points", f"±{100 * drift.limit:.3g}"
    if drift.held is None:
        return f"Open whether it is held: {largest}, a 95% interval reaches beyond {within}."
    if drift.held:
        return f"Held: {largest}, every 95% interval lies within {within}."
    return f"Not held: {largest}, a 95% interval lies wholly outside {within}."


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


def tier_note(attribute: AttributeView) -> str | None:
    """ "Tier B: corrected with ...", side by side where the sides differ; None in files of the first format."""
    said = {
        side: f"tier {t}: {TIERS.get(t, 'unknown')}"
        + (f" ({attribute.labelled[side]:,} labelled)" if side in attribute.labelled else "")
        for side, t in attribute.tier.items()
    }
    if len(set(said.values())) <= 1:
        return next((f"{v[0].upper()}{v[1:]}." for v in said.values()), None)
    return "; ".join(f"{side[0].upper()}{side[1:]}, {text}" for side, text in said.items()) + "."


def short_verdict(attribute: AttributeView) -> str | None:
    """`verdict` in two words and the tolerance."""
    if not attribute.target:
        return None
    within = "" if attribute.tolerance is None else f", ±{100 * attribute.tolerance:.3g} points"
    word = {True: "reached", False: "not reached", None: "open if reached"}[attribute.reached]
    return word + within


def quality_sentence(audit: AuditView) -> str | None:
    """The quality numbers in one sentence; None when none were measured."""
    if "after" not in audit.sides:
        return None
    distances = audit.sections[0].distances if audit.sections else ()
    if not distances:
        return None
    parts = [f"{q.name} {fixed(q.before, q.digits)} → {fixed(q.after, q.digits)}" for q in distances]
    return f"{audit.metric or 'Quality'}, lower is closer: {'; '.join(parts)}."


def neighbours_sentence(audit: AuditView) -> str | None:
    """What precision, recall and the nearest reference images say and rest on; None when they were not measured."""
    facts = audit.section("quality", "precision_recall")
    k, n = facts.get("k"), facts.get("n")
    if not isinstance(k, int) or not isinstance(n, int):
        return None
    return (
        f"Precision is the share of generated images nearer to some real image than its neighbour number {k} among the "
        f"real ones is; recall is the same the other way round. Both are from {n:,} images a side and depend on that "
        "number. Images that repeat the reference would lie much nearer to it than real images lie to each other."
    )


def cost_sentence(audit: AuditView) -> str | None:
    """Evaluations per kept image of the retargeted model beside resampling of the base; None when not measured."""
    for row in audit.cost:
        if row.name == "network evaluations per kept image" and row.base is not None and row.retargeted is not None:
            return (
                f"An image in the target mix costs {number(row.retargeted)} network evaluations; "
                f"resampling the base to the same mix costs {number(row.base)}."
            )
    return None


def moved_sentence(attribute: AttributeView, sides: Sequence[str]) -> str | None:
    """How far the headline share depends on which confusion split corrects it; None with fewer than two splits."""
    moved = {s: m for s in sides if (m := attribute.moved_between_splits(s)) is not None}
    if not moved:
        return None
    parts = " and ".join(
        f"{points(m, signed=False)} points" + (f" {s}" if len(moved) > 1 else "") for s, m in moved.items()
    )
    return f"Between the splits the {attribute.focus} share moves by {parts}."


def side_name(side: str, audit: AuditView) -> str:
    """A side as a reader calls it: an audit of one source has no before."""
    return side if len(audit.sides) == 2 else "measured"


def moment(created: object) -> str | None:
    """ "2026-11-22T07:00:00Z" -> "2026-11-22 07:00 UTC"; what is no time in UTC as it is."""
    if created is None:
        return None
    try:
        time = datetime.fromisoformat(str(created))
    except ValueError:
        return str(created)
    return f"{time:%Y-%m-%d %H:%M} UTC" if time.utcoffset() == timedelta(0) else str(created)


def sensitivity_sentence(attribute: AttributeView) -> str | None:
    """How far the headline share would move were the classifier's errors others; None where nobody worked it out."""
    parts, off = [], None
    for side, found in attribute.sensitivity.items():
        low, high = (number_of(object_of(found, k), attribute.focus) for k in ("low", "high"))
        off = number_of(found, "points")
        if low is not None and high is not None:
            parts.append(f"{interval(Share(share=low, low=low, high=high))}{f' {side}' if attribute.after else ''}")
    if not parts or off is None:
        return None
    return (
        f"Were the classifier right on each class {points(off, signed=False)} points more or less often here than on "
        f"those images, the {attribute.focus} share would lie in {' and '.join(parts)}."
    )


def bounds(interval: Sequence[float], digits: int = 2) -> str:
    """ "[0.12, 0.34]" """
    return f"[{', '.join(fixed(v, digits) for v in interval)}]"


def assumption_note(attribute: AttributeView) -> str:
    """What the shares rest on; side by side where the sides differ."""
    said = dict.fromkeys(attribute.assumption.values())
    if len(said) <= 1:
        return "".join(said)
    return " ".join(f"{side.capitalize()}: {text}" for side, text in attribute.assumption.items())
