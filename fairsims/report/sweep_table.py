"""A sweep for the terminal: plain text, aligned, at most 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fairsims.report.words import fixed, percent, short_percent

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
    if measured:
        lines.append(f"{result['quality']['metric']}, lower is closer; * the best"[:WIDTH])
    if steered:
        wanted = f"{' + '.join(result['focus'])} {short_percent(result['target_share'])}"
        lines.append(f"= the best near the target, {wanted}; rule: what the linear rule had promised"[:WIDTH])
    return "\n".join(lines)


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
