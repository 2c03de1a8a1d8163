"""The summary that the command line prints at the end: plain text, aligned, at most 100 columns."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fairsims.report.view import AttributeView, AuditView, Share, read_audit
from fairsims.report.words import NOTHING, drift_verdict, duration, fixed, percent, short_percent, tier_note, verdict

WIDTH = 100
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories of control characters and of the separators that break a line without being one."""
NAME = 46
"""Columns of the first column, wide enough for the longest row name there is."""


def terminal_table(audit: Mapping[str, Any]) -> str:
    """Shares per class with interval and target, FD, evaluations, time; no line is longer than 100 columns.

    Names come from data, so control characters are dropped and long names cut; sentences go on on the next line.
    Raises InputError on a broken audit.
    """
    view = read_audit(audit)
    blocks = [list(_shares(a)) for a in view.attributes]
    blocks += [b for b in (list(_quality(view)), list(_cost(view)), list(_rest(view))) if b]
    return "\n\n".join("\n".join(line[:WIDTH].rstrip() for line in block) for block in blocks)


def _shares(attribute: AttributeView) -> Iterator[str]:
    sides = ("before", "after") if attribute.after else ("share",)
    header = [f"{s:>20}" for s in sides]
    header += [f"{'target':>8}"] if attribute.target else []
    header += [f"{'difference':>20}"] if attribute.difference else []
    yield _cut(attribute.name, 26).ljust(26) + " ".join(header)
    for c in attribute.classes:
        cells = [_share(attribute.before[c])]
        cells += [_share(attribute.after[c])] if attribute.after else []
        cells += [f"{_plain(short_percent(attribute.target.get(c))):>8}"] if attribute.target else []
        cells += [_delta(attribute.difference[c])] if attribute.difference else []
        yield f"  {_cut(c, 23):<23} " + " ".join(cells)
    for sentence in (tier_note(attribute), verdict(attribute), drift_verdict(attribute)):
        if sentence is not None:
            yield from _wrapped(f"  {sentence}", "  ")


def _quality(view: AuditView) -> Iterator[str]:
    sides = ("before", "after") if "after" in view.sides else ("value",)
    for section in view.sections:
        header = (*sides, "real") if section.has_reference else sides
        yield _cut(section.metric or "quality", NAME - 1).ljust(NAME) + " ".join(f"{s:>10}" for s in header)
        for row in section.rows:
            cells = [_plain(fixed(v, row.digits)) for v in (row.before, row.after)[: len(sides)]]
            yield _row(row.name, [*cells, "" if row.reference is None else fixed(row.reference, row.digits)])


def _cost(view: AuditView) -> Iterator[str]:
    if not view.cost:
        return
    after = "after" in view.sides
    # The base column prices what resampling the base to the target would take: the rival that needs no training.
    yield "cost".ljust(NAME) + f"{'base':>10}" + (f" {'retargeted':>10}" if after else "")
    for row in view.cost:
        yield _row(
            row.name, [_plain(fixed(v, row.digits)) for v in ((row.base, row.retargeted) if after else (row.base,))]
        )
    if after:
        yield "  (base: resampled to the target with the classifier)"


def _rest(view: AuditView) -> Iterator[str]:
    if view.seconds is not None:
        yield "time".ljust(NAME) + f"{duration(view.seconds):>10}"
    for warning in view.warnings:
        yield from _wrapped(f"warning: {_seen(warning)}", "  ")


def _row(name: str, cells: Sequence[str]) -> str:
    return f"  {_cut(name, NAME - 3):<{NAME - 2}}" + " ".join(f"{c:>10}" for c in cells)


def _share(share: Share) -> str:
    if share.low is None or share.high is None:
        return f"{percent(share.share):>6}" + " " * 14
    bounds = f"[{100 * share.low:.1f}, {100 * share.high:.1f}]"
    return f"{percent(share.share):>6} {bounds:<13}"


def _delta(delta: Share) -> str:
    if delta.low is None or delta.high is None:
        return f"{100 * delta.share:>+6.1f}"
    return f"{100 * delta.share:>+6.1f} [{100 * delta.low:+.1f}, {100 * delta.high:+.1f}]"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _seen(text: str) -> str:
    return "".join(c for c in text if unicodedata.category(c) not in _UNSEEN)


def _cut(text: str, width: int) -> str:
    clean = _seen(text)
    return clean if len(clean) <= width else clean[: width - 2] + ".."


def _plain(text: str) -> str:
    return "-" if text == NOTHING else text
