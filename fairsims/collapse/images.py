"""Loops on real images, with the engine of `retarget`: each generation's base is trained from scratch in a checkpoint
folder, its images are a pool, SIMS's auxiliary is a fine-tuned copy and its guidance the usual one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairsims import engine
from fairsims.audit.neighbours import Nearest, manifold, nearest_training
from fairsims.audit.quality import FrechetReference, frechet_distance, moments_of
from fairsims.audit.shares import corrected_shares
from fairsims.classifiers import classifier_for, features_of, label_batches, load_classifier
from fairsims.collapse.config import EXACT, Cell, CollapseConfig, Composition
from fairsims.collapse.loop import Loop, Row, State
from fairsims.data import ImageDataset, embedded, open_dataset
from fairsims.data.base import ArraySource
from fairsims.errors import InputError, closest
from fairsims.files import read_json, sha256_json, write_json
from fairsims.models import Model, ModelSpec, fastest_precision, open_model
from fairsims.models.sampling import SamplerConfig
from fairsims.pools import Pool, pool_dataset, write_pool
from fairsims.run import Progress, silent
from fairsims.seeds import derive, numpy_generator
from fairsims.training import Tick, finetune_settings, train_auxiliary, train_folder
from fairsims.training.base import PRESETS, new_network, pixel_deviation

STRIDE = 2**20
"""Seeds a generation of a repeat may use; the first half for what it makes, the second for the auxiliary's set."""
SMALL = 16
"""Up to this resolution the network is that of the digits at half its width, above it that of the emoji people."""


EMBEDDED = {"digits": ("digits-skewed", "parity", 8), "emoji-people": ("emoji-people-skewed", "gender", 32)}
"""Data set, attribute and resolution: of the skewed sets, where one in four images is of the second class, the minority
that a loop may lose."""


class ImageLoop(Loop):
    """A setting of images. What a generation was and made lies in folders; there is no other state."""

    headline = "fd"

    def __init__(self, config: CollapseConfig, out: Path, progress: Progress = silent) -> None:
        """Raises InputError when data, classifier and sizes do not fit each other."""
        super().__init__(config)
        self.root, self.progress = out / "images", progress
        data, attribute, resolution = EMBEDDED.get(config.setting, (config.setting, None, None))
        if data not in embedded.EMBEDDED and not Path(data).exists():
            known = closest(config.setting, [*EXACT, *EMBEDDED])
            raise InputError(f"found no setting or path {config.setting!r}{known}")
        self.data = open_dataset(data, resolution=resolution)
        if attribute is None and config.classifier is None:
            raise InputError(f"no classifier for {self.data.name}; give --classifier, its features measure the drift")
        if config.classifier is not None:
            self.classifier = load_classifier(config.classifier)
        else:
            self.classifier = classifier_for(str(attribute), self.data.resolution, self.data.channels)
        small = self.data.resolution <= SMALL
        self.preset = PRESETS["digits-8" if small else "emoji-people-32"]
        # Loops train many networks: the small images' preset is wider than their drift needs.
        self.width = config.width or (16 if small else self.preset.network["model_channels"])
        self.precision = fastest_precision(engine.device())
        self.sampler = SamplerConfig(steps=config.steps, solver=config.solver)
        self.digest = sha256_json([self.data.digest, self.classifier.digest])
        self.n = self._size()
        self.sigma_data = pixel_deviation(self.data)
        self.real = features_of(self.classifier, self.data.batches())
        self.reference = FrechetReference.of(moments_of(self.real))

    @property
    def facts(self) -> dict[str, Any]:
        attribute = self.classifier.attribute
        return {
            "data": self.data.name,
            "images": len(self.data),
            "width": self.width,
            "classifier": self.classifier.name,
            "metric": f"FD ({self.classifier.name} features)",
            "attribute": attribute.name,
            "classes": list(attribute.classes),
            "precision": self.precision,
        }

    def _size(self) -> int:
        """Real images of generation 1; fresh data are never shown twice, which limits it."""
        config, n = self.config, len(self.data)
        rounds = config.generations - 1 if config.loop == "fresh" else 0
        most = math.floor(n / (1 + max(config.levels) * rounds))
        if (config.n or most) > most or most < 10:
            raise InputError(
                f"{self.data.name} has {n} images, enough for {most} in generation 1 of {config.generations} with "
                f"alpha {max(config.levels):g}; expected --n of at most that, fewer generations or a smaller --alpha"
            )
        return config.n or most

    def generation(self, g: int, cell: Cell, state: State) -> tuple[State, list[Row]]:
        rows = []
        for r in range(self.config.repeats):
            path = self._folder(cell, r, g) / "row.json"
            if not path.exists():
                write_json(path, self._repeat(g, cell, r))
            rows.append(dict(read_json(path)))
            self.progress(f"{cell.name}, generation {g}", r + 1, self.config.repeats)
        return {"done": np.array([float(g)])}, rows

    def _folder(self, cell: Cell, r: int, g: int) -> Path:
        return self.root / cell.name / f"repeat-{r}" / f"generation-{g:03d}"

    def _repeat(self, g: int, cell: Cell, r: int) -> Row:
        config, folder, seed = self.config, self._folder(cell, r, g), self._seed(r, g)
        # Before there is anything synthetic all cells are alike: they share the first base.
        trained = self.root / "first" / f"repeat-{r}" if g == 1 else folder
        data = self._training_set(config.composition(cell.level, g, self.n), g, cell, r)
        self._train_new(trained / "base", data, seed, config.kimg, self.width)
        spec = ModelSpec(base=str(trained / "base"), sampler=self.sampler, precision=self.precision, mark=config.mark)
        model = base = open_model(spec)
        if cell.method == "sims":
            size = max(2, round(config.auxiliary_size * self.n))
            own = self._pool(trained / "own", base, self._seeds(r, g, size, offset=STRIDE // 2))
            self._train_auxiliary(trained / "auxiliary", base, pool_dataset(own), derive(seed, "auxiliary"))
            model = base.retargeted(trained / "auxiliary", config.omega, "guided")
        size = max(config.samples, config.composition(cell.level, 2, self.n).synthetic)
        return self._measure(self._pool(folder / "pool", model, self._seeds(r, g, size)))

    def _training_set(self, parts: Composition, g: int, cell: Cell, r: int) -> ImageDataset:
        """Fixed, fresh and synthetic images of a generation. Repeats differ in which real ones they have, if any are
        left out."""
        order = numpy_generator(self.config.seed, "real", r).permutation(len(self.data))
        start = self.n + (g - 2) * parts.fresh
        sets = [self.data.subset(order[: parts.fixed]), self.data.subset(order[start : start + parts.fresh])]
        if parts.synthetic:
            made = pool_dataset(Pool(self._folder(cell, r, g - 1) / "pool"))
            sets.append(made.subset(np.arange(parts.synthetic)))
        return joined([s for s in sets if len(s)], name=f"generation {g}")

    def _train_auxiliary(self, folder: Path, base: Model, own: ImageDataset, seed: int) -> None:
        """Train the auxiliary of a base on the base's own samples: a copy, or a new network of half the width."""
        if self.config.auxiliary == "narrow":
            self._train_new(folder, own, seed, self.config.budget, self.width // 2)
            return
        settings = finetune_settings(base, self.config.budget, seed=seed, precision=self.precision)
        self._follow(train_auxiliary(base, own, settings, folder), folder, settings.kimg)

    def _train_new(self, folder: Path, data: ImageDataset, seed: int, kimg: float, width: int) -> None:
        """Train a network from scratch; its ramp and its averaging are as much shorter than the preset's as its
        training is."""
        preset, shorter = self.preset.train, min(1.0, kimg / self.preset.train.kimg)
        settings = replace(
            preset,
            kimg=kimg,
            seed=seed,
            precision=self.precision,
            warmup_kimg=preset.warmup_kimg * shorter,
            ema_halflife_kimg=preset.ema_halflife_kimg * shorter,
            tick_kimg=max(0.5, kimg / 8),
            state_kimg=16.0,
        )
        network = self.preset.network | {"sigma_data": self.sigma_data, "model_channels": width}
        recipe = {"kind": "generation", "data": self.data.name, "network": network}
        start = new_network(data, settings, network)
        self._follow(train_folder(start, data, settings, folder, recipe=recipe), folder, kimg)

    def _follow(self, ticks: Iterator[Tick], folder: Path, kimg: float) -> None:
        for tick in ticks:
            self.progress("/".join(folder.parts[-4:]), tick.nimg, round(1000 * kimg))

    def _pool(self, folder: Path, model: Model, seeds: range) -> Pool:
        for done in write_pool(folder, model, seeds):
            self.progress("/".join(folder.parts[-4:]), done, len(seeds))
        return Pool(folder)

    def _measure(self, pool: Pool) -> Row:
        """Distances on the classifier's features and shares of its attribute, of the first `samples` images."""
        count = min(self.config.samples, len(pool))
        images = [pool.read(part) for part in np.array_split(np.arange(count), max(1, count // 256))]
        features, classes = features_of(self.classifier, images), self.classifier.attribute.classes
        found = label_batches(self.classifier, images).argmax(axis=1)
        counts = np.bincount(found, minlength=len(classes)).tolist()
        shares = corrected_shares(classes, counts, self.classifier.confusions.get(self.classifier.default_split))
        few = min(count, len(self.real))
        chosen = numpy_generator(0, "real", len(self.real)).permutation(len(self.real))[:few]
        inside = manifold(self.real[chosen], features[:few])
        near = Nearest.of(nearest_training(features, self.real)[0])
        row: Row = {"fd": frechet_distance(self.reference, moments_of(features))} | asdict(inside)
        row["nearest_median"] = near.median
        for k, name in enumerate(classes):
            row |= {f"share.{name}": shares.share[k], f"low.{name}": shares.low[k], f"high.{name}": shares.high[k]}
        return row

    def _seed(self, r: int, g: int) -> int:
        return derive(self.config.seed, "repeat", r, "generation", g)

    def _seeds(self, r: int, g: int, n: int, *, offset: int = 0) -> range:
        """Seeds of a generation of a repeat, the same for all methods and levels, of another `--seed` all others."""
        if n > STRIDE // 2:
            raise InputError(f"a generation needs {n} images; expected at most {STRIDE // 2}; ask for fewer")
        # The first 2^32 seeds are seed 0's, one stride after another for 128 repeats of 32 generations; everything
        # else has a stride of its own among 2^43.
        first = self.config.seed == 0 and r < 128 and g <= 32
        place = r * 32 + g - 1 if first else self._seed(r, g) // STRIDE
        start = place * STRIDE + offset
        return range(start, start + n)


def joined(parts: Sequence[ImageDataset], *, name: str) -> ImageDataset:
    """Several data sets of one shape as one in memory, without labels."""
    return ImageDataset(
        name=name,
        digest=sha256_json([p.digest for p in parts]),
        resolution=parts[0].resolution,
        channels=parts[0].channels,
        source=ArraySource(np.concatenate([batch.numpy() for p in parts for batch in p.batches()])),
        table=pd.DataFrame({"part": [str(k) for k, p in enumerate(parts) for _ in range(len(p))]}),
        attributes={},
    )
