"""A sweep's table, its terminal text and its headline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fairsims.report.document import Column, Table, Text, row, table
from fairsims.report.numbers import NOTHING, fixed, percent, short_percent
from fairsims.report.terminal import as_text
from fairsims.retarget import EARLIER

_COLUMNS: Mapping[str, tuple[Column, Callable[[Any], str]]] = {
    "mode": (Column(title="mode"), str),
    "size": (Column(title="set", note="images"), "{:,.0f}".format),
    "budget_kimg": (Column(title="kimg"), "{:g}".format),
    "interval": (Column(title="interval"), str),
    "blocks": (Column(title="blocks"), str),
    "guide": (Column(title="guide"), lambda path: str(path).rpartition("/")[2]),
    "strength": (Column(title="strength"), "{:g}".format),
    "share": (Column(title="share"), percent),
    "linear": (Column(title="rule"), percent),
    "fd_target": (Column(title="FD", note="target mix"), fixed),
    "fd_reference": (Column(title="FD", note="as given", wide_only=True), fixed),
    "precision": (Column(title="precision"), fixed),
    "recall": (Column(title="recall"), fixed),
    "random.fd_reference": (Column(title="FD", note="random"), fixed),
    "kid": (Column(title="KID", wide_only=True), fixed),
    "nfe": (Column(title="NFE"), "{:g}".format),
    "seconds": (Column(title="time"), "{:.1f} s".format),
}
"""Column of `sweep.parquet` to its heading and how its values are written."""
_BEST = {"quality": "*", "at_target": "="}


def read_points(folder: Path) -> pd.DataFrame:
    """A row per point: `sweep.parquet` of a sweep's folder. Raises OSError or ValueError where it is broken."""
    return pd.read_parquet(folder / "sweep.parquet").rename(columns=EARLIER)


def points_table(points: pd.DataFrame, result: Mapping[str, Any] | None) -> Table:
    """A row per point of `sweep.parquet`; once the sweep is whole, the best are marked."""
    there = {c: shown for c, shown in _COLUMNS.items() if c in points and points[c].notna().any()}
    if "fd_target" not in there and "fd_reference" in there:
        there["fd_reference"] = (Column(title="FD"), fixed)
    best = {} if result is None else result["best"]
    if "interval" in there and (points["interval"] == "none").all():
        del there["interval"]
    rows = []
    # Every cell an object, so that what was not measured is None whatever its column.
    for point in points.astype(object).where(points.notna(), None).to_dict("records"):
        texts = [NOTHING if point[c] is None else text(point[c]) for c, (_, text) in there.items()]
        marks = "".join(mark for k, mark in _BEST.items() if k in best and best[k]["point"] == point["point"])
        rows.append(row(texts[0], *texts[1:], *([marks] if best else []), strong=bool(marks)))
    last = [Column(title="", note="best", name=True)] if best else []
    return table([*(column for column, _ in there.values()), *last], rows)


def sweep_text(points: pd.DataFrame, result: Mapping[str, Any]) -> str:
    """A whole sweep for the terminal."""
    return as_text([points_table(points, result), *(Text(text=note) for note in sweep_notes(result))])


def sweep_notes(result: Mapping[str, Any]) -> Iterator[str]:
    """What the points were on audit seeds, and what the marks and columns mean."""
    steered, measured = result["target_share"] is not None, result["quality"] is not None
    for point, found in result["confirmed"].items():
        told = [percent(found["share"])] if steered else []
        told += [f"FD {fixed(found['fd_target' if steered else 'fd_reference'])}"] if measured else []
        yield f"On {found['images']:,} audit seeds, {point}: {', '.join(told)}."
    if measured:
        yield f"{result['quality']['metric']}, lower is closer; * the best."
    if "longer" in result["best"]:
        yield "longer: the base trained on for what an auxiliary cost, the control."
    if steered:
        wanted = f"{' + '.join(result['focus'])} {short_percent(result['target_share'])}"
        yield f"= the best near the target, {wanted}; rule: what the linear rule had promised."


def sweep_headline(points: pd.DataFrame, result: Mapping[str, Any] | None) -> str:
    """How many points there are and, once all are, which is best."""
    if result is None:
        return f"{len(points)} points so far"
    names = {"quality": "best quality", "at_target": "best near the target"}
    best = [f"{name} {result['best'][k]['point']}" for k, name in names.items() if k in result["best"]]
    return "; ".join([f"{len(points)} points", *best])
