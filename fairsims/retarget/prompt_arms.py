"""The arms of a comparison over prompts: what brings each prompt to its target, on the same audit seeds.

base: the pipeline as it is. words: the words of the explicit prompts, added to each image's prompt at random in the
target's shares. resampled: what classifier resampling keeps of the base's images, each prompt at rates of its own.
positive: an adapter of images in the target's mix. negative: that of the complement, led away from. negative-positive:
both, their ranks side by side. control: led away from an adapter of the pool as it is, at the negative arm's strength.
unconditional: the negative arm's adapter in the unconditional branch of guidance alone (Diffusion-NPO).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fairsims import engine
from fairsims.audit.draws import Draws, counted, selected
from fairsims.audit.joint import FloatArray
from fairsims.audit.prompts import PromptShares
from fairsims.errors import InfeasibleTarget, InputError, NoResponse, closest
from fairsims.models import PipelineModel
from fairsims.pools import Pool, join_pools
from fairsims.retarget.prompt_plan import PromptPlan
from fairsims.retarget.prompt_run import PromptRetargeting
from fairsims.retarget.selection import accept, plan_selection
from fairsims.retarget.shrinkage import shrunk

PROMPT_ARMS = ("base", "words", "resampled", "positive", "negative", "negative-positive", "control", "unconditional")
ADAPTERS = {
    "positive": ("target-mix",),
    "negative": ("complement",),
    "negative-positive": ("auxiliary", "positive"),
    "control": ("pool-mix",),
    "unconditional": ("complement",),
}
"""The adapters that an arm is made of, by the folders that they are trained in."""
MODES = {"positive": "towards", "unconditional": "unconditional"}
"""How an arm's adapter acts, where it is not led away from."""
MOST = 64
"""Images at most for one that classifier resampling keeps."""
SPARE = 1.25
"""How many more are made than are expected to be needed."""


@dataclass(frozen=True, kw_only=True)
class PromptArm:
    """One of the ways, with its images."""

    name: str
    images: Pool
    """As many of every prompt."""
    shares: PromptShares
    images_per_kept: float = 1.0
    """Images made for each kept one, the mean over the prompts that are selected."""
    strength: float | None = None
    calibration: list[dict[str, Any]] = field(default_factory=list)
    """What was tried, JSON rows."""
    note: str = ""
    """What stands in for a calibration, or what of the arm is not as in the others."""


def arms_left_out(work: PromptRetargeting) -> dict[str, str]:
    """The arms that these prompts and this pipeline do not allow, and why."""
    found, model = {}, work.model
    neutral = work.prompts.of("neutral")
    wordless = next((t for t in neutral if not _wanted(work, t) <= set(work.prompts.explicit(t))), None)
    if wordless is not None:
        missing = sorted(_wanted(work, wordless) - set(work.prompts.explicit(wordless)))
        found["words"] = f"{work.prompts.name} has no explicit prompt of {wordless!r} for {' or '.join(missing)}"
        found["negative-positive"] = found["words"]
    elif work.config.positive == "never":
        found["negative-positive"] = "--positive is never"
    if not model.pipeline.guided_by_two(model.settings):
        found["unconditional"] = "the pipeline is sampled without an unconditional branch"
    elif model.pipeline.unconditional == "zeros" and work.config.layers == "cross-attention":
        found["unconditional"] = "the unconditional branch is zeros, on which cross-attention does nothing"
    return found


def _wanted(work: PromptRetargeting, text: str) -> set[str]:
    """The classes that a prompt's target has some of."""
    even = np.full(len(work.classes), 1 / len(work.classes))
    shares = work.targets[text].resolve(even)
    attribute = work.classifiers[0].attribute
    return {c for c, share in zip(work.classes, shares, strict=True) if share > 0 and c in attribute.determined}


def chosen_arms(work: PromptRetargeting, asked: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """The arms in their order, all that are possible where none are asked for; and what is left out, with why.

    Raises InputError for an unknown or impossible one, and for the control without the arm whose strength it takes.
    """
    impossible = arms_left_out(work)
    if not asked:
        return tuple(name for name in PROMPT_ARMS if name not in impossible), impossible
    for name in asked:
        if name not in PROMPT_ARMS:
            raise InputError(f"--arms has {name!r}{closest(name, PROMPT_ARMS)}")
        if name in impossible:
            raise InputError(f"--arms has {name}, which is not possible: {impossible[name]}; leave it out")
    if "control" in asked and "negative" not in asked:
        raise InputError("--arms has control without negative, whose strength it takes; give both")
    # The base is what all others are read against.
    return tuple(name for name in PROMPT_ARMS if name in asked or name == "base"), {}


@dataclass(kw_only=True)
class ArmsWork:
    """The arms of a retargeting over prompts, made one by one."""

    work: PromptRetargeting
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        self.texts = tuple(p.text for p in self.work.prompts.items)
        self.base = self.work.model.asking(prompts=self.texts)
        self.plans = {"alone": self.work.planned("never")}
        if "negative-positive" in self.names:
            asked = self.work.config.positive
            found = self.work.planned(asked)
            self.plans["both"] = found if found.positive is not None else self.work.planned("always")

    # Training.

    def train(self) -> None:
        """Train the adapters that the arms need, each once."""
        alone, both = self.plans["alone"], self.plans.get("both")
        needed = dict.fromkeys(folder for name in self.names for folder in ADAPTERS.get(name, ()))
        if not needed:
            return
        found = self.work.material(both or alone)
        mixes: dict[str, tuple[FloatArray, bool]] = {
            "target-mix": (alone.target, True),
            "complement": (alone.negative, False),
            "pool-mix": (alone.pi, False),
        }
        if both is not None and both.positive is not None:
            mixes |= {"auxiliary": (both.negative, False), "positive": (both.positive, True)}
        # All are refused before any is trained.
        sets = {name: self.work.drawn(name, found, mixes[name][0], explicit=mixes[name][1]) for name in needed}
        for name, data in sets.items():
            self.work.train(name, data)

    # Images.

    def make(self) -> tuple[dict[str, PromptArm], dict[str, str]]:
        """The arms by name, and those that came to nothing with why."""
        made: dict[str, PromptArm] = {}
        failed: dict[str, str] = {}
        for name in self.names:
            try:
                made[name] = self._arm(name, made)
            except InfeasibleTarget as e:
                failed[name] = str(e)
        return made, failed

    def _arm(self, name: str, made: dict[str, PromptArm]) -> PromptArm:
        if name == "base":
            return self._plain(name, self.base)
        if name == "words":
            return self._worded()
        if name == "resampled":
            return self._resampled(made["base"].images)
        if name == "control":
            strength = made["negative"].strength
            assert strength is not None
            return self._plain(name, self.at(name)(strength), strength=strength, note="the negative arm's strength")
        return self._calibrated(name)

    def at(self, name: str) -> Callable[[float], PipelineModel]:
        """An arm's model at a strength."""
        folders = [self.work.run.folder / folder for folder in ADAPTERS[name]]
        positive = folders[1] if len(folders) > 1 else None
        mode = MODES.get(name, "merged")
        return lambda strength: self.work.model.retargeted(folders[0], strength, mode, positive=positive)

    def start(self, name: str) -> float:
        """An arm's planned strength."""
        plan: PromptPlan = self.plans["both" if name == "negative-positive" else "alone"]
        return min(1.0, self.work.config.cap) if name == "positive" else plan.strength

    def _calibrated(self, name: str) -> PromptArm:
        at, start = self.at(name), self.start(name)
        try:
            calibrated = self.work.calibrate(at, start, f"{name}/calibration")
        except NoResponse:
            # So it stands in the table: what the arm does at the strength that was planned.
            note = "its share does not rise with the strength: the planned one"
            return self._plain(name, at(start), strength=start, note=note)
        found = calibrated.calibration
        note = "beyond the cap" if found.at_cap else ""
        return self._plain(name, at(found.strength), strength=found.strength, calibration=calibrated.rows, note=note)

    def _plain(self, name: str, model: PipelineModel, **facts: Any) -> PromptArm:
        """An arm whose images are all kept."""
        with self.work.run.stage(name):
            asked = model.asking(prompts=self.texts)
            pool = self.work.images(self.folder(name) / "images", asked, "audit", self.work.config.audit, stage=name)
        shares = PromptShares.of(self.texts, self.work.counts(pool), self.work.confusion)
        return PromptArm(name=name, images=pool, shares=shares, **facts)

    def folder(self, name: str) -> Path:
        """Where an arm's images are."""
        return self.work.run.folder / name

    def _worded(self) -> PromptArm:
        """Every neutral prompt with the words of a class, drawn in the target's shares for each image by itself."""
        work, variants, wordless = self.work, {}, 0
        attribute = work.classifiers[0].attribute
        for text in work.prompts.of("neutral", "held-out"):
            known = work.prompts.worded(text)
            if _wanted(work, text) <= set(known):
                even = np.full(len(work.classes), 1 / len(work.classes))
                asked = dict(zip(work.classes, work.targets[text].resolve(even), strict=True))
                of_words = {known[c]: float(asked[c]) for c in attribute.determined if asked[c] > 0}
                total = sum(of_words.values())
                variants[text] = {said: share / total for said, share in of_words.items()}
            else:
                wordless += 1
        note = f"{wordless} held-out prompts have no such words" if wordless else ""
        model = self.base.asking(variants=variants)
        with work.run.stage("words"):
            pool = work.images(self.folder("words") / "images", model, "audit", work.config.audit, stage="words")
        shares = PromptShares.of(self.texts, work.counts(pool), work.confusion)
        return PromptArm(name="words", images=pool, shares=shares, note=note)

    # Classifier resampling.

    def _resampled(self, audit: Pool) -> PromptArm:
        """The base's images of each neutral and held-out prompt, kept at rates from its shares on calibration seeds.

        The first candidates are the base's audit images; more are made of the prompts that still lack some, on the
        seeds after theirs. All other prompts are as the base's.
        """
        work, folder = self.work, self.folder("resampled")
        names = work.prompts.of("neutral", "held-out")
        with work.run.stage("resampled/calibration"):
            model = work.model.asking(prompts=names)
            seen = work.images(folder / "calibration", model, "calibration", work.config.calibration, stage="resampled")
        pi = shrunk(counted(work.counts(seen), [work.confusion], "calibration").point, work.config.calibration)
        rates = {
            self.texts.index(text): plan_selection(
                row, work.confusion.rates(), work.targets[text].resolve(row), slack=1.0
            )
            for text, row in zip(names, pi, strict=True)
        }
        wanted, size = work.config.audit, len(self.texts)
        candidates, have = [audit], dict.fromkeys(rates, wanted)
        with work.run.stage("resampled"):
            while True:
                kept = self._kept(candidates, rates)
                more = {}
                for p, selection in rates.items():
                    lacking = wanted - len(kept[p])
                    extra = int(np.ceil(max(lacking, 0) * selection.images_per_kept * SPARE))
                    if extra and have[p] < MOST * wanted:
                        more[p] = min(extra, MOST * wanted - have[p])
                if not more:
                    break
                seeds = [
                    work.config.seeds("audit", have[p] + n, size)[j * size + p]
                    for p, n in more.items()
                    for j in range(have[p], have[p] + n)
                ]
                place = folder / f"candidates-{len(candidates)}"
                candidates.append(work.made(place, self.base, sorted(seeds), stage="resampled"))
                have |= {p: have[p] + n for p, n in more.items()}
        return self._selected(candidates, kept, rates)

    def _kept(self, candidates: Sequence[Pool], rates: dict[int, Any]) -> dict[int, np.ndarray]:
        """Of each prompt that is selected the seeds that are kept, no more than wanted, `(n,)` in order."""
        seeds = np.concatenate([pool.seeds for pool in candidates])
        predicted = np.concatenate([self.work.predicted(pool) for pool in candidates])
        found = {}
        for p, selection in rates.items():
            of = np.flatnonzero(seeds % len(self.texts) == p)
            of = of[np.argsort(seeds[of])]
            found[p] = seeds[of[accept(seeds[of], predicted[of], selection)]][: self.work.config.audit]
        return found

    def _selected(self, candidates: Sequence[Pool], kept: dict[int, np.ndarray], rates: dict[int, Any]) -> PromptArm:
        work, size = self.work, len(self.texts)
        if none := [p for p, seeds in kept.items() if not len(seeds)]:
            raise InfeasibleTarget(
                f"classifier resampling keeps none of {MOST * work.config.audit:,} images of {self.texts[none[0]]!r}"
            )
        first = candidates[0].seeds[0]
        wanted = np.concatenate(list(kept.values()))
        parts = [
            (pool, np.flatnonzero(np.isin(pool.seeds, wanted) | ~np.isin(pool.positions, list(rates))))
            for pool in candidates
        ]
        selection = {self.texts[p]: list(s.keep) for p, s in rates.items()}
        folder = self.folder("resampled") / "images"
        with engine.main_first():
            if work.run.main:
                join_pools(parts, folder, made_by=self.base.made_by() | {"selection": selection})
        pool = Pool(folder)
        work.labels(pool)
        seeds = np.concatenate([p.seeds for p in candidates])
        predicted = np.concatenate([work.predicted(p) for p in candidates])
        counts = work.counts(pool)
        shares = PromptShares.of(self.texts, counts, work.confusion)
        point, values = shares.draws.point.copy(), shares.draws.values.copy()
        spent = []
        for p, found in kept.items():
            short = len(found) < work.config.audit
            last = seeds[seeds % size == p].max() if short else found[-1]
            tried = predicted[(seeds % size == p) & (seeds <= last)]
            made = np.bincount(tried, minlength=len(work.classes))
            # Selected by the classifier that judges it: its errors are known of the candidates alone.
            draws = selected(made, counts[p], [work.confusion])
            point[p], values[:, p] = draws.point[0], draws.values[:, 0]
            spent.append(((last - first) // size + 1) / len(found))
        few = sum(len(found) < work.config.audit for found in kept.values())
        note = f"{few} prompts have fewer than {work.config.audit} images at {MOST} made for a kept one" if few else ""
        return PromptArm(
            name="resampled",
            images=pool,
            shares=PromptShares(names=self.texts, counts=counts, draws=Draws(point=point, values=values)),
            images_per_kept=float(np.mean(spent)),
            note=note,
        )
