"""Shares in each class that a model is asked for, with classes drawn balanced and at random. One command:

    python audits/class_pairs.py [--out runs/class-pairs] [--changes FILE.toml]

A model is trained on digits that is told which pair of neighbours a digit is of, 0 or 1 to 8 or 9, with too few odd
ones in each pair, and retargeted to as many odd as even ones in each. `audits/class-pairs/experiment.toml` has every
setting. What is finished is read: the same command goes on where a killed one stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from paper import asked_recipe
from self_improvement import write_zip

from fairsims.audit.result import AuditResult, Share
from fairsims.cli.common import Bars, say
from fairsims.data import ImageDataset, open_dataset
from fairsims.data.attributes import Attribute
from fairsims.errors import FairsimsError
from fairsims.files import atomic
from fairsims.options import from_mapping
from fairsims.report.publish import publish
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.opening import prepare
from fairsims.retarget.retarget import retarget
from fairsims.training.base import train_base

HERE = Path(__file__).parent / "class-pairs"
COMMAND = "python audits/class_pairs.py"


def pairs(odd: Mapping[str, float], seed: int) -> ImageDataset:
    """Digits by pair, of the odd one in each as many as make its share; which ones is drawn from a seed."""
    digits = open_dataset("digits")
    digit, rng = digits.class_indices("digit"), np.random.default_rng(seed)
    kept = []
    for k, share in enumerate(odd.values()):
        even, other = (np.flatnonzero(digit == d) for d in (2 * k, 2 * k + 1))
        kept += [even, rng.choice(other, round(len(even) * share / (1 - share)), replace=False)]
    chosen = digits.subset(np.sort(np.concatenate(kept)), "digits by pair")
    named = [list(odd)[k] for k in chosen.class_indices("digit") // 2]
    return ImageDataset(
        name=chosen.name,
        digest=chosen.digest,
        resolution=chosen.resolution,
        channels=chosen.channels,
        source=chosen.source,
        table=pd.DataFrame({"pair": named}),
        attributes={"pair": Attribute(name="pair", classes=tuple(odd))},
    )


def run_of(recipe: Mapping[str, Any], labels: str, out: Path) -> AuditResult:
    """The model retargeted with its classes drawn in one way."""
    data, model = out / "pairs.zip", out / "model"
    if not data.exists():
        write_zip(data, pairs(recipe["data"]["odd"], recipe["data"]["seed"]), "pair")
    for _ in train_base(model, data=str(data), condition="pair", network=recipe["network"], settings=recipe["train"]):
        pass
    settings = recipe["run"] | {"model": str(model), "reference": str(data), "labels": labels}
    with Bars() as bars:
        work = prepare(from_mapping(RetargetConfig, settings))
        return retarget(work, out / labels, progress=bars.report, publish=publish, command=COMMAND)


def rows_of(labels: str, found: AuditResult) -> list[dict[str, Any]]:
    """A row for every pair, and one for all of them with the distances."""
    parity = found.main
    assert parity.by_condition is not None
    rows: list[dict[str, Any]] = [
        {"labels": labels, "pair": r.condition, "n": r.n["before"]} | _shares(r.before["odd"], r.after["odd"])
        for r in parity.by_condition.rows
    ]
    every: dict[str, Any] = {"labels": labels, "pair": "all", "n": int(parity.n["before"])}
    every |= _shares(parity.before["odd"], parity.after["odd"])
    worst = parity.by_condition.worst
    every |= {f"worst_{side}": max(abs(r[side] - 0.5) for r in rows) for side in worst}
    if found.quality is not None:
        for side in ("before", "after"):
            numbers = found.quality.numbers[side]
            every |= {f"{name}_{side}": numbers[name] for name in ("fd_reference", "fd_target", "recall")}
    return [*rows, every]


def _shares(before: Share, after: Share) -> dict[str, float | None]:
    named = (("before", before), ("after", after))
    return {
        f"{side}{end}": getattr(s, f)
        for side, s in named
        for end, f in (("", "share"), (".low", "low"), (".high", "high"))
    }


def as_text(table: pd.DataFrame) -> str:
    """The table for reading, Markdown: odd shares in per cent with their 95% intervals."""
    lines = ["| labels | pair | images | odd before, % | odd after, % |", "|---" * 5 + "|"]
    for row in table.to_dict("records"):
        cells = [
            f"{100 * row[s]:.1f} [{100 * row[f'{s}.low']:.1f}, {100 * row[f'{s}.high']:.1f}]"
            for s in ("before", "after")
        ]
        lines.append(f"| {row['labels']} | {row['pair']} | {row['n']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/class-pairs"))
    parser.add_argument("--changes", type=Path, help="TOML laid over the experiment")
    args = parser.parse_args(arguments)
    recipe = asked_recipe(parser, HERE.name, args.changes, "experiment.toml")
    try:
        rows = [r for labels in recipe["labels"] for r in rows_of(labels, run_of(recipe, labels, args.out))]
    except FairsimsError as e:
        sys.exit(f"error: {e}")
    table = pd.DataFrame(rows)
    with atomic(args.out / "results.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g")
    say(as_text(table))


if __name__ == "__main__":
    main()
