"""`fairsims import` and `fairsims export`: models from and for other projects."""

from __future__ import annotations

from pathlib import Path

import click

from fairsims.cli.common import Verbs, show
from fairsims.cli.options import PATH, json_option


@click.group("import", cls=Verbs)
def import_() -> None:
    """Make a checkpoint folder of another project's model."""


@click.group(cls=Verbs)
def export() -> None:
    """Write a checkpoint in another project's format."""


@import_.command("edm")
@click.argument("snapshot", type=PATH)
@click.argument("out", type=PATH)
@json_option
def import_edm(snapshot: Path, out: Path, as_json: bool) -> None:
    """A snapshot of NVlabs/edm or NVlabs/edm2 (.pkl), read without executing anything in it."""
    from fairsims.models import edm_pickle

    made = edm_pickle.import_edm(snapshot, out)
    show({"checkpoint": str(out), "digest": made.digest, **made.recipe}, as_json)


@import_.command("diffusers")
@click.argument("folder", type=PATH)
@click.argument("out", type=PATH)
@json_option
def import_diffusers(folder: Path, out: Path, as_json: bool) -> None:
    """A local folder of a diffusers DDPM or DDIM pipeline (unconditional, pixels)."""
    from fairsims.models.diffusers_import import import_pipeline

    show(import_pipeline(folder, out), as_json)


@export.command("diffusers")
@click.argument("checkpoint")
@click.argument("out", type=PATH)
@json_option
def export_diffusers(checkpoint: str, out: Path, as_json: bool) -> None:
    """A model that came from diffusers, also fine-tuned or merged, as a pipeline folder."""
    from fairsims.models.diffusers_import import export_pipeline

    show(export_pipeline(checkpoint, out), as_json)
