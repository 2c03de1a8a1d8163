"""The pipeline behind `fairsims retarget`: pool, complement, auxiliary, calibration, audit pools, audit.

Each stage leaves whole files; the same call on the same folder goes on where a killed one stopped.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fairsims.audit.compare import AuditPlan, audit, label_pool, predicted_counts, write_audit
from fairsims.audit.shares import ShareEstimate, corrected_shares
from fairsims.classifiers import AttributeClassifier, classifier_for, load_classifier
from fairsims.datasets import ImageDataset, open_dataset
from fairsims.denoisers import (
    Denoiser,
    NetworkDenoiser,
    SIMSGuidance,
    checkpoint_digest,
    checkpoint_recipe,
    load_network,
    merge,
    save_checkpoint,
    save_guided,
)
from fairsims.denoisers.checkpoints import find_checkpoint
from fairsims.errors import InputError
from fairsims.pools import Pool, pool_dataset, select_pool, write_pool
from fairsims.retarget.calibration import Calibration, Pilot, calibrate, focus_values
from fairsims.retarget.complement import ComplementPlan, draw_complement, plan_complement
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.selection import Selection, accept, plan_selection, selected_shares
from fairsims.retarget.targets import Target, as_mapping, parse_target, resampling_cost
from fairsims.runs import atomic, read_json, settle_settings, write_json, write_manifest
from fairsims.sampling import SamplerConfig
from fairsims.training import finetune_config, train_folder

Report = Callable[[str, int, int], None]
"""(stage, done, total): called as images are made or trained on."""

Publish = Callable[[Path, dict[str, Any], Pool, Pool], None]
"""(run, audit, before, after)"""

MIN_CLASS = 10


@dataclass(frozen=True, kw_only=True)
class Job:
    """A configuration with everything it names opened and checked."""

    config: RetargetConfig
    base: NetworkDenoiser
    classifier: AttributeClassifier
    reference: ImageDataset | None
    target: Target
    settings: dict[str, Any]
    sampler: SamplerConfig
    device: torch.device


def prepare(config: RetargetConfig) -> Job:
    """Open what the configuration names. Raises InputError for what cannot work, before any file is written."""
    base = load_network(config.model)
    if config.classifier is None:
        classifier = classifier_for(config.attr, base.img_resolution, base.img_channels)
    else:
        classifier = load_classifier(config.classifier)
    if classifier.attribute.name != config.attr:
        raise InputError(
            f"the classifier {classifier.name} labels {classifier.attribute.name!r}, --attr is {config.attr!r}; "
            "give the attribute it labels or another --classifier"
        )
    # Refuses images of a shape that it was not made for.
    classifier.probabilities(torch.zeros(1, *base.shape, dtype=torch.uint8))
    target = parse_target(config.target, classifier.attribute)
    if target.number in (0, 1) or max(target.shares or (0,)) == 1:
        raise InputError(
            f"--target {config.target} leaves one class only; expected shares below 1: strength moves shares, it does "
            "not remove a class; select images by their labels instead"
        )
    reference = _reference(config, base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    digest = reference.digest if reference else None
    base.to(device).precision = config.precision
    digests = {"base_digest": checkpoint_digest(config.model), "classifier_digest": classifier.digest}
    return Job(
        config=config,
        base=base,
        classifier=classifier,
        reference=reference,
        target=target,
        settings=json.loads(json.dumps(config.as_dict() | digests | {"reference_digest": digest})),
        sampler=SamplerConfig(steps=config.steps),
        device=device,
    )


def _reference(config: RetargetConfig, base: NetworkDenoiser) -> ImageDataset | None:
    """The real data of the audit: as asked for, else what the base was trained on if that is labelled."""
    spec = config.reference or checkpoint_recipe(config.model).get("data")
    if spec is None:
        return None
    data = open_dataset(str(spec), resolution=base.img_resolution)
    if config.attr in data.attributes and data.channels == base.img_channels:
        return data
    if config.reference is None:
        return None
    labels = ", ".join(data.attributes) or "nothing"
    raise InputError(
        f"the reference {data.name} has {data.channels} channels and labels for {labels}; "
        f"expected {base.img_channels} and {config.attr}; give a labelled data set of the model's shape"
    )


def retarget(
    job: Job,
    run: Path,
    *,
    report: Report = lambda *_: None,
    publish: Publish = lambda *_: None,
    command: str = "",
) -> dict[str, Any]:
    """Carry out a retargeting in the folder `run`; returns the content of its `audit/audit.json`.

    `publish` makes figures and pages of the result, before the manifest is written and the run counts as finished.

    Raises ChangedSettings when the folder holds a run with other settings, InfeasibleTarget or InputError when the
    target or the pool cannot serve.
    """
    config = job.config
    settle_settings(run / "config.json", job.settings)
    status = _Status(run)
    try:
        with status.stage("pool"):
            pool = _sample(run / "pool", job.base, job, "pool", config.pool, _base_facts(job), report)
            probabilities = label_pool(pool, job.classifier)
        with status.stage("complement"):
            tau, plan, chosen, base_estimate = plan_and_draw(job, pool, probabilities)
            _write_complement(run, job, pool, probabilities, chosen, plan, tau)
        with status.stage("auxiliary"):
            aux = _auxiliary(run, job, pool, chosen, report)
        with status.stage("calibration"):
            calibration = _calibrate(run, job, aux, tau, plan, base_estimate, report)
        with status.stage("before"):
            before = _sample(run / "before", job.base, job, "audit", config.audit, _base_facts(job), report, "before")
        with status.stage("after"):
            retargeted, facts = _retargeted(run, job, aux, calibration.strength)
            after, selection = _after(run, job, retargeted, facts, calibration, tau, report)
        with status.stage("audit"):
            result = _audit(run, job, before, after, selection, tau, plan, chosen, calibration, status, command)
            report("audit", 1, 1)
        publish(run, result, before, after)
        write_manifest(run, {k: str(v) for k, v in job.settings.items() if k.endswith("_digest")})
        status.finish()
    except BaseException as e:
        status.fail(e)
        raise
    return result


def plan_and_draw(
    job: Job, pool: Pool, probabilities: np.ndarray
) -> tuple[np.ndarray, ComplementPlan, np.ndarray, ShareEstimate]:
    """Base shares from the labelled pool, the resolved target, the plan, and the complement set's pool positions."""
    classes = job.classifier.attribute.classes
    counts = predicted_counts(probabilities)
    estimate = corrected_shares(classes, counts, job.classifier.confusions[job.classifier.default_split])
    pi = np.array(estimate.share)
    tau = job.target.resolve(pi)
    for k, c in enumerate(classes):
        if tau[k] > 0 and counts[k] < MIN_CLASS:
            raise InputError(
                f"{counts[k]} of {len(pool)} pool images are {c}; expected {MIN_CLASS} or more: retargeting moves "
                "shares inside the base's domain; make the pool larger or use a base that shows the class"
            )
    plan = plan_complement(pi, tau, classes, omega=job.config.omega, cap=job.config.cap)
    chosen = draw_complement(
        probabilities, np.array(plan.complement), size=job.config.complement_size, floor=job.config.floor,
        seed=job.config.seed,
    )  # fmt: skip
    return tau, plan, chosen, estimate


def _sample(
    folder: Path, denoiser: Denoiser, job: Job, use: str, n: int, facts: dict[str, Any], report: Report,
    stage: str | None = None,
) -> Pool:  # fmt: skip
    seeds, stage = job.config.seeds(use, n), stage or use
    for done in write_pool(
        folder, denoiser, seeds, made_by=facts, sampler=job.sampler, batch_size=job.config.sample_batch
    ):
        report(stage, done, n)
    return Pool(folder)


def _base_facts(job: Job) -> dict[str, Any]:
    return {"kind": "base", "digest": job.settings["base_digest"]}


def _write_complement(
    run: Path,
    job: Job,
    pool: Pool,
    probabilities: np.ndarray,
    chosen: np.ndarray,
    plan: ComplementPlan,
    tau: np.ndarray,
) -> None:
    classes = job.classifier.attribute.classes
    table = pd.DataFrame(
        {
            "seed": pool.seeds[chosen],
            job.classifier.attribute.name: [classes[k] for k in probabilities[chosen].argmax(axis=1)],
            "probability": probabilities[chosen].max(axis=1),
        }
    )
    with atomic(run / "complement.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    content = asdict(plan) | {"target": as_mapping(tau, classes), "complement": as_mapping(plan.complement, classes)}
    content["reachable"] = as_mapping(plan.reachable, classes)
    write_json(run / "plan.json", content | {"complement_size": len(chosen)})


def _auxiliary(run: Path, job: Job, pool: Pool, chosen: np.ndarray, report: Report) -> NetworkDenoiser:
    config, folder = job.config, run / "auxiliary"
    data = pool_dataset(pool).subset(chosen, name="complement")
    settings = finetune_config(
        config.budget, batch_size=config.batch_size, lr=config.lr, precision=config.precision, seed=config.seed,
        xflip=bool(checkpoint_recipe(config.model).get("train", {}).get("xflip", False)),
        tick_kimg=max(0.05, config.budget / 40), state_kimg=max(0.05, config.budget / 8),
    )  # fmt: skip
    aux = load_network(config.model).to(job.device)
    recipe = {"kind": "auxiliary", "base_digest": job.settings["base_digest"]}
    for tick in train_folder(aux, data, settings, folder, recipe=recipe):
        report("auxiliary", tick.nimg, settings.steps * settings.batch_size)
    loaded = load_network(folder).to(job.device)
    loaded.precision = config.precision
    return loaded


def _combine(job: Job, aux: NetworkDenoiser, strength: float) -> Denoiser:
    if job.config.mode == "merged":
        return merge(job.base, aux, strength)
    return SIMSGuidance(job.base, aux, strength)


def _pilot_folder(run: Path, strength: float, n: int) -> Path:
    return run / "calibration" / f"{strength:.6f}-{n}"


def _calibrate(
    run: Path,
    job: Job,
    aux: NetworkDenoiser,
    tau: np.ndarray,
    plan: ComplementPlan,
    base: ShareEstimate,
    report: Report,
) -> Calibration:
    classifier, config = job.classifier, job.config
    confusion = classifier.confusions[classifier.default_split].rates()
    focus = tau > np.array(base.share)
    aux_digest = checkpoint_digest(run / "auxiliary")
    done_before = 0

    def values(pool: Pool) -> np.ndarray:
        return focus_values(label_pool(pool, classifier).argmax(axis=1), confusion, focus)

    def measure(strength: float, n: int) -> np.ndarray:
        nonlocal done_before
        facts = {"kind": config.mode, "digest": job.settings["base_digest"], "aux": aux_digest, "strength": strength}
        start = done_before
        pool = _sample(
            _pilot_folder(run, strength, n), _combine(job, aux, strength), job, "calibration", n, facts,
            lambda _, done, __: report("calibration", start + done, sum(config.pilots)),
        )  # fmt: skip
        done_before += n
        return values(pool)

    at_zero = values(Pool(run / "pool"))
    zero = Pilot(
        strength=0.0, share=float(at_zero.mean()), se=float(at_zero.std(ddof=1) / len(at_zero) ** 0.5), n=len(at_zero)
    )
    found = calibrate(
        measure, target=float(tau[focus].sum()), base=zero, start=plan.omega, cap=config.cap, sizes=config.pilots
    )
    table = pd.DataFrame([asdict(p) for p in found.pilots])
    with atomic(run / "calibration.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    return found


def _retargeted(run: Path, job: Job, aux: NetworkDenoiser, strength: float) -> tuple[Denoiser, dict[str, Any]]:
    """The retargeted model, saved as a checkpoint of the run, and what identifies it."""
    folder = run / job.config.mode
    recipe = {"kind": job.config.mode, "strength": strength, "base_digest": job.settings["base_digest"]}
    recipe["data"] = checkpoint_recipe(job.config.model).get("data")
    if not (folder / "config.json").exists():
        if job.config.mode == "merged":
            save_checkpoint(folder, merge(job.base, aux, strength), recipe=recipe)
        else:
            found = find_checkpoint(job.config.model)
            base = str(found.resolve()) if Path(job.config.model).is_dir() else job.config.model
            save_guided(folder, base, "../auxiliary", strength, recipe=recipe)
    facts = {"kind": job.config.mode, "digest": checkpoint_digest(folder), "strength": strength}
    return _combine(job, aux, strength), facts


def _after(
    run: Path, job: Job, denoiser: Denoiser, facts: dict[str, Any], calibration: Calibration, tau: np.ndarray,
    report: Report,
) -> tuple[Pool, Selection | None]:  # fmt: skip
    """The retargeted images on the audit seeds; beyond the cap, what classifier resampling keeps of more seeds."""
    n = job.config.audit
    if not calibration.at_cap:
        return _sample(run / "after", denoiser, job, "audit", n, facts, report, "after"), None
    classes = job.classifier.attribute.classes
    confusion = job.classifier.confusions[job.classifier.default_split]
    # At the cap the pilots repeat the same strength with more images: the largest of them says most.
    pilot = max(calibration.pilots, key=lambda p: (p.strength, p.n))
    last = Pool(_pilot_folder(run, pilot.strength, pilot.n))
    shares = corrected_shares(classes, predicted_counts(label_pool(last, job.classifier)), confusion).share
    selection = plan_selection(np.array(shares), confusion.rates(), tau)
    wanted = int(np.ceil(n * selection.images_per_kept * 1.08)) + 50
    candidates = _sample(run / "candidates", denoiser, job, "audit", wanted, facts, report, "after")
    predicted = label_pool(candidates, job.classifier).argmax(axis=1)
    kept = np.flatnonzero(accept(candidates.seeds, predicted, selection))[:n]
    select_pool(candidates, kept, run / "after", made_by=facts | {"selection": list(selection.keep)})
    return Pool(run / "after"), selection


def _audit(
    run: Path, job: Job, before: Pool, after: Pool, selection: Selection | None, tau: np.ndarray, plan: ComplementPlan,
    chosen: np.ndarray, calibration: Calibration, status: _Status, command: str,
) -> dict[str, Any]:  # fmt: skip
    config, classes = job.config, job.classifier.attribute.classes
    rule = None
    if selection is not None:
        candidates = predicted_counts(label_pool(Pool(run / "candidates"), job.classifier))
        kept = predicted_counts(label_pool(after, job.classifier))

        def rule(by: str) -> ShareEstimate:
            return selected_shares(classes, candidates, kept, job.classifier.confusions[by])

    nfe = {"before": before.meta["evaluations_per_image"], "after": after.meta["evaluations_per_image"]}
    per_kept = selection.images_per_kept if selection else 1.0
    facts: dict[str, Any] = {
        "model": config.model,
        "command": command,
        "method": {
            "mode": config.mode,
            "strength": calibration.strength,
            "expected_share": calibration.share,
            "planned_omega": plan.omega,
            "least_omega": plan.least_omega,
            "cap": config.cap,
            "complement": as_mapping(plan.complement, classes),
            "complement_size": len(chosen),
            "budget_kimg": config.budget,
            "reason": plan.reason,
            "resampled": selection is not None,
        },
        "calibration": [
            {
                "strength": p.strength,
                "share": p.share,
                "low": p.share - 1.96 * p.se,
                "high": p.share + 1.96 * p.se,
                "n": p.n,
            }
            for p in calibration.pilots
        ],
    }
    plan_of_audit = AuditPlan(target=tau, tolerance=config.tolerance)
    result = audit(
        before, after, job.classifier, plan_of_audit, reference=job.reference, after_shares=rule, facts=facts
    )
    section = result["attributes"][job.classifier.attribute.name]
    pi = np.array([section["before"][c]["share"] for c in classes])
    kept_cost = resampling_cost(pi, tau)
    result["cost"] = {
        "before": {"evaluations_per_image": nfe["before"]},
        "after": {"evaluations_per_image": nfe["after"], "images_per_kept": per_kept},
        "resampling_base": {"images_per_kept": kept_cost, "evaluations_per_kept": kept_cost * nfe["before"]},
        **status.cost(run),
    }
    write_audit(run / "audit", result)
    return result


class _Status:
    """`status.json` (what the run is doing) and `timings.json` (seconds per stage, added up over resumptions)."""

    def __init__(self, run: Path) -> None:
        self.run, self.current = run, ""
        path = run / "timings.json"
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.current, start = name, time.perf_counter()
        write_json(self.run / "status.json", {"stage": name, "state": "running", "message": ""})
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)
        write_json(self.run / "timings.json", self.seconds)

    def finish(self) -> None:
        write_json(self.run / "status.json", {"stage": self.current, "state": "finished", "message": ""})

    def fail(self, error: BaseException) -> None:
        # The disk may be what failed.
        with contextlib.suppress(OSError):
            message = " ".join(str(error).split()) or type(error).__name__
            write_json(self.run / "status.json", {"stage": self.current, "state": "failed", "message": message})

    def cost(self, run: Path) -> dict[str, Any]:
        import resource

        config = read_json(run / "config.json")
        nfe = {w: read_json(run / w / "pool.json")["evaluations_per_image"] for w in ("before", "after")}
        after_images = len(Pool(run / "candidates")) if (run / "candidates").exists() else config["audit"]
        images = {
            "pool": (config["pool"], nfe["before"]),
            "calibration": (sum(config["pilots"]), nfe["after"]),
            "before": (config["audit"], nfe["before"]),
            "after": (after_images, nfe["after"]),
        }
        # The audit itself is still running when this is written, except in a run killed just after it.
        spent = {s: t for s, t in self.seconds.items() if s != "audit"}
        stages = [
            {"stage": s, "seconds": t}
            | ({"images": images[s][0], "evaluations": images[s][0] * images[s][1]} if s in images else {})
            | ({"images": round(config["budget"] * 1000)} if s == "auxiliary" else {})
            for s, t in spent.items()
        ]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {"stages": stages, "seconds": round(sum(spent.values()), 1), "peak_memory_gb": round(peak, 2)}
