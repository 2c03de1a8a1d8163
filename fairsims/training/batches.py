"""What each step sees: images, noise levels, noise, distortions, all functions of (seed, images seen).

Every process draws for the whole batch and keeps its part, so that the batch is the same however it is cut.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fairsims.data.ahead import ahead
from fairsims.data.attributes import Attribute
from fairsims.data.base import ArraySource, HeldSource, ImageDataset, SubsetSource, to_float
from fairsims.data.latents import LatentSet
from fairsims.errors import InputError
from fairsims.models.base import NetworkDenoiser, Trainable
from fairsims.models.conditions import Conditions
from fairsims.models.objective import Batch
from fairsims.seeds import numpy_generator, torch_generator
from fairsims.training.augmentation import augment, draw_augmentation
from fairsims.training.config import TrainConfig

HELD_BYTES = 4 * 2**30
"""Images decoded from files are kept in memory up to this size; larger data are decoded again each time."""


def batches(
    dataset: ImageDataset | LatentSet, denoiser: Trainable, config: TrainConfig, *, first: int, rows: range
) -> Iterator[Batch]:
    """The batches of steps `first`, `first + 1`, ... to the end of the budget on the network's device: `rows` of each.

    With a GPU they are drawn one step ahead of it. Raises InputError when the data lack the classes that the network
    asks for.
    """
    device, steps = denoiser.device, range(first, config.steps)
    if isinstance(dataset, LatentSet):
        draw = partial(_draw_latents, dataset, denoiser, config, rows)
    else:
        draw = partial(_draw, _hold(dataset), denoiser, class_labels(dataset, denoiser.label_dim), config, rows)
    for drawn in map(draw, steps) if device.type == "cpu" else ahead(draw, steps, 1):
        yield _on_device(drawn, device)


def draw_images(dataset: ImageDataset, config: TrainConfig, step: int, rows: range) -> tuple[Tensor, np.ndarray]:
    """Images of a step, `(len(rows), C, H, W)` uint8, and their places in the data: each epoch is a permutation.

    Mirrored at random where asked.
    """
    indices = places(len(dataset), config, step, rows)
    images = dataset.read(indices)
    if config.xflip:
        flip = torch.rand(config.batch_size, generator=torch_generator(config.seed, "flip", step)) < 0.5
        images = torch.where(flip[rows.start : rows.stop, None, None, None], images.flip(3), images)
    return images, indices


def places(n: int, config: TrainConfig, step: int, rows: range) -> np.ndarray:
    """Which of `n` things a step sees, `(len(rows),)`: each epoch is a permutation."""
    positions = step * config.batch_size + np.arange(rows.start, rows.stop)
    epochs = positions // n
    order = {e: numpy_generator(config.seed, "order", int(e)).permutation(n) for e in np.unique(epochs)}
    return np.array([order[e][p % n] for e, p in zip(epochs, positions, strict=True)], dtype=np.int64)


def class_labels(dataset: ImageDataset, label_dim: int) -> Tensor | None:
    """One-hot classes of all images `(N, label_dim)`, None for a network without classes.

    A pool's images have the classes that they were generated with; other data need one attribute of as many classes.
    Raises InputError where there is none.
    """
    if not label_dim:
        return None
    if "condition" in dataset.table:
        return torch.eye(label_dim)[dataset.table["condition"].astype(int).tolist()]
    if "seed" in dataset.table:
        return Conditions.numbered(label_dim).one_hot(dataset.table["seed"].tolist())
    return torch.eye(label_dim)[dataset.class_indices(class_attribute(dataset, label_dim).name)]


def attribute_of(dataset: ImageDataset, name: str) -> Attribute:
    """The attribute of that name. Raises InputError where there is none, or an image without a label."""
    if (dataset.class_indices(name) < 0).any():
        raise InputError(f"{dataset.name} has images without a label for {name}; a condition needs one for every image")
    return dataset.attributes[name]


def class_attribute(dataset: ImageDataset, label_dim: int) -> Attribute:
    """The attribute that a network of so many classes is conditional on. Raises InputError where there is none."""
    fitting = [name for name, a in dataset.attributes.items() if len(a.classes) == label_dim]
    if len(fitting) != 1 or (dataset.class_indices(fitting[0]) < 0).any():
        raise InputError(
            f"{dataset.name} has {len(fitting)} attributes of {label_dim} classes with a label for every image; the "
            "model is conditional on so many classes: give data with one such attribute, or an unconditional model"
        )
    return dataset.attributes[fitting[0]]


def _draw_latents(dataset: LatentSet, network: Trainable, config: TrainConfig, rows: range, step: int) -> Batch:
    """This process's rows of a step, on the CPU: latents and their conditions.

    As labels an adapter has positions of prompts, a denoiser one-hot classes.
    """
    indices, own = places(len(dataset), config, step, rows), slice(rows.start, rows.stop)
    generator = torch_generator(config.seed, "noise", step)
    sigma, noise = network.draw_noise(config.batch_size, generator, mean=config.P_mean, std=config.P_std)
    labels: Tensor | None = dataset.conditions[indices]
    if isinstance(network, NetworkDenoiser):
        labels = torch.eye(network.label_dim)[labels] if network.label_dim else None
    latents = dataset.read(indices, torch_generator(config.seed, "posterior", step), config.batch_size, own)
    return Batch(images=latents, sigma=sigma[own], noise=noise[own], labels=labels)


def _draw(
    dataset: ImageDataset, denoiser: Trainable, labels: Tensor | None, config: TrainConfig, rows: range, step: int
) -> Batch:
    """This process's rows of a step, on the CPU and with images still uint8."""
    images, indices = draw_images(dataset, config, step, rows)
    own = slice(rows.start, rows.stop)
    generator = torch_generator(config.seed, "noise", step)
    sigma, noise = denoiser.draw_noise(config.batch_size, generator, mean=config.P_mean, std=config.P_std)
    drawn = Batch(images=images, sigma=sigma[own], noise=noise[own], labels=None if labels is None else labels[indices])
    if not config.augment:
        return drawn
    distortions = torch_generator(config.seed, "augment", step)
    return replace(drawn, augment_labels=draw_augmentation(config.batch_size, config.augment, distortions)[own])


def _on_device(drawn: Batch, device: torch.device) -> Batch:
    if device.type != "cpu":
        tensors = {name: t for name, t in vars(drawn).items() if t is not None}
        drawn = replace(drawn, **{name: t.pin_memory().to(device, non_blocking=True) for name, t in tensors.items()})
    # Latents are in a network's units already.
    images = to_float(drawn.images) if drawn.images.dtype == torch.uint8 else drawn.images
    if drawn.augment_labels is not None:
        images = augment(images, drawn.augment_labels)
    return replace(drawn, images=images)


class _Decoded:
    """Another source's images, each decoded at its first use and kept."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.source = dataset.source
        self.pixels = np.empty((len(dataset), *dataset.shape), np.uint8)
        self.known = np.zeros(len(dataset), dtype=bool)

    def images(self, indices: np.ndarray) -> np.ndarray:
        new = np.unique(indices[~self.known[indices]])
        if len(new):
            self.pixels[new] = self.source.images(new)
            self.known[new] = True
        return np.asarray(self.pixels[indices])


def _hold(dataset: ImageDataset) -> ImageDataset:
    source = dataset.source
    while isinstance(source, SubsetSource):
        source = source.source
    in_memory = isinstance(source, (ArraySource, HeldSource))
    if in_memory or len(dataset) * math.prod(dataset.shape) > HELD_BYTES:
        return dataset
    held = copy.copy(dataset)
    held.source = _Decoded(dataset)
    return held
