"""What runs, sweeps and comparisons are put together from: labelled images, drawn sets, auxiliaries, strengths.

Each function leaves whole files in the folder it is given and reads what is finished there: called again after a kill
it goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairsims import engine
from fairsims.audit.compare import ShareRule
from fairsims.audit.estimates import ShareEstimate
from fairsims.audit.joint import Cells
from fairsims.audit.sources import label_source
from fairsims.audit.targets import as_mapping
from fairsims.classifiers import AttributeClassifier
from fairsims.errors import InfeasibleTarget
from fairsims.files import atomic, write_json
from fairsims.models import Denoiser, NetworkDenoiser, checkpoint_digest, load_network
from fairsims.pools import Pool, grow_pool, pool_dataset, select_pool, write_pool
from fairsims.retarget.calibration import Calibration, Pilot, as_pilot, calibrate, focus_values
from fairsims.retarget.complement import ComplementPlan, draw_complement, plan_complement
from fairsims.retarget.goal import Goal, set_goal
from fairsims.retarget.job import Job, combine_networks, finetune_settings
from fairsims.retarget.selection import Selection, accept, plan_selection, selected_joint_shares
from fairsims.run import Progress
from fairsims.training import train_folder

SCARCE = 20
"""Joint cells with fewer candidates than this do not limit the size of the complement set."""
SELECTION_SLACK = 0.01
"""How far selecting may leave the share of one of more than two cells off its target."""


@dataclass(frozen=True)
class Auxiliary:
    """A fine-tuned network in the folder that it was trained into."""

    folder: Path
    network: NetworkDenoiser

    @cached_property
    def digest(self) -> str:
        """Of its weights."""
        return checkpoint_digest(self.folder)


def sample(
    folder: Path, denoiser: Denoiser, job: Job, use: str, n: int, facts: dict[str, Any], progress: Progress, stage: str
) -> Pool:
    """The first `n` images on the seeds of a use, labelled by every classifier of the job."""
    seeds = job.config.seeds(use, n)
    for done in write_pool(
        folder, denoiser, seeds, made_by=facts, sampler=job.sampler, batch_size=job.config.sample_batch
    ):
        progress(stage, done, n)
    pool = Pool(folder)
    with engine.main_first():
        labels(pool, job)
    return pool


def labels(pool: Pool, job: Job) -> list[np.ndarray]:
    """Probabilities `(N, K)` of every attribute's classes."""
    return [label_source(pool, c) for c in job.classifiers]


def predicted(pool: Pool, job: Job) -> np.ndarray:
    """Predicted cell of each image, `(N,)`."""
    return job.cells.place([p.argmax(axis=1) for p in labels(pool, job)])


def base_facts(job: Job) -> dict[str, Any]:
    """What identifies the base in a pool's settings."""
    return {"kind": "base", "digest": job.settings["base_digest"]}


def write_set(path: Path, pool: Pool, cells: Cells, of: Sequence[np.ndarray], chosen: np.ndarray) -> None:
    """A table of the images of a drawn set: seed, class of every attribute, probability of all of these together.

    `of` are the pool's class probabilities `(N, K)` for the attributes of `cells`, `chosen` positions in it.
    """
    columns: dict[str, Any] = {"seed": pool.seeds[chosen]}
    for attribute, p in zip(cells.attributes, of, strict=True):
        columns[attribute.name] = [attribute.classes[k] for k in p[chosen].argmax(axis=1)]
    columns["probability"] = cells.probabilities([p[chosen] for p in of]).max(axis=1)
    with atomic(path) as temporary:
        pd.DataFrame(columns).to_parquet(temporary, index=False)


def numbered(name: str, number: int) -> str:
    """`name` in the first round, `name-2` in the second."""
    return name if number == 1 else f"{name}-{number}"


def joint_cells(job: Job) -> Cells | None:
    """What a complement of several attributes is planned on."""
    return job.cells if len(job.classifiers) > 1 else None


def first_plan(job: Job, pool: Pool) -> tuple[Goal, ComplementPlan]:
    """Where the labelled pool of the base is, where it has to go, and the complement that the rule plans for it.

    Raises InputError or InfeasibleTarget when the pool cannot serve the targets.
    """
    config, cells = job.config, job.cells
    goal = set_goal(
        cells, [p.argmax(axis=1) for p in labels(pool, job)], job.confusions, job.targets,
        tolerance=config.tolerance, drift=config.drift,
    )  # fmt: skip
    return goal, plan_complement(
        goal.base, goal.target, cells.names, omega=config.omega, cap=config.cap, cells=joint_cells(job)
    )


def draw_set(folder: Path, job: Job, goal: Goal, pool: Pool, plan: ComplementPlan, number: int = 1) -> np.ndarray:
    """Draw a round's complement set and write its table and how it was planned; its positions in the pool."""
    config, names, of = job.config, goal.cells.names, labels(pool, job)
    chosen = draw_complement(
        goal.cells.probabilities(of), np.array(plan.complement), size=config.complement_size, seed=config.seed,
        # Every attribute's class has to be that sure.
        floor=config.floor ** len(of), scarce=SCARCE if len(of) > 1 else 0, names=names,
    )  # fmt: skip
    if not engine.is_main():
        return chosen
    name = numbered("complement", number)
    write_set(folder / f"{name}.parquet", pool, goal.cells, of, chosen)
    content = asdict(plan) | {
        "target": as_mapping(goal.target, names),
        "complement": as_mapping(plan.complement, names),
        "reachable": as_mapping(plan.reachable, names),
        "complement_size": len(chosen),
    }
    if len(of) > 1:
        content |= {"base": as_mapping(goal.base, names), "attributes": goal.as_json()}
    write_json(folder / f"{name}.json", content)
    return chosen


def fine_tune(
    job: Job, pool: Pool, chosen: np.ndarray, folder: Path, progress: Progress, *, kimg: float, kind: str = "auxiliary",
    snapshots: Sequence[float] = (),
) -> None:  # fmt: skip
    """Train a copy of the base into `folder`, on the images at these pool positions."""
    network = load_network(job.config.model).to(job.device)
    settings = finetune_settings(job.config, kimg)
    recipe = {"kind": kind, "base_digest": job.settings["base_digest"]}
    data = pool_dataset(pool).subset(chosen, name=f"the set drawn from {pool.folder}")
    for tick in train_folder(network, data, settings, folder, recipe=recipe, snapshots=snapshots):
        progress(folder.name, tick.nimg, settings.steps * settings.batch_size)


def load_auxiliary(job: Job, folder: Path) -> Auxiliary:
    """The network that `fine_tune` left in `folder`."""
    network = load_network(folder).to(job.device)
    network.precision = job.config.precision
    return Auxiliary(folder, network)


def retargeting(job: Job, aux: Auxiliary, strength: float) -> Denoiser:
    """Base and auxiliary at a strength, in the mode of the run."""
    return combine_networks(job, aux.network, strength, mode=job.config.mode, interval=job.config.interval)


def retargeting_facts(job: Job, aux: Auxiliary, strength: float) -> dict[str, Any]:
    """What identifies them in a pool's settings."""
    facts = base_facts(job) | {"kind": job.config.mode, "aux": aux.digest, "strength": strength}
    return facts | ({"interval": list(job.config.interval)} if job.config.interval else {})


def calibrate_strength(
    job: Job, goal: Goal, aux: Auxiliary, planned: float, pool: Pool, folder: Path, progress: Progress
) -> Calibration:
    """The strength that reaches the goal, from pilots in `folder` and a table of them beside it.

    `planned` is where to start, `pool` the base's, the pilot at strength 0.
    """
    config, done_before = job.config, 0

    def values(images: Pool) -> np.ndarray:
        return focus_values(predicted(images, job), goal.confusion, goal.focus)

    def measure(strength: float, n: int) -> np.ndarray:
        nonlocal done_before
        start = done_before
        images = sample(
            _pilot_folder(folder, strength, n), retargeting(job, aux, strength), job, "calibration", n,
            retargeting_facts(job, aux, strength),
            lambda _, done, __: progress(folder.name, start + done, max(start + n, sum(config.pilots))), folder.name,
        )  # fmt: skip
        done_before += n
        return values(images)

    found = calibrate(
        measure, target=float(goal.target[goal.focus].sum()), base=as_pilot(values(pool), 0.0), start=planned,
        cap=config.cap, sizes=config.pilots, confirm=goal.cells.size > 2,
    )  # fmt: skip
    if engine.is_main():
        with atomic(folder.with_name(f"{folder.name}.parquet")) as temporary:
            pd.DataFrame([asdict(p) for p in found.pilots]).to_parquet(temporary, index=False)
    return found


def _pilot_folder(folder: Path, strength: float, n: int) -> Path:
    return folder / f"{strength:.6f}-{n}"


def pilot_pools(calibration: Calibration, pool: Pool, folder: Path) -> list[Pool]:
    """The images of every pilot: first the base's pool, then what `calibrate_strength` left in `folder`."""
    return [pool, *(Pool(_pilot_folder(folder, p.strength, p.n)) for p in calibration.pilots[1:])]


def shares_at(job: Job, goal: Goal, calibration: Calibration, folder: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """Shares over the cells at the chosen strength: those of the largest pilot, moved along the line to the base's.

    Also the standard errors of each attribute's shares. `folder` has the pilots.
    """
    # Of several as large, the nearest to the chosen strength says most; at the cap that is the cap itself.
    pilot: Pilot = max(
        (p for p in calibration.pilots if p.strength > 0),
        key=lambda p: (p.n, -abs(p.strength - calibration.strength)),
    )
    found = predicted(Pool(_pilot_folder(folder, pilot.strength, pilot.n)), job)
    measured = goal.measured(found)
    moved = goal.base + (measured - goal.base) * (calibration.strength / pilot.strength)
    inside = np.clip(moved, 0, None)
    return np.asarray(inside / inside.sum()), goal.noise(found)


def selection_for(goal: Goal, shares: np.ndarray) -> Selection:
    """What classifier resampling has to keep of images with these shares over the cells."""
    slack = SELECTION_SLACK if goal.cells.size > 2 else 0.0
    return plan_selection(shares, goal.confusion, goal.target, slack=slack)


def remainder(goal: Goal, calibration: Calibration, shares: np.ndarray, noise: list[np.ndarray]) -> Selection | None:
    """What resampling has to add to the strength, for shares over the cells measured with this noise; None for nothing.

    That is where no strength reaches the target, and where one strength left some of several shares clearly off.
    Raises InfeasibleTarget when the classifier cannot select what no strength reaches.
    """
    if calibration.at_cap:
        return selection_for(goal, shares)
    if goal.cells.size > 2 and goal.clearly_off(shares, noise):
        with contextlib.suppress(InfeasibleTarget):
            return selection_for(goal, shares)
    return None


def kept_images(
    folder: Path, denoiser: Denoiser, job: Job, facts: dict[str, Any], selection: Selection | None, progress: Progress,
    stage: str,
) -> Pool:  # fmt: skip
    """A model's images on the audit seeds in `folder`; with a selection, what it keeps of more of them.

    Those it is drawn from are then in `candidates` beside the folder.
    """
    n = job.config.audit
    if selection is None:
        return sample(folder, denoiser, job, "audit", n, facts, progress, stage)
    place, wanted = folder.with_name("candidates"), int(np.ceil(n * selection.images_per_kept * 1.08)) + 50
    if (place / "pool.json").exists():
        [[first, last]] = Pool(place).meta["seeds"]
        wanted = max(wanted, last - first + 1)
    while True:
        candidates = sample(place, denoiser, job, "audit", wanted, facts, progress, stage)
        kept = np.flatnonzero(accept(candidates.seeds, predicted(candidates, job), selection))[:n]
        if len(kept) == n:
            break
        # The acceptance rates rest on measured shares: now and then fewer images are kept than they promise.
        wanted = int(np.ceil(wanted * n / max(len(kept), n // 4) * 1.05)) + 50
        engine.barrier()  # growing drops the labels, which every process has to have read
        with engine.main_first():
            if engine.is_main():
                grow_pool(place, wanted)
    with engine.main_first():
        if engine.is_main():
            select_pool(candidates, kept, folder, made_by=facts | {"selection": list(selection.keep)})
    return Pool(folder)


def selected_shares(job: Job, candidates: Pool, kept: Pool) -> ShareRule:
    """How to estimate the shares of images that were kept by their labels."""
    seen, left = (np.bincount(predicted(p, job), minlength=job.cells.size) for p in (candidates, kept))

    def rule(classifier: AttributeClassifier, by: str) -> ShareEstimate:
        own = [c.confusions.get(by, c.confusions[c.default_split]) for c in job.classifiers]
        return selected_joint_shares(job.cells, seen, left, own)[job.classifiers.index(classifier)]

    return rule
