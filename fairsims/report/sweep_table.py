"""A sweep for the terminal: plain text, aligned, at most 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from fairsims.report.numbers import NOTHING, fixed, percent, short_percent

WIDTH = 100

Row = Mapping[Any, Any]


def sweep_table(table: pd.DataFrame, result: Mapping[str, Any]) -> str:
    """A line per point of `sweep.parquet`; `*` marks the best quality, `=` the best of those near the target."""
    steered, measured, best = result["target_share"] is not None, result["quality"] is not None, result["best"]
    lines = [
        f"{'mode':<10}{'size':>8}{'kimg':>9}{'interval':>10}{'omega':>7}"
        + (f"{'share':>8}{'rule':>7}" if steered else "")
        + (f"{'FD':>9}{'prec':>6}{'recall':>7}" if measured else "")
        + f"{'NFE':>6}{'time':>8}"
    ]
    # Every cell an object, so that what was not measured is None whatever its column.
    rows: Sequence[Row] = table.astype(object).where(table.notna(), None).to_dict("records")
    for row in rows:
        marks = "".join(
            mark
            for name, mark in (("quality", "*"), ("at_target", "="))
            if name in best and best[name]["point"] == row["point"]
        )
        lines.append(f"{_line(row, steered, measured)} {marks}".rstrip()[:WIDTH])
    for point, row in result["confirmed"].items():
        told = [f"{percent(row['share'])}"] if steered else []
        told += [f"FD {fixed(row['fd_target' if steered else 'fd_reference'])}"] if measured else []
        lines.append(f"on {row['images']:,} audit seeds, {point}: {', '.join(told)}"[:WIDTH])
    if measured:
        lines.append(f"{result['quality']['metric']}, lower is closer; * the best"[:WIDTH])
    if steered:
        wanted = f"{' + '.join(result['focus'])} {short_percent(result['target_share'])}"
        lines.append(f"= the best near the target, {wanted}; rule: what the linear rule had promised"[:WIDTH])
    return "\n".join(lines)


_COLUMNS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "mode": ("mode", str), "size": ("images in the set", "{:,}".format), "budget_kimg": ("kimg", "{:g}".format),
    "interval": ("interval", str), "omega": ("strength", "{:g}".format), "share": ("share", percent),
    "linear": ("rule", percent), "fd_target": ("FD, target mix", fixed), "fd_reference": ("FD, as given", fixed),
    "precision": ("precision", fixed), "recall": ("recall", fixed), "nfe": ("NFE an image", "{:g}".format),
}  # fmt: skip
"""Column of `sweep.parquet` to its heading on a page and how its values are written."""


def sweep_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """Heading to text, a row per point; what this sweep does not measure is left out."""
    columns = {c: shown for c, shown in _COLUMNS.items() if c in table}
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{name: NOTHING if row[c] is None else text(row[c]) for c, (name, text) in columns.items()} for row in rows]


def sweep_headline(table: pd.DataFrame, result: Mapping[str, Any] | None) -> str:
    """How many points there are and, once all are, which is best."""
    if result is None:
        return f"{len(table)} points so far"
    names = {"quality": "best quality", "at_target": "best near the target"}
    best = [f"{name} {result['best'][k]['point']}" for k, name in names.items() if k in result["best"]]
    return "; ".join([f"{len(table)} points", *best])


def _line(row: Row, steered: bool, measured: bool) -> str:
    size = "-" if row["size"] is None else f"{row['size']:d}"
    text = f"{row['mode']:<10}{size:>8}{row['budget_kimg']:>9g}{row['interval']:>10}{row['omega']:>7g}"
    if steered:
        text += f"{percent(row['share']):>8}{percent(row['linear'], 0):>7}"
    if measured:
        distance = row["fd_target" if steered else "fd_reference"]
        text += f"{fixed(distance):>9}{fixed(row['precision']):>6}{fixed(row['recall']):>7}"
    seconds = "-" if row["seconds"] is None else f"{row['seconds']:.1f} s"
    return text + f"{row['nfe']:>6g}{seconds:>8}"
