"""Numbers as text, the same in every output. `—` stands for what was not measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

NOTHING = "—"


class Ranged(Protocol):
    """Anything with a 95% interval; None where there is none."""

    @property
    def low(self) -> float | None: ...  # noqa: D102

    @property
    def high(self) -> float | None: ...  # noqa: D102


class ShareLike(Ranged, Protocol):
    """A share with its interval, fractions of 1."""

    @property
    def share(self) -> float: ...  # noqa: D102


class ChangeLike(Ranged, Protocol):
    """A difference of two shares with its interval."""

    @property
    def delta(self) -> float: ...  # noqa: D102


def percent(value: float | None, digits: int = 1) -> str:
    """0.251 -> "25.1%"."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}%"


def short_percent(value: float | None) -> str:
    """0.5 -> "50%", 0.125 -> "12.5%": a target is shown as it was given."""
    return NOTHING if value is None else f"{100 * value:.4g}%"


def interval(value: Ranged | None) -> str:
    """ "[23.2, 27.0]" in percent, or "" without an interval."""
    if value is None or value.low is None or value.high is None:
        return ""
    return f"[{100 * value.low:.1f}, {100 * value.high:.1f}]"


def share_text(share: ShareLike | None) -> str:
    """ "25.1% [23.2, 27.0]"."""
    return NOTHING if share is None else f"{percent(share.share)} {interval(share)}".rstrip()


def points(value: float | None, *, signed: bool = True) -> str:
    """0.247 -> "+24.7": percentage points, with a true minus sign."""
    if value is None:
        return NOTHING
    return f"{100 * value:{'+' if signed else ''}.1f}".replace("-", "−")


def points_interval(change: Ranged) -> str:
    """ "[+22.0, +27.4]", or "" without an interval."""
    if change.low is None or change.high is None:
        return ""
    return f"[{points(change.low)}, {points(change.high)}]"


def change_text(change: ChangeLike) -> str:
    """ "+24.7 [+22.0, +27.4]", percentage points."""
    return f"{points(change.delta)} {points_interval(change)}".rstrip()


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


def mix(shares: Mapping[str, float]) -> str:
    """{"man": 1.0, "woman": 0.0} -> "man 100%, woman 0%"; of many classes those that are there, the largest first."""
    if not shares:
        return NOTHING
    if len(shares) > 6:
        there = sorted((k for k, v in shares.items() if v >= 0.0005), key=lambda k: -shares[k])
        text = ", ".join(f"{k} {percent(shares[k])}" for k in there)
        return text + (f"; none of the other {len(shares) - len(there)}" if len(there) < len(shares) else "")
    return ", ".join(f"{k} {short_percent(round(v, 3))}" for k, v in shares.items())


def moment(created: object) -> str | None:
    """ "2026-11-22T07:00:00Z" -> "2026-11-22 07:00 UTC"; what is no time in UTC as it is."""
    if created is None:
        return None
    try:
        time = datetime.fromisoformat(str(created))
    except ValueError:
        return str(created)
    return f"{time:%Y-%m-%d %H:%M} UTC" if time.utcoffset() == timedelta(0) else str(created)


def bounds(interval: Sequence[float], digits: int = 2) -> str:
    """ "[0.12, 0.34]" """
    return f"[{', '.join(fixed(v, digits) for v in interval)}]"


def value_text(value: object) -> str:
    """A setting as text: numbers as `number` has them, without closing zeros; "key value" of objects; lists as JSON."""
    if isinstance(value, Mapping):
        return "; ".join(f"{k.replace('_', ' ')} {value_text(v)}" for k, v in value.items())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | bool) else str(value)
    text = number(float(value))
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def short_digest(digest: object) -> str:
    """The start of a digest."""
    return f"{str(digest)[:12]}…" if digest else NOTHING
