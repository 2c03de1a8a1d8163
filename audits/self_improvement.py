"""Does a model improve by moving away from what it makes, judged on real data that nobody trained on? One command:

    python audits/self_improvement.py [--sets digits] [--bases small large] [--out runs/self-improvement]

`audits/self-improvement/experiment.toml` has every setting; `--changes FILE.toml` overrides some. For every base and
seed a base is trained on the training half, and `fairsims sweep --target base` measures every arm against the untouched
half. The best point of each arm, chosen on calibration seeds by the feature space that it gains least on, is measured
again on audit seeds. What is finished is read: the same command goes on where a killed one stopped, and its tables show
what is there.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from paper import asked_recipe
from PIL import Image
from scipy.stats import t as student

from fairsims.classifiers import load_classifier
from fairsims.classifiers.augment import Augmentation
from fairsims.classifiers.cnn import CNNTrainer
from fairsims.classifiers.evaluation import HeldOut
from fairsims.classifiers.labelled import labelled
from fairsims.classifiers.making import build_classifier
from fairsims.classifiers.training import ClassifierRecipe
from fairsims.cli.common import Bars, say
from fairsims.data import ImageDataset, open_dataset
from fairsims.errors import FairsimsError, InputError
from fairsims.files import atomic, read_json
from fairsims.options import from_mapping
from fairsims.report.figures import AFTER, canvas
from fairsims.report.sweep_figures import sweep_figures
from fairsims.report.sweep_table import read_points
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.grid import ARMS, LEARNT, SweepConfig
from fairsims.retarget.sweep import sweep
from fairsims.training.base import train_base

HERE = Path(__file__).parent / "self-improvement"
COMMAND = "python audits/self_improvement.py"
LOWER = ("fd_reference", "fd_infinity", "kid", "random.fd_reference", "random.fd_infinity", "random.kid")
HIGHER = ("precision", "recall", "coverage", "train_auth_pct", "train_nearest_median")
SHOWN = {
    "nfe": "evaluations",
    "fd_infinity": "FD∞, classifier",
    "random.fd_infinity": "FD∞, random network",
    "precision": "precision",
    "recall": "recall",
    "train_auth_pct": "AuthPct",
}
DRAWN = ("fd_infinity", "random.fd_infinity", "precision", "recall")
FD = {"fd_reference": "FD, classifier", "random.fd_reference": "FD, random network"}
PLACE = ("mode", "size", "budget_kimg", "strength", "blocks")
"""Where in the grid a point stands."""
LEVEL = 0.95
NOT_NETWORK = ("kimg", "seeds", "sweep", "further")
"""What a recipe says of a base beside its network."""


def halves(plan: Mapping[str, Any], out: Path) -> tuple[Path, Path]:
    """Training half and held-out half as EDM zips: the files that are named, or an embedded set halved by class."""
    if "data" not in plan:
        files = Path(plan["training_half"]), Path(plan["held_out"])
        for path in files:
            if not path.is_file():
                raise InputError(f"found no {path}; make it as experiment.toml says, or leave the set out of --sets")
        return files
    data, attribute = open_dataset(plan["data"]), plan["attribute"]
    train, held_out = out / "train.zip", out / "held-out.zip"
    for k, path in enumerate((train, held_out)):
        if not path.exists():
            write_zip(path, data.subset(half_of(data, attribute, k)), attribute)
    return train, held_out


def half_of(data: ImageDataset, attribute: str, k: int) -> np.ndarray:
    """Every second image of each class, in an order drawn from a fixed seed: `k` is 0 or 1."""
    classes, rng = data.class_indices(attribute), np.random.default_rng(0)
    members = [rng.permutation(np.flatnonzero(classes == c)) for c in range(len(data.attributes[attribute].classes))]
    return np.sort(np.concatenate([m[k::2] for m in members]))


def write_zip(path: Path, data: ImageDataset, attribute: str) -> None:
    """The images as an EDM zip with the classes of one attribute."""
    classes = data.attributes[attribute].classes
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(len(data))]
        for name, image in zip(names, data.read(range(len(data))).numpy(), strict=True):
            png = io.BytesIO()
            Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(png, format="PNG")
            archive.writestr(zipfile.ZipInfo(name), png.getvalue())
        labels = [[n, int(k)] for n, k in zip(names, data.class_indices(attribute), strict=True)]
        facts = {"labels": labels, "attribute": attribute, "classes": list(classes)}
        archive.writestr(zipfile.ZipInfo("dataset.json"), json.dumps(facts))


def classifier_of(folder: Path, train: Path, of: Mapping[str, Any], plan: Mapping[str, Any]) -> Path:
    """The classifier whose features are the first feature space, trained on the training half of a set."""
    if not (folder / "config.json").exists():
        augmentation = from_mapping(Augmentation, of.get("augmentation", {}))
        build_classifier(
            folder,
            labelled(open_dataset(str(train)), of["attribute"]),
            CNNTrainer(
                widths=tuple(plan["widths"]), recipe=ClassifierRecipe(kimg=plan["kimg"], augmentation=augmentation)
            ),
            name=folder.name,
            splits=[HeldOut(name="variant", description="single images held out", folds=plan["folds"])],
            command=COMMAND,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    return folder


def trained(out: Path, data: Path, plan: Mapping[str, Any], of: Mapping[str, Any], seed: int) -> Path:
    """A base, or a guide, trained on the training half."""
    network = {k: v for k, v in of.items() if k not in NOT_NETWORK} | plan["network"]
    settings = plan["train"] | {"kimg": of["kimg"], "seed": seed}
    for _ in train_base(out, data=str(data), network=network, settings=settings):
        pass
    return out


def run_of(recipe: Mapping[str, Any], name: str, base: str, seed: int, out: Path) -> None:
    """Everything of one base and one seed: its sweep with the best points confirmed, then further sweeps."""
    plan, place = recipe["sets"][name], out / name
    train, held_out = halves(plan, place)
    classifier = classifier_of(place / "classifier", train, plan, recipe["classifier"])
    model = trained(place / f"{base}-{seed}" / "base", train, plan, plan["bases"][base], seed)
    guide = trained(place / f"guide-{seed}", train, plan, plan["guide"], seed)
    run = from_mapping(
        RetargetConfig,
        {
            **recipe["run"],
            "model": str(model),
            "attr": load_classifier(classifier).attribute.name,
            "target": "uniform",
            "classifier": str(classifier),
            "reference": str(held_out),
            "seed": seed,
        },
    )
    of = plan["bases"][base]
    grids = {"sweep": of.get("sweep", {}) | {"guides": [str(guide)]}}
    for part, grid in of.get("further", {}).items():
        if seed in grid["seeds"]:
            grids[part] = {k: v for k, v in grid.items() if k != "seeds"} | {"auxiliary": False, "confirm": 0}
    for part, grid in grids.items():
        with Bars() as bars:
            sweep(
                SweepConfig.read(recipe["sweep"] | grid, run=run, steer=False),
                place / f"{base}-{seed}" / part,
                progress=bars.report,
                publish=sweep_figures,
                command=COMMAND,
            )


def finished(out: Path, sets: Sequence[str], part: str = "sweep") -> Iterator[tuple[str, str, int, Path]]:
    """Set, base, seed and folder of every finished sweep; of the further ones with `part` a star."""
    for name in sets:
        for path in sorted((out / name).glob(f"*-*/{part}/sweep.json")):
            base, _, seed = path.parent.parent.name.rpartition("-")
            yield name, base, int(seed), path.parent


def confirmed(out: Path, sets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for every arm of every finished sweep: its best point on audit seeds."""
    for name, base, seed, folder in finished(out, sets):
        found = read_json(folder / "sweep.json")
        for arm in ("base", *(a for a in found["best"] if a != "quality")):
            point = "base" if arm == "base" else found["best"][arm]["point"]
            row = {"set": name, "base": base, "seed": seed, "arm": arm, "point": point}
            yield row | numbers_of(found["confirmed"][point])


def numbers_of(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The numbers of a point that the tables hold."""
    return {k: row[k] for k in (*LOWER, *HIGHER, "nfe") if row.get(k) is not None}


def measured(out: Path, sets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for every point of every finished sweep, on calibration seeds; none is chosen."""
    for name, base, seed, folder in finished(out, sets, "*"):
        for row in read_points(folder).to_dict("records"):
            # The base is measured in every sweep, each time on the same images.
            if row["mode"] == "base" and folder.name != "sweep":
                continue
            place = {k: row[k] for k in PLACE if pd.notna(row.get(k))}
            yield {"set": name, "base": base, "seed": seed, "arm": row["point"]} | place | numbers_of(row)


def summary(rows: pd.DataFrame, against: str = "base") -> pd.DataFrame:
    """What each arm changes against one of the same seed: mean over seeds with Student's interval."""
    numbers = [c for c in (*LOWER, *HIGHER) if c in rows]
    found = []
    for (name, base), group in rows.groupby(["set", "base"]):
        arms = group.set_index(["arm", "seed"])[[*numbers, "nfe"] if "nfe" in rows else numbers]
        if against not in arms.index:
            continue
        other = arms.loc[against]
        for arm in dict.fromkeys(group["arm"]):
            change = arms.loc[arm, numbers] - other.loc[arms.loc[arm].index, numbers]
            n = len(change)
            wide = student.ppf((1 + LEVEL) / 2, n - 1) / math.sqrt(n) if n > 1 else math.inf
            row: dict[str, Any] = {"set": name, "base": base, "arm": arm, "against": against, "seeds": n}
            row |= {k: group.loc[group["arm"] == arm, k].iloc[0] for k in PLACE if k in group}
            row |= {"nfe": float(arms.loc[arm, "nfe"].mean())} if "nfe" in arms else {}
            for c in numbers:
                mean = float(change[c].mean())
                half = wide * float(change[c].std()) if n > 1 and arm != against else math.nan
                row |= {c: float(arms.loc[arm, c].mean()), f"{c}.change": mean}
                row |= {f"{c}.low": mean - half, f"{c}.high": mean + half}
            found.append(row)
    return pd.DataFrame(found)


def as_text(table: pd.DataFrame) -> str:
    """A summary for reading, Markdown: means over seeds, and changes with their intervals."""
    shown = [c for c in SHOWN if c in table]
    lines = ["| set, base | arm | seeds | " + " | ".join(map(SHOWN.__getitem__, shown)) + " |"]
    lines.append("|---" * (3 + len(shown)) + "|")
    for row in table.to_dict("records"):
        cells = [_cell({str(k): v for k, v in row.items()}, c) for c in shown]
        lines.append(f"| {row['set']}, {row['base']} | {row['arm']} | {row['seeds']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = f"{row[name]:.4g}"
    if name == "nfe" or row["arm"] == row["against"]:
        return value
    if not math.isfinite(row[f"{name}.low"]):
        return f"{value} ({row[f'{name}.change']:+.2g})"
    return f"{value} ({row[f'{name}.change']:+.2g} [{row[f'{name}.low']:+.2g}, {row[f'{name}.high']:+.2g}])"


def write_tables(out: Path, sets: Sequence[str], added: Sequence[int] = ()) -> str:
    """`results.csv` with a row an arm and seed, `summary.csv` and `summary.md`; the text of the last.

    The summary is of all seeds and, where some were `added` to confirm what the others gave, of these alone.
    `points.csv` is the summary of every point of the sweeps. `arms-SET-BASE.png` shows the changes,
    `sweep-SET-BASE.png` the sweeps.
    """
    rows = pd.DataFrame(confirmed(out, sets))
    if not len(rows):
        return "nothing is finished yet"
    parts = {"all seeds": rows}
    if len(late := rows[rows["seed"].isin(added)]):
        parts["added seeds alone"] = late
    arms = [summary(part, against).assign(of=of) for of, part in parts.items() for against in ("base", "longer")]
    points = summary(pd.DataFrame(measured(out, sets)))
    tables = {"results": rows, "summary": pd.concat(arms), "points": points}
    for name, content in tables.items():
        with atomic(out / f"{name}.csv") as temporary:
            content.to_csv(temporary, index=False, float_format="%.5g")
    text = "\n\n".join(f"{_title(table.iloc[0])}:\n\n{as_text(table)}" for table in arms if len(table))
    with atomic(out / "summary.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    for draw, kind, table in ((arms_figure, "arms", arms[0]), (sweep_figure, "sweep", points)):
        for key, part in table.groupby(["set", "base"]):
            draw(part, out / f"{kind}-{'-'.join(map(str, key))}.png")
    return text


def _title(row: pd.Series) -> str:
    return f"Change against {'the base trained on' if row['against'] == 'longer' else 'the base'}, {row['of']}"


def arms_figure(table: pd.DataFrame, path: Path) -> None:
    """What each arm changes against the base, with intervals over seeds: a panel for each of four numbers."""
    table = table[table["arm"] != "base"]
    numbers = [c for c in DRAWN if f"{c}.change" in table]
    names = list(table["arm"])
    places = range(len(table))
    with canvas(path, 0.9 + 0.3 * len(table), width=2.3 * len(numbers) + 0.8) as figure:
        for axes, c in zip(figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0], numbers, strict=True):
            change = table[f"{c}.change"]
            half = (table[f"{c}.high"] - change).where(lambda h: h.abs() < math.inf, 0)
            axes.axvline(0, color="0.4", linestyle=(0, (1, 1)), linewidth=1.2)
            axes.errorbar(change, places, xerr=half, fmt="s", color=AFTER, markersize=5, capsize=2, linewidth=1.2)
            axes.set_title(f"{SHOWN[c]}\n{'less' if c in LOWER else 'more'} is better")
            axes.locator_params(axis="x", nbins=4)
            axes.set_yticks(list(places), names)
        # Once, for all panels share the axis.
        axes.invert_yaxis()
        figure.supxlabel("change against the base of the same seed, 95% interval over seeds", fontsize=9)


def sweep_figure(table: pd.DataFrame, path: Path) -> None:
    """The sweeps of one base, mean over seeds with the interval of the change, as figure 3 of the paper.

    Distance against the budget B, a line per strength; a column per arm and size of the set, a row per feature space.
    The base is dotted, the base trained on for the same cost dashed. What has no budget is level.
    """
    base = table[table["mode"] == "base"].iloc[0]
    moved = table[~table["mode"].isin(["base", "auxiliary", "longer"])]
    control = table[table["mode"] == "longer"]
    panels = sorted(_panels(moved), key=lambda p: ARMS.index(p[1]["mode"].iloc[0]))
    # Of few images there is no FD∞.
    spaces = [c for c in DRAWN[:2] if c in table] or [c for c in FD if c in table]
    budgets = sorted(b for b in moved["budget_kimg"].unique() if b > 0)
    with canvas(path, 2.1 * len(spaces) + 0.6, width=1.75 * len(panels) + 0.8) as figure:
        grid = figure.subplots(len(spaces), len(panels), sharex=True, sharey="row", squeeze=False)
        for c, row in zip(spaces, grid, strict=True):
            for axes, (title, points) in zip(row, panels, strict=True):
                size = points["size"].iloc[0] if points["mode"].iloc[0] in LEARNT else control["size"].max()
                axes.axhline(base[c], color="0.4", linestyle=(0, (1, 1)), linewidth=1.2, label="base")
                _lines(axes, c, base[c], points, sorted(moved["strength"].unique()), budgets)
                same = control[control["size"] == size].sort_values("budget_kimg")
                look = {"color": "0.5", "linewidth": 1.1, "label": "base trained on"}
                if len(same):
                    axes.plot(same["budget_kimg"], base[c] + same[f"{c}.change"], "x--", **look)
                axes.set_xscale("log", base=2)
                axes.set_xticks(budgets, [f"{b:g}" for b in budgets])
                axes.xaxis.set_minor_locator(NullLocator())
                if c == spaces[0]:
                    axes.set_title(title)
            row[0].set_ylabel((SHOWN | FD)[c])
            # What is further out would press the rest flat; points.csv has it.
            row[0].set_ylim(0, 1.9 * base[c])
        figure.supxlabel("B, thousand images", fontsize=9.5)
        legends = {label: h for axes in grid[0] for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(legends.values(), legends, loc="outside upper center", ncols=len(legends), frameon=False)


def _lines(
    axes: Axes, c: str, base: float, points: pd.DataFrame, strengths: Sequence[float], budgets: Sequence[float]
) -> None:
    """A line for each strength against the budget, at the base of all seeds and the mean change from there."""
    colors = sns.color_palette("viridis_r", len(strengths) + 1)[1:]
    for k, strength in enumerate(strengths):
        line = points[points["strength"] == strength].sort_values("budget_kimg")
        if not len(line):
            continue
        if not line["budget_kimg"].any():
            line = line.loc[line.index.repeat(len(budgets))].assign(budget_kimg=list(budgets))
        half = (line[f"{c}.high"] - line[f"{c}.change"]).where(lambda h: h.abs() < math.inf, 0)
        # Side by side, so that one interval does not hide another.
        x = line["budget_kimg"] * 1.08 ** (k - (len(strengths) - 1) / 2)
        look = {"color": colors[k], "marker": "osD^vPX"[k % 7], "markersize": 5, "capsize": 2, "linewidth": 1.3}
        axes.errorbar(x, base + line[f"{c}.change"], yerr=half, label=f"ω = {strength:g}", **look)


def _panels(moved: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The points of each arm, size of the set and pair of blocks, the smaller sets first."""
    told = moved.reindex(columns=["mode", "size", "blocks"])
    for key, points in moved.groupby([told[c].astype(object).fillna("") for c in told], sort=True):
        mode, size, blocks = map(str, key)
        title = mode
        if blocks:
            title += ", " + {"1:0": "encoder", "0:1": "decoder"}.get(blocks, blocks)
        yield f"{title}\n|S| = {int(float(size))}" if mode in LEARNT else title, points.sort_values("budget_kimg")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["digits"], help="digits, emojis")
    parser.add_argument("--bases", nargs="+", help="by name; the first of the set by default")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("runs/self-improvement"))
    parser.add_argument("--changes", type=Path, help="TOML laid over the experiment")
    args = parser.parse_args(arguments)
    recipe = asked_recipe(parser, HERE.name, args.changes, "experiment.toml")
    try:
        for name in args.sets:
            if name not in recipe["sets"]:
                raise InputError(f"there is no set {name!r}; expected one of {', '.join(recipe['sets'])}")
            bases = recipe["sets"][name]["bases"]
            for base in args.bases or list(bases)[:1]:
                if base not in bases:
                    raise InputError(f"{name} has no base {base!r}; expected one of {', '.join(bases)}")
                of = bases[base]
                for seed in args.seeds or of.get("seeds", recipe["seeds"]):
                    run_of(recipe, name, base, seed, args.out)
                    write_tables(args.out, args.sets, recipe["added"])
        say(write_tables(args.out, args.sets, recipe["added"]))
    except FairsimsError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
