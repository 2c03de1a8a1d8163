"""An audit's numbers as tables, one row each, for whoever goes on calculating."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fairsims.audit.facts import SIDES
from fairsims.audit.result import AuditResult
from fairsims.files import atomic


def write_tables(folder: Path, result: AuditResult, labels: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write `shares.parquet`, and where there are any: `conditions.parquet`, `joint.parquet`, `labels.parquet`.

    They are of images that were asked for by class, of several attributes together, and labels that people gave.
    """
    tables: dict[str, list[Any]] = {
        "shares": list(share_rows(result)),
        "conditions": list(condition_rows(result)),
        "joint": list(joint_rows(result)),
        "labels": list(labels),
    }
    for name, rows in tables.items():
        if rows:
            with atomic(folder / f"{name}.parquet") as temporary:
                pd.DataFrame(rows).to_parquet(temporary, index=False)


def share_rows(result: AuditResult) -> Iterator[dict[str, Any]]:
    """A row for each attribute, class, side and way of estimating: the chosen tier, every confusion, the raw counts."""
    for name, a in result.attributes.items():
        for side in (s for s in SIDES if a.side(s)):
            chosen = a.side(side)
            estimates = [(a.tier[side], a.split if a.tier[side] == "B" else None, True, chosen)]
            estimates += [
                ("B", by, False, sides[side])
                for by, sides in a.by_split.items()
                if side in sides and ("B", by) != estimates[0][:2]
            ]
            for tier, split, is_chosen, shares in estimates:
                for c in a.classes:
                    target = a.target.get(c)
                    yield {
                        "attribute": name,
                        "class": c,
                        "when": side,
                        "tier": tier,
                        "split": split,
                        "chosen": is_chosen,
                        "n": a.n[side],
                        "count": chosen[c].count,
                        "raw": chosen[c].raw,
                        "share": shares[c].share,
                        "low": shares[c].low,
                        "high": shares[c].high,
                        "target": target,
                        "ratio": shares[c].share / target if target else None,
                    }


def condition_rows(result: AuditResult) -> Iterator[dict[str, Any]]:
    """A row for each attribute, class asked for, class and side."""
    for name, a in result.attributes.items():
        for r in () if a.by_condition is None else a.by_condition.rows:
            for side in (s for s in SIDES if r.side(s)):
                for c, share in r.side(side).items():
                    yield {"attribute": name, "condition": r.condition, "class": c, "when": side, "n": r.n[side]} | {
                        k: getattr(share, k) for k in ("count", "raw", "share", "low", "high")
                    }


def joint_rows(result: AuditResult) -> Iterator[dict[str, Any]]:
    """A row for each cell of each pair of attributes and each side."""
    for pair in result.joint:
        for side, found in pair.sides.items():
            for cell in found.cells:
                yield {
                    "attribute": pair.attributes[0],
                    "class": cell.classes[0],
                    "attribute_2": pair.attributes[1],
                    "class_2": cell.classes[1],
                    "when": side,
                    "tier": found.tier,
                } | {k: getattr(cell, k) for k in ("share", "low", "high", "raw", "count", "lift")}
