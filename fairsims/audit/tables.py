"""An audit's numbers as tables, one row each, for whoever goes on calculating."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fairsims.files import atomic

SIDES = ("before", "after")


def write_tables(folder: Path, result: Mapping[str, Any], labels: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write `shares.parquet`, of several attributes `joint.parquet`, and `labels.parquet` when people gave any."""
    tables: dict[str, list[Any]] = {
        "shares": list(share_rows(result)),
        "joint": list(joint_rows(result)),
        "labels": list(labels),
    }
    for name, rows in tables.items():
        if rows:
            with atomic(folder / f"{name}.parquet") as temporary:
                pd.DataFrame(rows).to_parquet(temporary, index=False)


def share_rows(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each attribute, class, side and way of estimating: the chosen tier, every confusion, the raw counts."""
    for name, a in result["attributes"].items():
        for when in (s for s in SIDES if s in a):
            estimates = [(a["tier"][when], a["split"] if a["tier"][when] == "B" else None, True, a[when])]
            estimates += [
                ("B", by, False, sides[when])
                for by, sides in a["by_split"].items()
                if when in sides and ("B", by) != estimates[0][:2]
            ]
            for tier, split, chosen, shares in estimates:
                for c in a["classes"]:
                    target = a.get("target", {}).get(c)
                    yield {
                        "attribute": name,
                        "class": c,
                        "when": when,
                        "tier": tier,
                        "split": split,
                        "chosen": chosen,
                        "n": a["n"][when],
                        "count": a[when][c]["count"],
                        "raw": a[when][c]["raw"],
                        "share": shares[c]["share"],
                        "low": shares[c]["low"],
                        "high": shares[c]["high"],
                        "target": target,
                        "ratio": shares[c]["share"] / target if target else None,
                    }


def joint_rows(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each cell of each pair of attributes and each side."""
    for pair in result.get("joint", []):
        first, second = pair["attributes"]
        for when in (s for s in SIDES if s in pair):
            for cell in pair[when]["cells"]:
                a, b = cell["classes"]
                numbers = {k: cell[k] for k in ("share", "low", "high", "raw", "count", "lift")}
                yield {
                    "attribute": first, "class": a, "attribute_2": second, "class_2": b, "when": when,
                    "tier": pair[when]["tier"], **numbers,
                }  # fmt: skip
