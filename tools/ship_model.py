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
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fairsims.audit.command import AuditConfig, measure, open_audit
from fairsims.cli.info import describe_path
from fairsims.data import open_dataset
from fairsims.files import read_jsonl
from fairsims.models import ModelSpec, open_checkpoint, open_model
from fairsims.models.precondition import resolve_precision
from fairsims.models.sampling import SamplerConfig
from fairsims.pools import Pool, write_pool
from fairsims.report.grids import image_grid

SHIPPED = Path(__file__).resolve().parent.parent / "fairsims" / "assets" / "models"
FIRST_SEED = 4_200_000_000
"""Seeds that no run uses."""


def draw_loss(stats: Path, out: Path) -> None:
    records = read_jsonl(stats)
    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([r["nimg"] / 1000 for r in records], [r["loss"] for r in records], color="#1f4e79", linewidth=1.2)
    axes.set(xlabel="images seen (thousands)", ylabel="EDM loss", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110, metadata={"Software": None})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name")
    parser.add_argument("--attr", required=True)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder that holds a folder per model")
    args = parser.parse_args(arguments)
    folder = args.out / args.name
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "model.safetensors", "stats.jsonl"):
        shutil.copyfile(args.checkpoint / file, folder / file)
    draw_loss(folder / "stats.jsonl", folder / "loss.png")
    recipe = open_checkpoint(folder).recipe
    precision = resolve_precision("auto")
    with tempfile.TemporaryDirectory() as scratch:
        out, sampler = Path(scratch) / "pool", SamplerConfig(solver="heun", steps=12)
        seeds = range(FIRST_SEED, FIRST_SEED + args.images)
        for _ in write_pool(out, open_model(ModelSpec(base=str(folder), sampler=sampler, precision=precision)), seeds):
            pass
        image_grid(Pool(out).read(range(min(96, args.images))), 16, folder / "samples.png")
        config = AuditConfig(before=str(out), attr=(args.attr,), target=("uniform",), reference=recipe["data"])
        opened = open_audit(config)
        audit = measure(opened)
    (classifier,) = opened.classifiers
    assert audit.quality is not None
    shares, fd = audit.main.before, audit.quality.before
    data = open_dataset(recipe["data"])
    real = data.table[args.attr].value_counts(normalize=True)
    rows = "\n".join(f"| {c} | {real[c]:.3f} | {s.share:.3f} [{s.low:.3f}, {s.high:.3f}] |" for c, s in shares.items())
    parameters = describe_path(str(folder))["parameters"]
    seconds = sum(r["seconds"] for r in read_jsonl(folder / "stats.jsonl"))
    (folder / "README.md").write_text(
        f"""# {args.name}

A base model with {parameters:,} parameters, trained on `{recipe["data"]}` by

    fairsims train --preset {recipe["preset"]} --out {args.checkpoint}

for {recipe["train"]["kimg"]:g} thousand images ({seconds / 60:.0f} minutes of training steps). `config.json` holds the
recipe, `stats.jsonl` and `loss.png` the loss. It has memorised much of its small training set.

![samples](samples.png)

Shares of {args.images:,} samples (12 noise levels, {precision}, seeds from {FIRST_SEED}) by the classifier
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
    distances = {k: fd[k] for k in ("fd_reference", "fd_target")}
    print(json.dumps({"model": args.name, "shares": {c: s.share for c, s in shares.items()}, **distances}))


if __name__ == "__main__":
    main()
