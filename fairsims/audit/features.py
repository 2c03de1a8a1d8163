"""Feature extractors behind one contract, and features kept in files: computed once for the same images and extractor.

Inception and DINOv2 are as torch-fidelity has them, beside them are open_clip and a classifier. What is measured
depends on how images are resized and scaled; every extractor says how it does, and a digest stands for all of it.
Features of different extractors, or of one with another resize, never compare.

Those of a pool are made shard by shard, each a task of an engine. A file that is broken, or cut off, is made again.
"""

from __future__ import annotations

import io
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fairsims import engine
from fairsims.audit.random_features import LARGEST, RandomNetwork
from fairsims.classifiers.backbones import digest_of, open_backbone
from fairsims.classifiers.base import AttributeClassifier, batch_size
from fairsims.classifiers.checkpoints import load_classifier
from fairsims.data.sources import ImageSource
from fairsims.engine import device
from fairsims.errors import InputError, closest
from fairsims.files import atomic, sha256_json
from fairsims.pools import Part, PartTask, Pool

INCEPTION = "inception"
RANDOM = "random"
CLIP = "clip:"
TF1_RESIZE = "bilinear as in TensorFlow 1, without antialiasing (torch-fidelity)"


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor:
    """Images to features, and what decides them."""

    name: str
    weights_digest: str
    input_size: int
    """Side of the square that the network sees."""
    resize: str
    """How images are brought to that size, in words."""
    run: Callable[[Tensor], Tensor]
    """uint8 `(B, C, H, W)` to `(B, d)`."""
    reopen: Callable[[], FeatureExtractor] | None = None
    """Makes it anew in another process, on the device there; None where it has to be sent whole."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return super().__reduce_ex__(protocol) if self.reopen is None else (self.reopen, ())

    @property
    def metric(self) -> str:
        """What a Fréchet distance between such features is called."""
        return "FID" if self.name == INCEPTION else f"FD ({self.name} features)"

    @property
    def digest(self) -> str:
        """SHA-256 over what decides the features."""
        return sha256_json(self.facts())

    def facts(self) -> dict[str, Any]:
        """What an audit says about the extractor, JSON."""
        return {
            "name": self.name,
            "weights_digest": self.weights_digest,
            "input_size": self.input_size,
            "resize": self.resize,
        }

    def features(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, d)`. Raises InputError when the images do not fit."""
        with torch.inference_mode():
            return self.run(images).to(torch.float32)


def open_extractor(
    spec: str = "classifier", *, classifier: AttributeClassifier | None = None, weights: Path | None = None
) -> FeatureExtractor:
    """The extractor of a name: "classifier" (the one given), "random" (a network that was never trained), "inception",
    "dinov2-vit-b-14" and its other sizes, or "clip:MODEL:PRETRAINED", "clip:hf-hub:NAME", "clip:local-dir:PATH".

    `weights` is a file with Inception's, which are downloaded otherwise; DINOv2's code and weights come from its
    authors by torch.hub. Raises InputError for an unknown name and where weights are missing or not the right ones.
    """
    again = partial(open_extractor, spec, classifier=classifier, weights=weights)
    return replace(_open(spec, classifier, weights), reopen=again)


def _open(spec: str, classifier: AttributeClassifier | None, weights: Path | None) -> FeatureExtractor:
    if weights is not None and spec != INCEPTION:
        raise InputError(f"a file of weights was given for {spec!r}; only {INCEPTION!r} takes one")
    if spec == "classifier":
        if classifier is None:
            raise InputError("features of a classifier were asked for and there is none; name another extractor")
        return classifier_features(classifier)
    if spec == RANDOM:
        return _random()
    # Not needed for a classifier's, and slow to import.
    from torch_fidelity.feature_extractor_dinov2 import MODEL_METADATA as DINOV2

    if spec == INCEPTION:
        return _inception(weights)
    if spec in DINOV2:
        return _dinov2(spec)
    if spec.startswith(CLIP):
        backbone = open_backbone(spec, load_classifier)
        p = backbone.preprocessing
        resize = f"{p['interpolation']}, {p['resize']}; embeddings of length 1"
        return FeatureExtractor(
            name=spec, weights_digest=backbone.digest, input_size=p["size"], resize=resize, run=backbone.features
        )
    names = ["classifier", RANDOM, INCEPTION, *DINOV2, "clip:MODEL:PRETRAINED", "clip:local-dir:PATH"]
    raise InputError(f"found no feature extractor {spec!r}{closest(spec, names)}")


def classifier_features(classifier: AttributeClassifier) -> FeatureExtractor:
    """A classifier's penultimate features."""
    return FeatureExtractor(
        name=classifier.name,
        weights_digest=classifier.digest,
        input_size=classifier.input_size,
        resize="as the classifier does",
        run=classifier.features,
    )


def _random() -> FeatureExtractor:
    network = RandomNetwork().eval().to(device())
    return FeatureExtractor(
        name=RANDOM,
        weights_digest=digest_of(network),
        input_size=LARGEST,
        resize=f"larger ones by area to {LARGEST} pixels; grey repeated",
        run=partial(_run_random, network),
    )


def _inception(weights: Path | None) -> FeatureExtractor:
    from torch_fidelity import FeatureExtractorInceptionV3
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    # The constructor unpickles whatever it is given: it gets a copy of what was read as tensors and nothing else.
    plain = io.BytesIO()
    torch.save(_downloaded(URL_INCEPTION_V3) if weights is None else _tensors(weights), plain)
    plain.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=plain)
    except (RuntimeError, TypeError, AttributeError) as e:
        raise InputError(
            f"{weights or URL_INCEPTION_V3} has other weights than the Inception network "
            f"({_first_line(e)}); expected those of {URL_INCEPTION_V3}"
        ) from None
    return _torch_fidelity(network, INCEPTION, FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE)


def _dinov2(name: str) -> FeatureExtractor:
    from torch_fidelity import FeatureExtractorDinoV2

    try:
        network = FeatureExtractorDinoV2(name, ["dinov2"])
    except (OSError, RuntimeError, ImportError) as e:
        raise InputError(
            f"cannot load {name} ({_first_line(e)}); it takes facebookresearch/dinov2 and its weights from the "
            f"internet, or from {torch.hub.get_dir()}"
        ) from None
    return _torch_fidelity(network, name, FeatureExtractorDinoV2.INPUT_IMAGE_SIZE)


def _torch_fidelity(network: nn.Module, name: str, size: int) -> FeatureExtractor:
    network = network.eval().requires_grad_(False).to(device())
    return FeatureExtractor(
        name=name,
        weights_digest=digest_of(network),
        input_size=size,
        resize=f"{TF1_RESIZE}; grey repeated",
        run=partial(_run_torch_fidelity, network, name),
    )


def _run_random(network: nn.Module, images: Tensor) -> Tensor:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return torch.as_tensor(network(images.to(device())))


def _run_torch_fidelity(network: nn.Module, name: str, images: Tensor) -> Tensor:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        found = f"{images.dtype} images {tuple(images.shape)}".removeprefix("torch.")
        raise InputError(f"{name} got {found}; expected uint8 (B, 1 or 3, H, W)")
    # Convolutions in TF32 would make features depend on the GPU's generation.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return torch.as_tensor(network(images.to(device()).expand(-1, 3, -1, -1))[0])


def _tensors(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other kinds, which fail just after
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"found no weights {path}; give the file that torch-fidelity downloads") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as e:
        raise InputError(f"{path} cannot be read as weights ({_first_line(e)}); expected a state dict") from None


def _downloaded(url: str) -> Any:
    try:
        return torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as e:
        raise InputError(
            f"cannot download {url} ({_first_line(e)}); fetch it elsewhere and give its path (--inception-weights)"
        ) from None


def _first_line(e: Exception) -> str:
    return (str(e).splitlines() or [type(e).__name__])[0][:200]


PIXELS = 2**23
"""Of a batch, at the size that the network sees: 256 images up to 181 pixels wide, 93 of Inception's 299."""

FeatureTable = npt.NDArray[np.float32]
Tally = Callable[[int, int], None]
"""(images done, of how many)"""


@dataclass(frozen=True, kw_only=True)
class FeatureTask(PartTask):
    """The features of one shard of a pool."""

    extractor: str
    """Its digest."""

    @property
    def makes(self) -> str:
        return "the features"


def stored_features(
    source: ImageSource, extractor: FeatureExtractor, store: Path, progress: Tally = lambda *_: None
) -> FeatureTable:
    """Features `(N, d)` of all images in order, in a file of `store` that is read in place.

    This process makes what is missing. Of a pool that is the shards which `pool_features` has not made yet.
    Memory does not grow with N: rows go to the file as they are made. Raises InputError for a source without images
    and for features that are not finite.
    """
    path, n = _table(source, extractor, store), len(source)
    found = _read(path, n)
    if found is not None:
        return found
    if not n:
        raise InputError(f"{source.name} has no images; there is nothing to measure")
    if isinstance(source, Pool):
        parts = pool_features(source, extractor, store, engine.own(), progress)
        for _ in _write(path, (np.load(part, mmap_mode="r") for part in parts), n, source.name):
            pass
        shutil.rmtree(_shards(path))
    else:
        for done in _write(path, _rows(extractor, source), n, source.name):
            progress(done, n)
    found = _read(path, n)
    if found is None:
        raise InputError(f"{path} cannot be read back after writing; check the disk")
    return found


def pool_features(
    pool: Pool, extractor: FeatureExtractor, store: Path, by: engine.Engine, progress: Tally = lambda *_: None
) -> list[Path]:
    """Files `(rows, d)` with the features of each shard, in order; every process of the engine has to call it.

    What is missing is made. Nothing is made, and the list is empty, where `stored_features` has joined them already.
    Raises InputError for features that are not finite.
    """
    table = _table(pool, extractor, store)
    if _read(table, len(pool)) is not None:
        return []
    tasks = [
        FeatureTask(
            path=_shards(table) / f"{shard.stem}.npy", pool=pool.folder, shard=shard, extractor=extractor.digest
        )
        for shard in pool.shards
    ]
    for task in tasks:
        if task.path.exists() and _read(task.path, len(pool.parts[task.shard])) is None:
            task.path.unlink(missing_ok=True)
    done = 0
    for step in by.map(partial(_opened, pool.folder, extractor), shard_features, tasks):
        if step.finished:
            done += step.rows
        else:
            progress(done + step.rows, len(pool))
    return [task.path for task in tasks]


def _opened(folder: Path, extractor: FeatureExtractor) -> tuple[Pool, FeatureExtractor]:
    return Pool(folder), extractor


def shard_features(opened: tuple[Pool, FeatureExtractor], task: FeatureTask) -> Iterator[int]:
    """Write the features of one shard; yields the number of images that are done."""
    pool, extractor = opened
    if extractor.digest != task.extractor:
        raise InputError(
            f"{extractor.name} has other weights here than where the features were begun; put the same on every machine"
        )
    part = Part(pool, pool.parts[task.shard])
    yield from _write(task.path, _rows(extractor, pool, part), len(part), pool.name)


def known_features(source: ImageSource, extractor: FeatureExtractor, store: Path) -> bool:
    """Whether the features of all images are in `store`."""
    return _read(_table(source, extractor, store), len(source)) is not None


@contextmanager
def kept_features(
    source: ImageSource, extractor: FeatureExtractor, store: Path
) -> Iterator[tuple[int, Callable[[Tensor], None]]]:
    """How many images to give at once, and what takes them: their features are in `store` at the end.

    All images in order, from whoever reads them. Raises InputError for features that are not finite, and for fewer or
    more images than there are.
    """
    with _rows_into(_table(source, extractor, store), len(source), source.name) as add:
        done = 0

        def take(batch: Tensor) -> None:
            nonlocal done
            add(_finite_features(extractor, source, batch, done))
            done += len(batch)

        yield at_once(source, extractor), take


def at_once(source: ImageSource, extractor: FeatureExtractor) -> int:
    """Images of a batch."""
    side = max(1, extractor.input_size)
    return max(1, min(batch_size(source), PIXELS // side**2))


def _rows(extractor: FeatureExtractor, source: ImageSource, part: Part | None = None) -> Iterator[FeatureTable]:
    """Features of a source's images, or of those of one shard, batch by batch."""
    images, first = (source, 0) if part is None else (part, part.positions.start)
    for batch in images.batches(at_once(source, extractor)):
        yield _finite_features(extractor, source, batch, first)
        first += len(batch)


def _finite_features(extractor: FeatureExtractor, source: ImageSource, batch: Tensor, first: int) -> FeatureTable:
    """Features of images of a source, from its image `first` on."""
    rows: FeatureTable = extractor.features(batch).to("cpu", torch.float32).numpy()
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(broken):
        raise InputError(
            f"{extractor.name} gave features that are NaN or infinite for image {source.ids[first + broken[0]]} of "
            f"{source.name}; check the weights and that image"
        )
    return rows


def _write(path: Path, parts: Iterable[FeatureTable], n: int, name: str) -> Iterator[int]:
    """Write n rows one part after the other; yields how many are written."""
    done = 0
    with _rows_into(path, n, name) as add:
        for rows in parts:
            add(rows)
            done += len(rows)
            yield done


@contextmanager
def _rows_into(path: Path, n: int, name: str) -> Iterator[Callable[[FeatureTable], None]]:
    """What takes n rows, part after part, and writes them."""
    done = 0
    with atomic(path, shared=True) as temporary, temporary.open("wb") as f:

        def add(rows: FeatureTable) -> None:
            nonlocal done
            if not done:
                header = {"descr": "<f4", "fortran_order": False, "shape": (n, rows.shape[1])}
                np.lib.format.write_array_header_1_0(f, header)
            f.write(np.ascontiguousarray(rows, dtype="<f4").tobytes())
            done += len(rows)

        yield add
        if done != n:
            raise InputError(f"{name} gave {done} of its {n} images; expected all of them")


def _read(path: Path, n: int) -> FeatureTable | None:
    try:
        found: FeatureTable = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and len(found) == n and found.dtype == np.float32 else None


def _table(source: ImageSource, extractor: FeatureExtractor, store: Path) -> Path:
    side = f"{source.shape[1]}px"  # one digest may stand for the same images at several sizes
    return store / f"features-{source.digest[:16]}-{side}-{extractor.digest[:16]}.npy"


def _shards(table: Path) -> Path:
    """The folder of a pool's shards until they are joined in its table."""
    return table.with_suffix("")
