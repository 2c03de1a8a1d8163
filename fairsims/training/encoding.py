"""Images as latents to train on: encoded once by a VAE, and kept in the cache by the digests of images and VAE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairsims import engine
from fairsims.data import ImageDataset
from fairsims.data.latents import LatentSet, Posterior
from fairsims.errors import InputError
from fairsims.files import cache_folder, read_json, sha256_json, write_json
from fairsims.models.codec import Codec

FINAL_STD = 0.5
"""Of the latents that a network is trained on, with mean 0, as EDM2's are."""
CHUNK = 1024
"""Images after which a killed encoding goes on."""
SAMPLE = 4096
"""Latents that scale and bias are measured on."""


def encoded(
    dataset: ImageDataset, vae: str | Path, conditions: Tensor, known: Mapping[str, Any] | None = None
) -> tuple[LatentSet, dict[str, Any]]:
    """A data set's latents with the condition of each `(N,)`, and the `codec` facts of a network trained on them.

    What the encoder says of an image is kept, mean and standard deviation: a latent is drawn anew whenever it is
    trained on. `known` are the facts of a network that was trained on latents already; without them scale and bias
    bring every channel to mean 0 and standard deviation 0.5 (EDM2, arXiv 2312.02696). Rank 0 encodes.
    Raises InputError for a VAE or images that do not fit.
    """
    codec = Codec(vae, known, engine.device())
    with engine.main_first():
        path = _encode(dataset, codec)
    # Copied on write, which never happens: the file stays as it is, and is read as it is needed.
    stored = torch.from_numpy(np.load(path, mmap_mode="c"))
    facts = {"vae": Path(vae).name, **({k: list(known[k]) for k in ("scale", "bias")} if known else _scales(stored))}
    scale, bias = (torch.tensor(facts[k], dtype=torch.float32)[:, None, None] for k in ("scale", "bias"))
    posterior = Posterior(scale=scale, bias=bias)
    digest = sha256_json([dataset.digest, codec.weights_digest, facts["scale"], facts["bias"]])
    name = f"the latents of {dataset.name}"
    return LatentSet(name=name, digest=digest, latents=stored, conditions=conditions, posterior=posterior), facts


def _encode(dataset: ImageDataset, codec: Codec) -> Path:
    """The file of all means and standard deviations, `(N, 2C, h, w)` float32; goes on from what a kill left."""
    key = sha256_json([dataset.digest, codec.weights_digest])[:24]
    path = cache_folder("latents") / f"{key}.npy"
    part, count = path.with_suffix(".part"), path.with_suffix(".json")
    if path.exists():
        return path
    shape = (len(dataset), *codec.encoded_shape(dataset.shape))
    done = int(read_json(count)["done"]) if part.exists() and count.exists() else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.lib.format.open_memmap(part, mode="r+" if done else "w+", dtype=np.float32, shape=shape)
    while done < len(dataset):
        wanted = range(done, min(done + CHUNK, len(dataset)))
        rows[wanted.start : wanted.stop] = codec.encode(dataset.read(wanted)).numpy()
        rows.flush()
        done = wanted.stop
        write_json(count, {"done": done})
    del rows
    part.rename(path)
    count.unlink()
    return path


def _scales(stored: Tensor) -> dict[str, list[float]]:
    """Scale and bias of each channel from evenly spaced latents, in five digits: they end up in a configuration."""
    rows = stored[np.unique(np.linspace(0, len(stored) - 1, SAMPLE).astype(int))].double()
    mean, std = rows.chunk(2, dim=1)
    middle = mean.mean(dim=(0, 2, 3))
    spread = (mean.var(dim=(0, 2, 3)) + std.square().mean(dim=(0, 2, 3))).sqrt()
    if not bool((spread > 0).all()):
        raise InputError("the VAE gives a channel of latents that is always the same; give another one")
    scale = [float(f"{FINAL_STD / s:.5g}") for s in spread.tolist()]
    return {"scale": scale, "bias": [float(f"{-m * s:.5g}") for m, s in zip(middle.tolist(), scale, strict=True)]}
