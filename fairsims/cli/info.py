"""`fairsims info`."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import click

from fairsims import __version__
from fairsims.cli.common import command, show
from fairsims.cli.options import json_option
from fairsims.errors import InputError
from fairsims.files import read_json


@command()
@click.argument("path_or_name", required=False)
@json_option
def info(path_or_name: str | None, as_json: bool) -> None:
    """What is installed and embedded, or what a checkpoint, data set, pool, run or image (and its mark) is."""
    if path_or_name is None:
        show(overview(), as_json)
        return
    found = describe_path(path_or_name)
    show(found if as_json else _briefly(found, Path(path_or_name)), as_json)


def _briefly(found: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What `describe_path` finds, for people: of an audit its sources and shares, of a run its state without stages."""
    from fairsims.audit.result import load_audit
    from fairsims.report.numbers import moment
    from fairsims.report.words import drift_verdict, headline, untargeted_note, verdict

    if found["kind"] not in ("audit", "run"):
        return found
    told: dict[str, Any] = {"kind": found["kind"]}
    if "status" in found:
        status = found["status"]
        told["state"] = status["state"] if status["state"] == "finished" else f"{status['state']}, {status['stage']}"
        told |= {"message": status["message"]} if status.get("message") else {}
    if (folder / "audit" / "audit.json").exists():
        result = load_audit(folder)
        told |= {"created": moment(result.created), "command": result.command}
        told |= {side: f"{source.name}, {source.n:,} images" for side, source in result.pools.items()}
        for name, a in result.attributes.items():
            told[name] = " ".join(
                (f"{headline(a)}.", *filter(None, (verdict(a), drift_verdict(a), untargeted_note(a))))
            )
    return told | {k: found[k] for k in ("settings",) if k in found}


def describe_path(path: str) -> dict[str, Any]:
    """What a checkpoint, classifier, pool, run or audit folder is, or something embedded."""
    from fairsims.classifiers.checkpoints import embedded_classifiers
    from fairsims.classifiers.measuring import describe_classifier
    from fairsims.data.embedded import EMBEDDED
    from fairsims.data.files import IMAGE_SUFFIXES
    from fairsims.models import open_checkpoint
    from fairsims.models.pipelines import describe_pipeline, is_pipeline
    from fairsims.pools import Pool

    folder = Path(path)
    if folder.is_file() and folder.suffix.lower() in IMAGE_SUFFIXES:
        return describe_image(folder)
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
    if path in EMBEDDED:
        data = EMBEDDED[path]()
        counts = {
            a: data.table[a].value_counts().reindex(k.classes, fill_value=0).to_dict()
            for a, k in data.attributes.items()
        }
        facts = {"images": len(data), "shape": list(data.shape), "digest": data.digest}
        return {"kind": "data set", **facts, "attributes": counts}
    if is_pipeline(path):
        return describe_pipeline(path)
    opened = open_checkpoint(path)
    return {
        "kind": "checkpoint",
        "class": type(opened.denoiser).__name__,
        "shape": list(opened.denoiser.shape),
        "parameters": sum(p.numel() for p in opened.denoiser.parameters()),
        "digest": opened.digest,
        "recipe": opened.recipe,
    }


def describe_image(path: Path) -> dict[str, Any]:
    """What an image is, and what it says of its making."""
    from PIL import Image

    from fairsims.data.marks import is_generated, read_mark
    from fairsims.data.opening import open_image
    from fairsims.data.policy import Unusable
    from fairsims.pools.credentials import read_credentials

    data = path.read_bytes()
    try:
        with open_image(data) as image:
            facts = {"format": image.format, "size": list(image.size), "mode": image.mode}
            form = Image.MIME.get(image.format or "", "application/octet-stream")
    except Unusable as flaw:
        raise InputError(f"found {path} {flaw.found}; expected {flaw.expected}; {flaw.advice}") from None
    found = read_mark(data)
    mark: dict[str, Any] = {"marked_as_generated": is_generated(data), **found}
    if found.get("c2pa"):
        mark["c2pa"] = read_credentials(data, form) or "present; fairsims[c2pa] verifies them"
    return {"kind": "image", **facts, "mark": mark}


def overview() -> dict[str, Any]:
    """Versions, hardware and what ships with the package."""
    import torch

    from fairsims.classifiers.checkpoints import embedded_classifiers
    from fairsims.data.embedded import EMBEDDED
    from fairsims.models.checkpoints import embedded_models, embedded_pipelines
    from fairsims.models.precondition import resolve_precision

    missing = dict(_missing())
    if torch.version.cuda and not torch.cuda.is_available():
        missing["a GPU"] = f"this torch is built for CUDA {torch.version.cuda}; {SMALL_TORCH}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "fairsims": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": gpu or f"cpu, {torch.get_num_threads()} threads",
        "precision": resolve_precision("auto"),
        "models": [*embedded_models(), *embedded_pipelines()],
        "datasets": list(EMBEDDED),
        "classifiers": sorted(embedded_classifiers()),
        "missing": missing,
    }


EXTRAS = {
    "c2pa": "content credentials (--c2pa-key)",
    "diffusers": "diffusers models, latents (--vae)",
    "faces": "photographs of people (--classifier faces)",
    "pdf": "reports as PDF",
    "gcs": "pools at gs://",
    "ray": "several machines (--engine ray)",
    "s3": "pools at s3://",
    "t2i": "text-to-image (--prompts)",
}
"""What an extra is for; one that is not here goes by its name. `dev` and `docs` are for work on fairsims itself."""

SMALL_TORCH = (
    "on a machine without a GPU a smaller one does: "
    "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu"
)


def _missing() -> Iterator[tuple[str, str]]:
    """What cannot be done for want of a package, and the command that mends it."""
    lacking: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("fairsims") or ():
        extra = re.search(r"extra == ['\"]([^'\"]+)", requirement)
        package = re.match(r"[\w.-]+", requirement)
        if extra and package and extra[1] not in ("dev", "docs"):
            try:
                importlib.metadata.version(package[0])
            except importlib.metadata.PackageNotFoundError:
                lacking.setdefault(extra[1], []).append(package[0])
    for name, packages in lacking.items():
        yield EXTRAS.get(name, name), f"{', '.join(packages)}; pip install 'fairsims[{name}]'"
    if "pdf" not in lacking and not find_library("pango-1.0"):
        yield EXTRAS["pdf"], "Pango; Debian's libpango-1.0-0 and libpangoft2-1.0-0"
