"""CLIP-T: how far images show what their prompts say, as the cosine of open_clip's image and text features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fairsims import engine
from fairsims.audit.features import CLIP, FeatureExtractor, open_extractor, stored_features
from fairsims.audit.joint import FloatArray
from fairsims.classifiers.backbones import digest_of
from fairsims.classifiers.clip import open_clip_model, text_features
from fairsims.files import sha256_json
from fairsims.pools import Pool


@dataclass(frozen=True, kw_only=True, eq=False)
class TextAgreement:
    """The cosine of an image's features and its prompt's (CLIPScore of Hessel et al. 2021, unscaled and uncut)."""

    name: str
    digest: str
    """SHA-256 over the model's weights and how it sees images."""
    extractor: FeatureExtractor
    texts: dict[str, FloatArray]
    """Normalised features `(d,)` of the prompts that images may be of."""

    @classmethod
    def open(cls, spec: str, prompts: Sequence[str], shape: tuple[int, int, int]) -> TextAgreement:
        """Of `clip:MODEL:PRETRAINED`, `clip:local-dir:PATH` or `clip:hf-hub:NAME`; the hub is asked for the last alone.

        Prompts longer than the model reads are cut, as open_clip cuts them. Raises InputError where the model cannot
        be loaded, read texts, or take images of this shape.
        """
        extractor = open_extractor(spec)
        extractor.features(torch.zeros((1, *shape), dtype=torch.uint8))
        place = spec.removeprefix(CLIP)
        model = open_clip_model(place)
        rows = text_features(model, place, prompts).double().numpy()
        return cls(
            name=f"CLIP-T ({spec})",
            digest=sha256_json([extractor.digest, digest_of(model)]),
            extractor=extractor,
            texts=dict(zip(prompts, rows, strict=True)),
        )

    def scores(self, pool: Pool, store: Path) -> FloatArray:
        """Cosine of each image with its prompt, `(N,)`; image features are kept in `store`."""
        with engine.main_first():
            images = np.asarray(stored_features(pool, self.extractor, store), dtype=np.float64)
        said = np.stack([self.texts[name] for name in pool.conditions])[pool.positions]
        return np.asarray((images * said).sum(axis=1) / np.maximum(np.linalg.norm(images, axis=1), 1e-9))
