"""`fairsims info`."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import click

from fairsims import __version__
from fairsims.cli.common import command, show
from fairsims.cli.options import json_option
from fairsims.files import read_json


@command()
@click.argument("path_or_name", required=False)
@json_option
def info(path_or_name: str | None, as_json: bool) -> None:
    """What is installed and embedded, or what a checkpoint, pool or run is."""
    show(describe_path(path_or_name) if path_or_name else overview(), as_json)


def describe_path(path: str) -> dict[str, Any]:
    """What a checkpoint, classifier, pool, run or audit folder is."""
    from fairsims.classifiers.checkpoints import embedded_classifiers
    from fairsims.classifiers.measuring import describe_classifier
    from fairsims.models import open_checkpoint
    from fairsims.pools import Pool

    folder = Path(path)
    if (folder / "pool.json").exists():
        pool = Pool(folder)
        return {"kind": "pool", "images": len(pool), "labels": pool.label_names, **pool.meta}
    if (folder / "status.json").exists():
        status, settings = read_json(folder / "status.json"), read_json(folder / "config.json")
        return {"kind": "run", "status": status, "settings": settings}
    if (folder / "audit" / "audit.json").exists():
        found = read_json(folder / "audit" / "audit.json")
        return {"kind": "audit", **{k: found[k] for k in ("created", "command", "pools", "attributes") if k in found}}
    config = folder / "config.json"
    if path in embedded_classifiers() or (config.exists() and "attribute" in read_json(config)):
        described = describe_classifier(path)
        return described | {"kind": f"classifier, {described['kind']}"}
    opened = open_checkpoint(path)
    return {
        "kind": "checkpoint",
        "class": type(opened.denoiser).__name__,
        "shape": list(opened.denoiser.shape),
        "parameters": sum(p.numel() for p in opened.denoiser.parameters()),
        "digest": opened.digest,
        "recipe": opened.recipe,
    }


def overview() -> dict[str, Any]:
    """Versions, hardware and what ships with the package."""
    import torch

    from fairsims.classifiers.checkpoints import embedded_classifiers
    from fairsims.data.embedded import EMBEDDED
    from fairsims.models.checkpoints import embedded_models
    from fairsims.models.precondition import resolve_precision

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "fairsims": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": gpu or f"cpu, {torch.get_num_threads()} threads",
        "precision": resolve_precision("auto"),
        "models": embedded_models(),
        "datasets": list(EMBEDDED),
        "classifiers": sorted(embedded_classifiers()),
    }
