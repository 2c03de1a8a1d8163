"""Put a trained base model into the package with its loss curve, samples and measured shares.

    python tools/ship_model.py build/emoji-people-32 emoji-people-32 --attr gender

Copies the checkpoint to `fairsims/assets/models/NAME`; writes `stats.jsonl`, `loss.png`, `samples.png`, `README.md`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fairsims import jobs
from fairsims.audit.command import classifier_of, shares_of
from fairsims.audit.compare import quality
from fairsims.data import open_dataset
from fairsims.files import read_jsonl
from fairsims.models import checkpoint_recipe
from fairsims.pools import Pool
from fairsims.report.grids import image_grid

ASSETS = Path(__file__).parent.parent / "fairsims" / "assets" / "models"


def draw_loss(stats: Path, out: Path) -> None:
    records = read_jsonl(stats)
    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([r["nimg"] / 1000 for r in records], [r["loss"] for r in records], color="#1f4e79", linewidth=1.2)
    axes.set(xlabel="images seen (thousands)", ylabel="EDM loss", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name")
    parser.add_argument("--attr", required=True)
    parser.add_argument("--images", type=int, default=2048)
    args = parser.parse_args()
    folder = ASSETS / args.name
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "model.safetensors", "stats.jsonl"):
        shutil.copyfile(args.checkpoint / file, folder / file)
    draw_loss(folder / "stats.jsonl", folder / "loss.png")
    recipe = checkpoint_recipe(folder)
    precision = jobs.resolve_precision("auto")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "pool"
        # Seeds that no run uses: the last of the range that a generator takes.
        seeds = range(4_200_000_000, 4_200_000_000 + args.images)
        for _ in jobs.generate_pool(str(folder), out, seeds, steps=12, batch_size=128, precision=precision):
            pass
        pool = Pool(out)
        image_grid(pool.read(range(96)), 16, folder / "samples.png")
        classifier = classifier_of(pool, args.attr, None)
        estimate = shares_of(pool, classifier)
        data = open_dataset(recipe["data"], resolution=pool.meta["shape"][1])
        equal = np.full(len(estimate.classes), 1 / len(estimate.classes))
        fd = quality({"before": pool}, classifier, data, equal)["before"]
    real = data.table[args.attr].value_counts(normalize=True)
    rows = "\n".join(
        f"| {c} | {real[c]:.3f} | {estimate.share[k]:.3f} [{estimate.low[k]:.3f}, {estimate.high[k]:.3f}] |"
        for k, c in enumerate(estimate.classes)
    )
    parameters = jobs.describe_path(str(folder))["parameters"]
    seconds = sum(r["seconds"] for r in read_jsonl(folder / "stats.jsonl"))
    (folder / "README.md").write_text(
        f"""# {args.name}

A base model with {parameters:,} parameters, trained on `{recipe["data"]}` by

    fairsims train --preset {recipe["preset"]} --out {args.checkpoint}

for {recipe["train"]["kimg"]:g} thousand images ({seconds / 60:.0f} minutes of training steps). `config.json` holds the
recipe, `stats.jsonl` and `loss.png` the loss. It has memorised much of its small training set.

![samples](samples.png)

Shares of {args.images:,} samples (12 noise levels, {precision}, seeds from 4200000000) by the classifier
`{classifier.name}`, corrected for its errors, 95% intervals; measured {dt.date.today()} on 2 CPU cores by
`python tools/ship_model.py {args.checkpoint} {args.name} --attr {args.attr} --images {args.images}`:

| {args.attr} | training data | samples |
|---|---|---|
{rows}

FD ({classifier.name} features) to the training set {fd["fd_reference"]:.2f}, to the training set re-weighted to equal
shares {fd["fd_target"]:.2f}.
""",
        encoding="utf-8",
    )
    print(json.dumps({"model": args.name, "shares": dict(zip(estimate.classes, estimate.share, strict=True)), **fd}))


if __name__ == "__main__":
    main()
