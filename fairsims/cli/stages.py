"""The stages of a retargeting as commands of their own."""

from __future__ import annotations

from pathlib import Path

import click

from fairsims.cli.common import (
    Bars,
    attr_option,
    cap_option,
    classifier_option,
    compile_option,
    floor_option,
    json_option,
    model_option,
    omega_option,
    path,
    precision_option,
    seed_option,
    seed_range,
    show,
    size_option,
    solver_option,
    steps_option,
    target_option,
)


@click.command()
@model_option
@click.option("--seeds", default="0-1023", show_default=True, help="Image seeds, first-last.")
@click.option("--out", type=path, required=True, help="Pool folder; resumes when begun.")
@steps_option
@solver_option
@click.option("--churn", type=float, default=0.0, show_default=True, help="S_churn: noise added while sampling.")
@click.option("--batch-size", type=int, default=128, show_default=True)
@precision_option
@compile_option
@click.option("--export-zip", type=path, help="Also write an EDM data set zip.")
@click.option("--export-folder", type=path, help="Also write PNG files and metadata.csv.")
@json_option
def generate(
    model: str, seeds: str, out: Path, steps: int, solver: str, churn: float, batch_size: int, precision: str,
    compiled: bool, export_zip: Path | None, export_folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Sample a model's images into a pool. torchrun shares the work; the pool is the same."""
    from fairsims import engine, jobs, pools
    from fairsims.models.sampling import SamplerConfig

    wanted, sampler = seed_range(seeds), SamplerConfig(steps=steps, solver=solver, S_churn=churn)
    pools.check_exports(wanted, export_zip, export_folder)
    with Bars() as bars:
        for done in jobs.generate_pool(
            model, out, wanted, sampler=sampler, batch_size=batch_size,
            precision=jobs.resolve_precision(precision), compiled=compiled,
        ):  # fmt: skip
            bars.report("generate", done, len(wanted))
    pool = pools.Pool(out)
    if export_zip and engine.is_main():
        pools.export_edm_zip(pool, export_zip)
    if export_folder and engine.is_main():
        pools.export_folder(pool, export_folder)
    show({"pool": str(out), "images": len(pool), "evaluations_per_image": pool.meta["evaluations_per_image"]}, as_json)


@click.command()
@click.argument("pool", type=path)
@attr_option
@classifier_option
@json_option
def label(pool: Path, attr: str, classifier: str | None, as_json: bool) -> None:
    """Label a pool with class probabilities and estimate its shares."""
    from fairsims.audit.command import classifier_of, shares_of
    from fairsims.pools import Pool

    opened = Pool(pool)
    e = shares_of(opened, classifier_of(opened, attr, classifier))
    shares = {
        c: {"share": e.share[k], "low": e.low[k], "high": e.high[k], "raw": e.raw[k]} for k, c in enumerate(e.classes)
    }
    show({"images": e.n, "shares": shares, "method": e.method, "warnings": list(e.warnings)}, as_json)


@click.command()
@click.argument("pool", type=path)
@attr_option
@target_option
@classifier_option
@omega_option
@cap_option
@floor_option
@size_option
@seed_option
@click.option("--out", type=path, required=True, help="Parquet table to write: seed, class, probability.")
@json_option
def complement(
    pool: Path, attr: str, target: str, classifier: str | None, omega: float | None, cap: float, floor: float,
    complement_size: int | None, seed: int, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Plan the complement of a target and draw it from a pool."""
    from fairsims import jobs
    from fairsims.audit.command import classifier_of
    from fairsims.pools import Pool

    opened = Pool(pool)
    _, facts = jobs.make_complement(
        opened, classifier_of(opened, attr, classifier), target, out, omega=omega, cap=cap, floor=floor,
        size=complement_size, seed=seed,
    )  # fmt: skip
    show(facts | {"table": str(out)}, as_json)


@click.command()
@model_option
@click.option("--aux", type=path, required=True, help="Auxiliary checkpoint.")
@click.option("--strength", type=float, required=True, help="w or omega: (1+w) base - w auxiliary.")
@click.option("--mode", type=click.Choice(["merged", "guided"]), default="merged", show_default=True)
@click.option("--out", type=path, required=True, help="Checkpoint folder to write.")
@json_option
def merge(model: str, aux: Path, strength: float, mode: str, out: Path, as_json: bool) -> None:
    """Write base and auxiliary as one network (merged) or as a guided pair."""
    from fairsims import jobs

    show({"checkpoint": str(out), "digest": jobs.combine(model, aux, strength, out, mode=mode)}, as_json)
