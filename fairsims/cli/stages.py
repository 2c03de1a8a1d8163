"""The stages of a retargeting as commands of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairsims.cli.common import Bars, command, note, show
from fairsims.cli.engines import engine_options, shards_option
from fairsims.cli.options import (
    PATH,
    POOL,
    PROMPTING,
    RETARGET,
    SAMPLER,
    SEEDS,
    attr_option,
    classifier_option,
    compile_option,
    json_option,
    option,
    prompts_option,
    refuse_idle,
    settings,
    target_option,
    was_given,
)
from fairsims.errors import InputError

if TYPE_CHECKING:
    from fairsims.pools.credentials import Credentials

if TYPE_CHECKING:
    from fairsims.models import ModelSpec

NAMED = ("guide", "guidance", "guide_interval", "vae", "classes", "labels")
"""Settings of the model that only sampling asks for."""


@command()
@option(RETARGET, "model")
@click.option("--seeds", type=SEEDS, default="0-1023", show_default=True, help="Image seeds, both included.")
@click.option("--out", type=POOL, help="Folder to write; resumes when begun.")
@click.option(
    "--status", type=POOL, metavar="POOL", help="Make nothing: say what of a pool is there and what is missing."
)
@shards_option
@settings(SAMPLER, "steps", "solver", "schedule")
@option(SAMPLER, "S_churn", "--churn")
@settings(RETARGET, *NAMED)
@option(RETARGET, "sample_batch", "--batch-size")
@option(RETARGET, "precision")
@option(RETARGET, "mark")
@compile_option
@prompts_option
@settings(PROMPTING, "guidance_scale", "size", "offload", "slicing")
@click.option("--latents", is_flag=True, help="Keep the latents beside the images, for an adapter to learn from.")
@click.option("--export-zip", type=PATH, help="Also write an EDM data set zip.")
@click.option("--export-labels", metavar="ATTR", help="The zip has the classes of this attribute as labels.")
@click.option("--export-folder", type=PATH, help="Also write PNG files and metadata.csv.")
@click.option("--c2pa-key", type=PATH, help="Sign what is exported with this private key (PEM; extra c2pa).")
@click.option("--c2pa-chain", type=PATH, help="Certificates of the key, the signer's first (PEM).")
@click.option("--c2pa-time", metavar="URL", help="Time stamp authority (RFC 3161) of the signatures.")
@engine_options()
@json_option
def generate(
    model: str,
    seeds: range,
    out: Path | None,
    status: Path | None,
    shards: tuple[int, int] | None,
    sample_batch: int,
    precision: str,
    compiled: bool,
    prompts: str | None,
    latents: bool,
    export_zip: Path | None,
    export_labels: str | None,
    export_folder: Path | None,
    c2pa_key: Path | None,
    c2pa_chain: Path | None,
    c2pa_time: str | None,
    mark: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Sample a model's images into a pool. torchrun shares the work; the pool is the same.

    With --prompts the model is a folder of a text-to-image pipeline, sampled by its own scheduler; the prompt of a seed
    is the one of its remainder by their number.
    """
    from fairsims import engine, pools
    from fairsims.classifiers import classifier_for
    from fairsims.classifiers.labelling import label_key, label_source
    from fairsims.models import open_spec

    if status is not None:
        refuse_idle("beside --status", *(p.name for p in generate.params if p.name not in ("status", "as_json")))
        show(pools.pool_status(status), as_json)
        return
    if out is None:
        raise InputError("--out is missing; give the folder to write")
    if shards is not None:
        why = (
            "beside --shards: a part of a pool is not exported; give it again when the pool is whole, without --shards"
        )
        refuse_idle(why, "export_zip", "export_labels", "export_folder", "c2pa_key", "c2pa_chain", "c2pa_time")
    pools.check_exports(seeds, export_zip, export_folder)
    if export_labels is not None and export_zip is None:
        raise InputError(f"--export-labels {export_labels} is given without --export-zip; give both")
    credentials = _credentials(c2pa_key, c2pa_chain, c2pa_time, exported=bool(export_zip or export_folder))
    spec = spec_of(model, prompts, options, mark=mark, precision=precision, batch_size=sample_batch, compiled=compiled)
    with engine.main_first():
        opened = open_spec(spec)
    channels, side, _ = opened.image_shape
    classifier = None if export_labels is None else classifier_for(export_labels, side, channels)
    with Bars() as bars:
        for done in pools.write_pool(out, opened, seeds, latents=latents):
            bars.report("generate", done, len(seeds))
    if shards is not None:
        show(pools.pool_status(out), as_json)
        return
    pool = pools.Pool(out)
    labels = None
    if classifier is not None:
        label_source(pool, classifier)
        labels = (label_key(classifier), classifier.attribute.classes)
    if engine.is_main():
        if export_zip:
            pools.export_edm_zip(pool, export_zip, labels=labels, mark=mark, credentials=credentials)
        if export_folder:
            pools.export_folder(pool, export_folder, mark=mark, credentials=credentials)
    show({"pool": str(out), "images": len(pool), "evaluations_per_image": pool.meta["evaluations_per_image"]}, as_json)


def spec_of(model: str, prompts: str | None, sampling: dict[str, Any], **shared: Any) -> ModelSpec:
    """What opens a model of pixels or, where it is asked with prompts, a text-to-image pipeline."""
    from fairsims.data.prompts import read_prompts
    from fairsims.models import ModelSpec, Prompting
    from fairsims.models.sampling import SamplerConfig

    asked = {name: sampling.pop(name) for name in ("guidance_scale", "size", "offload", "slicing")}
    named = {name: sampling.pop(name) for name in NAMED}
    if prompts is None:
        refuse_idle("without --prompts", "latents", *asked)
        sampler = SamplerConfig(**sampling)
        note(sampler.advice)
        return ModelSpec(base=model, sampler=sampler, **named, **shared)
    refuse_idle(
        "with --prompts: a pipeline's own scheduler and guidance sample", "solver", "schedule", "S_churn", *NAMED
    )
    steps = sampling["steps"] if was_given("steps") else None
    prompting = Prompting(prompts=tuple(p.text for p in read_prompts(prompts).items), steps=steps, **asked)
    return ModelSpec(base=model, prompting=prompting, **shared)


def _credentials(key: Path | None, chain: Path | None, time: str | None, *, exported: bool) -> Credentials | None:
    """What signs the exported images. Raises InputError for options that lack each other."""
    from fairsims.pools.credentials import Credentials

    if key is None and chain is None and time is None:
        return None
    if key is None or chain is None:
        raise InputError("content credentials need a key and its certificates; give both --c2pa-key and --c2pa-chain")
    if not exported:
        raise InputError("--c2pa-key signs what is exported; give --export-folder or --export-zip as well")
    return Credentials(key, chain, time)


@command()
@click.argument("pool", type=POOL)
@attr_option
@classifier_option
@shards_option
@engine_options()
@json_option
def label(pool: Path, attr: str, classifier: str | None, shards: tuple[int, int] | None, as_json: bool) -> None:
    """Label a pool with class probabilities and estimate its shares."""
    from fairsims.audit.command import classifier_of, shares_of
    from fairsims.classifiers.labelling import label_missing
    from fairsims.pools import Pool, pool_status

    opened = Pool(pool)
    by = classifier_of(opened, attr, classifier)
    if shards is not None:
        if by.by_identity:
            raise InputError(f"--shards changes nothing: {by.name} looks labels up; leave it out")
        label_missing(opened, by)
        show(pool_status(pool), as_json)
        return
    e = shares_of(opened, by)
    shares = {
        c: {"share": e.share[k], "low": e.low[k], "high": e.high[k], "raw": e.raw[k]} for k, c in enumerate(e.classes)
    }
    show({"images": e.n, "shares": shares, "method": e.method, "warnings": list(e.warnings)}, as_json)


@command()
@click.argument("pool", type=POOL)
@attr_option
@target_option
@classifier_option
@settings(
    RETARGET, "omega", "cap", "floor", "complement_size", "seed", seed={"help": "Chooses the images that are drawn."}
)
@click.option("--out", type=PATH, required=True, help="Parquet table to write: seed, class, probability.")
@json_option
def complement(
    pool: Path, attr: str, target: str, classifier: str | None, out: Path, as_json: bool, **rule: Any
) -> None:
    """Plan the complement of a target and draw it from a pool."""
    from fairsims.audit.command import classifier_of
    from fairsims.pools import Pool
    from fairsims.retarget.drawing import make_complement

    opened = Pool(pool)
    known = classifier_of(opened, attr, classifier)
    facts = make_complement(opened, known, target, out, size=rule.pop("complement_size"), **rule)
    show(facts | {"table": str(out)}, as_json)


@command()
@option(RETARGET, "model")
@click.option("--aux", type=PATH, required=True, help="Auxiliary checkpoint.")
@click.option("--strength", type=float, required=True, help="w or omega: (1+w) base - w auxiliary.")
@click.option(
    "--positive", type=PATH, help="Of a paired contrast: what the auxiliary is subtracted from, not the base."
)
@click.option(
    "--mode",
    type=click.Choice(["merged", "guided"]),
    default="merged",
    show_default=True,
    help="merged: one network of extrapolated weights. guided: all of them at every step.",
)
@option("fairsims.models.model:ModelSpec", "blocks")
@click.option("--out", type=PATH, required=True, help="Checkpoint folder to write.")
@json_option
def merge(
    model: str,
    aux: Path,
    strength: float,
    positive: Path | None,
    mode: str,
    blocks: tuple[float, float] | None,
    out: Path,
    as_json: bool,
) -> None:
    """Write base and auxiliary as one network (merged) or as guidance by both (guided)."""
    from fairsims.models import ModelSpec, open_model

    towards = None if positive is None else str(positive)
    named: dict[str, Any] = {
        "auxiliary": str(aux),
        "positive": towards,
        "strength": strength,
        "mode": mode,
        "blocks": blocks,
    }
    made = open_model(ModelSpec(base=model, **named))
    made.export(out, recipe={"aux_digest": made.auxiliary.digest} if made.auxiliary else None)
    show({"checkpoint": str(out), "digest": made.digest}, as_json)
