"""Small things that many tests share: a tiny network for 8x8 digits and pools made of it or of real digits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import MakeNetwork, MakePool

from fairsims.data import ImageDataset, open_dataset
from fairsims.files import write_json
from fairsims.models import EDMDenoiser
from fairsims.pools import Pool, compact_seeds, encode_png, write_shard
from fairsims.pools.reading import FORMAT
from fairsims.report import figures
from fairsims.report.figures import DPI

# One thread: sums come out in the same order on every machine, and the networks here are too small for more.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of whole commands before those of single rooms: their files take longest (see the Makefile)."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture(autouse=True, scope="session")
def small_figures() -> Iterator[None]:
    """Figures of a twentieth of the pixels: hundreds are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 50)
        yield


@pytest.fixture(scope="module")
def whole_figures() -> Iterator[None]:
    """Figures as users get them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", DPI)
        yield


@pytest.fixture(scope="session")
def digits() -> ImageDataset:
    """All 1,797 digits."""
    return open_dataset("digits")


@pytest.fixture(scope="session")
def diffusers() -> Any:
    """The package; tests that need it are skipped where it is not installed."""
    return pytest.importorskip("diffusers")


@pytest.fixture
def make_network() -> MakeNetwork:
    """A function `(seed=0, **changes)` giving a network of 15,000 parameters for 8x8 grey images, never trained."""

    def make(seed: int = 0, **changes: Any) -> EDMDenoiser:
        settings: dict[str, Any] = {
            "img_resolution": 8,
            "img_channels": 1,
            "sigma_data": 0.75,
            "model_channels": 8,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.1,
        }
        torch.manual_seed(seed)
        network = EDMDenoiser(**(settings | changes))
        with torch.no_grad():
            for parameter in network.parameters():
                # Layers that start near zero would hide what stands before them.
                parameter.add_(0.05 * torch.randn_like(parameter))
        return network.eval().requires_grad_(False)

    return make


@pytest.fixture
def network(make_network: MakeNetwork) -> EDMDenoiser:
    return make_network()


@pytest.fixture
def digits_pool(tmp_path: Path, digits: ImageDataset) -> MakePool:
    """A function `(even, odd, name="pool")` giving a pool of real digits that poses as generated."""

    def make(even: int, odd: int, name: str = "pool") -> Pool:
        parity = digits.class_indices("parity")
        chosen = [i for k, n in enumerate((even, odd)) for i in (parity == k).nonzero()[0][:n].tolist()]
        seeds, folder = list(range(len(chosen))), tmp_path / name
        write_shard(folder / "shard-00000.parquet", seeds, [encode_png(image) for image in digits.read(chosen)])
        facts = {"format": FORMAT, "made_by": {"kind": "digits"}, "evaluations_per_image": 1, "shape": [1, 8, 8]}
        write_json(folder / "pool.json", facts | {"seeds": compact_seeds(seeds)})
        return Pool(folder)

    return make
