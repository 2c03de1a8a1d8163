"""One retargeting: what its settings name, opened, and the stages of which retarget, compare and sweep consist.

Each stage leaves whole files in the run's folder and reads what is finished there: called again after a kill, it goes
on.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairsims import engine
from fairsims.audit.facts import Power
from fairsims.audit.features import FeatureExtractor, classifier_features, pool_features
from fairsims.audit.joint import MOST_CELLS, Cells
from fairsims.audit.targets import Target
from fairsims.classifiers import AttributeClassifier
from fairsims.classifiers.base import Confusion
from fairsims.classifiers.labelling import label_source
from fairsims.data import ImageDataset
from fairsims.data.attributes import Attribute
from fairsims.data.latents import LatentSet
from fairsims.files import atomic
from fairsims.models import DenoiserModel, open_model
from fairsims.pools import Pool, grow_pool, pool_dataset, pool_latents, select_pool, write_pool
from fairsims.retarget.calibration import Calibration, Look, as_pilot, calibrate, focus_values
from fairsims.retarget.complement import ComplementPlan, plan_complement
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.contrast import Contrast, contrast_set, raked_strata
from fairsims.retarget.drawing import draw_complement, write_set
from fairsims.retarget.each import set_goal_of_each
from fairsims.retarget.goal import Goal, set_goal
from fairsims.retarget.selection import SelectedShares, Selection, accept
from fairsims.run import Progress, Run
from fairsims.training import TrainConfig
from fairsims.training.auxiliary import learnt, train_auxiliary

SCARCE = 20
"""Joint cells with fewer candidates than this do not limit the size of the complement set."""
SHOWN = 64
"""Images of the base on audit seeds at most: as many as a grid of a report has."""

At = Callable[[float], DenoiserModel]
"""The retargeted model at a strength."""


@dataclass(kw_only=True)
class Retargeting:
    """Settings with everything that they name opened and checked; in a run also the stages of it."""

    config: RetargetConfig
    model: DenoiserModel
    """The base as it is."""
    classifiers: tuple[AttributeClassifier, ...]
    """One per attribute: first those with a target, then those preserved."""
    others: tuple[AttributeClassifier, ...]
    """Of attributes that are neither: a paired contrast is alike in them."""
    targets: tuple[Target, ...]
    """Of the first attributes, in order."""
    reference: ImageDataset | None
    power: Power
    """How many images the audit has, and how surely it will say that a target is reached."""
    asked: Attribute | None = None
    """The classes that the model is asked for, where the targets hold in each; None: in all images together."""
    settings: dict[str, Any]
    """The configuration and the digests of what it names: what a run's `config.json` has."""
    run: Run = field(init=False)
    """The run that the stages below belong to, once it has begun."""

    @property
    def classifier(self) -> AttributeClassifier:
        """The first attribute's."""
        return self.classifiers[0]

    @property
    def cells(self) -> Cells:
        """The joint cells of all attributes; of a single one its classes. Targets in each class asked for: by it."""
        attributes = tuple(c.attribute for c in self.classifiers)
        return Cells(attributes=attributes if self.asked is None else (*attributes, self.asked))

    @property
    def confusions(self) -> list[Confusion]:
        """Each classifier's errors on its default split; the class asked for is known."""
        found = [c.confusions[c.default_split] for c in self.classifiers]
        return found if self.asked is None else [*found, Confusion.without_errors(len(self.asked.classes))]

    @property
    def alike(self) -> tuple[AttributeClassifier, ...]:
        """The other attributes in which the sets of a paired contrast are alike: as many as joint cells allow."""
        room, found = MOST_CELLS // self.cells.size, list[AttributeClassifier]()
        for classifier in self.others:
            room //= len(classifier.attribute.classes)
            if room == 0:
                break
            found.append(classifier)
        return tuple(found)

    @property
    def strata(self) -> Cells:
        """The cells by the classes of the attributes that are `alike`."""
        own = Attribute(name=" & ".join(a.name for a in self.cells.attributes), classes=self.cells.names)
        return Cells(attributes=(own, *(c.attribute for c in self.alike)))

    @property
    def kinds(self) -> list[np.ndarray]:
        """The class of every image of the pool in the attributes that are `alike`, each `(N,)`."""
        return [label_source(self.pool, c).argmax(axis=1) for c in self.alike]

    @property
    def watched(self) -> tuple[AttributeClassifier, ...]:
        """Those of `others` that the audit measures."""
        return self.others if self.config.others else ()

    @property
    def shown(self) -> int:
        """Images of the base on audit seeds, to be looked at beside those of the retargeted model."""
        return min(SHOWN, self.power.n)

    @property
    def most_rounds(self) -> int:
        """Fine-tunes at most: two shares are one number, which one strength serves."""
        return self.config.rounds if self.cells.size > 2 else 1

    def retargeted(self, auxiliary: Path, strength: float, positive: Path | None = None) -> DenoiserModel:
        """The model with what is trained in these folders at a strength, in the mode of the settings."""
        config = self.config
        return self.model.retargeted(auxiliary, strength, config.combined, config.interval, positive=positive)

    def tuned(self, folder: Path) -> DenoiserModel:
        """The network that `fine_tune` left in `folder`, by itself."""
        return open_model(replace(self.model.spec, base=str(folder)))

    # Images and their labels.

    def images(
        self,
        folder: Path,
        model: DenoiserModel,
        use: str,
        n: int,
        *,
        stage: str = "",
        progress: Progress | None = None,
        facts: Mapping[str, Any] | None = None,
        first: int = 0,
    ) -> Pool:
        """`n` images on the seeds of a use from `first`, labelled for every attribute; `facts` join the model's."""
        progress, stage = progress or self.run.progress, stage or folder.name
        for done in write_pool(folder, model, self.config.seeds(use, first + n)[first:], facts=facts):
            progress(stage, done, n)
        pool = Pool(folder)
        self.labels(pool)
        return pool

    def labels(self, pool: Pool) -> list[np.ndarray]:
        """Probabilities `(N, K)` of every attribute's classes."""
        return [label_source(pool, c) for c in self.classifiers]

    def calls(self, pool: Pool) -> list[np.ndarray]:
        """Probabilities `(N, K)` for every attribute of the cells: `labels`, and the class asked for."""
        labels = self.labels(pool)
        return labels if self.asked is None else [*labels, np.eye(len(self.asked.classes))[pool.positions]]

    def predicted(self, pool: Pool) -> np.ndarray:
        """Predicted cell of each image, `(N,)`."""
        return self.cells.place([p.argmax(axis=1) for p in self.calls(pool)])

    @contextlib.contextmanager
    def features(self, *pools: Pool, extractors: Sequence[FeatureExtractor] = ()) -> Iterator[Path]:
        """A folder with the pools' features, made by every process; it goes afterwards.

        They are the first classifier's, or those of the `extractors`.

        Labels of the attributes that are only watched are made, too, and stay.

        Without a reference nothing is measured on them, and none are made.
        """
        store = self.run.folder / "features"
        for pool in pools:
            for classifier in self.watched:
                label_source(pool, classifier)
        if self.reference is not None:
            for pool in pools:
                for extractor in extractors or (classifier_features(self.classifier),):
                    pool_features(pool, extractor, store, engine.current())
        yield store
        # The other processes pass here earlier, and wait for rank 0 before they make features again.
        if self.run.main:
            shutil.rmtree(store, ignore_errors=True)

    def kept_images(self, folder: Path, model: DenoiserModel, selection: Selection | None, *, stage: str = "") -> Pool:
        """A model's images on the audit seeds in `folder`; with a selection, what it keeps of more of them.

        Those that it is drawn from are then in `candidates` beside the folder.
        """
        n, stage = self.power.n, stage or folder.name
        if selection is None:
            return self.images(folder, model, "audit", n, stage=stage)
        place, wanted = folder.with_name("candidates"), int(np.ceil(n * selection.images_per_kept * 1.08)) + 50
        if (place / "pool.json").exists():
            [[first, last]] = Pool(place).meta["seeds"]
            wanted = max(wanted, last - first + 1)
        while True:
            candidates = self.images(place, model, "audit", wanted, stage=stage)
            kept = np.flatnonzero(accept(candidates.seeds, self.predicted(candidates), selection))[:n]
            if len(kept) == n:
                break
            # The acceptance rates rest on measured shares: now and then fewer images are kept than they promise.
            wanted = int(np.ceil(wanted * n / max(len(kept), n // 4) * 1.05)) + 50
            engine.barrier()  # growing drops the labels, which every process has to have read
            with engine.main_first():
                if self.run.main:
                    grow_pool(place, wanted)
        with engine.main_first():
            if self.run.main:
                select_pool(candidates, kept, folder, made_by=model.made_by() | {"selection": list(selection.keep)})
        kept_pool = Pool(folder)
        self.labels(kept_pool)  # here, where every process is: the audit is rank 0's alone
        return kept_pool

    def selected_shares(self, candidates: Pool, kept: Pool) -> SelectedShares:
        """How to estimate the shares of images that were kept by their labels."""
        return SelectedShares(
            cells=self.cells,
            own=Cells(attributes=tuple(c.attribute for c in self.classifiers)),
            sides=(self._place(candidates), self._place(kept)),
            classifiers=self.classifiers,
        )

    def _place(self, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
        """Predicted cell and condition of each image."""
        return self.predicted(pool), pool.positions

    # The stages.

    @cached_property
    def pool(self) -> Pool:
        """The images of the base that all else is planned on and drawn from; made when first asked for."""
        with self.run.stage("pool"):
            return self.images(self.run.folder / "pool", self.model, "pool", self.config.pool)

    @cached_property
    def goal(self) -> Goal:
        """Where the base's shares are and where they have to go. Raises as `set_goal`."""
        found = set_goal if self.asked is None else set_goal_of_each
        return found(
            self.cells,
            [p.argmax(axis=1) for p in self.calls(self.pool)],
            self.confusions,
            self.targets,
            tolerance=self.config.tolerance,
            drift=self.config.drift,
        )

    def first_plan(self) -> ComplementPlan:
        """The complement that the rule plans. Raises InputError or InfeasibleTarget as `plan_complement`."""
        cells = Cells(attributes=self.goal.attributes) if len(self.classifiers) > 1 else None
        return plan_complement(
            self.goal.base,
            self.goal.target,
            self.cells.names,
            omega=self.config.omega,
            cap=self.config.cap,
            cells=cells,
            conditions=1 if self.asked is None else len(self.asked.classes),
        )

    def draw_set(
        self, name: str, shares: Sequence[float] | np.ndarray, size: int | None, *, raked: bool = False
    ) -> np.ndarray:
        """Draw a set in this mix of cells from the pool; its positions there, and a table of it.

        `raked`: with the pool's mix of the attributes that are `alike`.
        """
        of = self.calls(self.pool)
        probabilities, names, mix = self.cells.probabilities(of), self.cells.names, np.array(shares)
        if raked := raked and len(self.alike) > 0:
            probabilities, mix = raked_strata(self.strata, probabilities, self.kinds, mix)
            names = self.strata.names
        chosen = draw_complement(
            probabilities,
            mix,
            size=size,
            seed=self.config.seed,
            names=names,
            # Every attribute's class has to be that sure.
            floor=self.config.floor ** len(self.classifiers),
            scarce=SCARCE if len(of) > 1 or raked else 0,
        )
        self.write_set(name, chosen)
        return chosen

    def write_set(self, name: str, chosen: np.ndarray) -> None:
        """The table of a set of images at these positions in the pool."""
        path = self.run.folder / f"{name}.parquet"
        with engine.main_first():
            if not path.exists():
                write_set(path, self.pool, self.cells, self.calls(self.pool), chosen)

    def draw_contrast(self, name: str, complement: np.ndarray, plan: ComplementPlan) -> Contrast:
        """Draw what a paired contrast puts in the place of the complement set, and a table of it."""
        cells = self.cells.probabilities(self.calls(self.pool))
        sizes, kinds = [len(c.attribute.classes) for c in self.alike], self.kinds
        if self.asked is not None:
            # An image gives way to one that was asked for by the same class, where there is one.
            sizes, kinds = [*sizes, len(self.asked.classes)], [*kinds, self.pool.positions]
        found = contrast_set(
            complement,
            cells.argmax(axis=1),
            cells.max(axis=1) >= self.config.floor ** len(self.classifiers),
            np.ravel_multi_index(kinds, sizes) if sizes else np.zeros(len(cells), dtype=np.int64),
            self.goal.base - np.array(plan.complement),
            replaced=self.config.replaced,
            seed=self.config.seed,
            names=self.cells.names,
        )
        self.write_set(name, found.chosen)
        return found

    def fine_tune(
        self, folder: Path, chosen: np.ndarray, *, kimg: float, kind: str = "auxiliary", snapshots: Sequence[float] = ()
    ) -> None:
        """Train a copy of the base into `folder`, on the images at these positions in the pool."""
        whole = pool_latents(self.pool) if self.model.latent else pool_dataset(self.pool)
        data = whole.subset(chosen, name=f"the set drawn from {self.pool.folder}")
        settings = fine_tuning(self.config, self.model.recipe, kimg)
        self.train_on(folder, data, settings, kind=kind, rank=self.config.rank, snapshots=snapshots)

    def train_on(
        self,
        folder: Path,
        data: ImageDataset | LatentSet,
        settings: TrainConfig,
        *,
        kind: str = "auxiliary",
        rank: int | None = None,
        snapshots: Sequence[float] = (),
    ) -> None:
        """Train a copy of the base, or of low rank what is added to it, into `folder` on any data."""
        for tick in train_auxiliary(self.model, data, settings, folder, kind=kind, rank=rank, snapshots=snapshots):
            self.run.progress(folder.name, tick.nimg, settings.steps * settings.batch_size)

    def calibrate(self, at: At, planned: float, folder: Path) -> Calibration:
        """The strength that reaches the goal, from looks in `folder` and a table of the strengths beside it.

        `planned` is where to start; the pool is the pilot at strength 0. Raises NoResponse as `calibrate` does.
        """
        goal = self.goal

        def values(images: Pool) -> np.ndarray:
            return focus_values(self.predicted(images), goal.confusion, goal.focus)

        def measure(look: Look) -> np.ndarray:
            def progress(stage: str, done: int, _: int) -> None:
                self.run.progress(stage, look.first + done, self.config.calibration)

            place, model = look_folder(folder, look), at(look.strength)
            stage = folder.name
            return values(
                self.images(place, model, "calibration", look.n, first=look.first, stage=stage, progress=progress)
            )

        found = calibrate(
            measure,
            target=float(goal.target[goal.focus].sum()),
            base=as_pilot(values(self.pool), 0.0),
            start=planned,
            cap=self.config.cap,
            images=self.config.calibration,
            tolerance=self.config.tolerance,
        )
        if self.run.main:
            with atomic(folder.with_name(f"{folder.name}.parquet")) as temporary:
                pd.DataFrame([asdict(p) for p in found.pilots]).to_parquet(temporary, index=False)
        return found

    def shares_at(self, calibration: Calibration, folder: Path) -> tuple[np.ndarray, list[np.ndarray]]:
        """Shares over the cells at the chosen strength, and the standard errors of each attribute's shares.

        Every share is read off the images in `folder` and the base's with the weights that the fit of the calibration
        gives each strength.
        """
        goal, predicted = self.goal, [self.predicted(self.pool)]
        for pilot in calibration.pilots[1:]:
            looks = [Pool(look_folder(folder, look)) for look in calibration.looks if look.strength == pilot.strength]
            predicted.append(np.concatenate([self.predicted(images) for images in looks]))
        # The base's are those that all else is planned on.
        shares = calibration.weights @ np.array([goal.base, *(goal.measured(p) for p in predicted[1:])])
        inside = np.clip(shares, 0, None)
        errors = [[w * se for se in goal.noise(p)] for w, p in zip(calibration.weights, predicted, strict=True)]
        noise = [np.sqrt(np.square(of).sum(axis=0)) for of in zip(*errors, strict=True)]
        return np.asarray(inside / inside.sum()), noise


def look_folder(folder: Path, look: Look) -> Path:
    """Where `Retargeting.calibrate` leaves the images of a look."""
    return folder / f"{look.strength:.6f}-{look.first}"


def fine_tuning(config: RetargetConfig, recipe: Mapping[str, Any], kimg: float) -> TrainConfig:
    """How an auxiliary is trained for `kimg` thousand images: on in the way the base was trained in."""
    return config.fine_tuning(kimg, **learnt(recipe))
