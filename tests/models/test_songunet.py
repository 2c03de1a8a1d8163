"""The network and its preconditioning against numbers computed with EDM's own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import MakeNetwork
from torch import Tensor

from fairsims.models import EDMDenoiser, fastest_precision
from fairsims.models.edm_pickle import read_snapshot
from fairsims.models.layers import Conv2d, GroupNorm
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.models.songunet import SongUNet

EDM = Path(__file__).parents[1] / "fixtures" / "edm"


def arrays_of(name: str) -> dict[str, Tensor]:
    with np.load(EDM / f"{name}.npz") as stored:
        return {k: torch.from_numpy(stored[k]) for k in stored.files}


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    return arrays_of("songunet-ddpmpp")


@pytest.fixture
def edm() -> EDMDenoiser:
    return read_snapshot(EDM / "songunet-ddpmpp.pkl").denoiser


def off(found: Tensor, expected: Tensor) -> float:
    """Largest error relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", ["songunet-ddpmpp", "songunet-ddpmpp-cond"])
@pytest.mark.parametrize(("bits", "limit"), [(32, 1e-5), (64, 1e-10)])
def test_networks_reproduce_edm(name: str, bits: int, limit: float) -> None:
    dtype = torch.float32 if bits == 32 else torch.float64
    edm, a = read_snapshot(EDM / f"{name}.pkl").denoiser.to(dtype), arrays_of(name)
    x, sigma, labels = a["x"].to(dtype), a["sigma"].to(dtype), a.get("labels")
    found = edm(x, sigma, labels)
    assert found.dtype == dtype
    assert off(found, a[f"y{bits}"]) < limit
    c_in = (sigma**2 + 0.25).rsqrt().view(-1, 1, 1, 1)
    assert off(edm.model(x * c_in, sigma.log() / 4, labels), a[f"f{bits}"]) < limit
    if "augment_labels" in a:
        assert off(edm(x, sigma, labels, a["augment_labels"]), a[f"y{bits}_aug"]) < limit
        assert off(a["y32_aug"], a["y32"]) > 1e-3, "augment labels without effect would agree anyway"


@pytest.mark.parametrize(("array", "double", "limit"), [("images", False, 1e-4), ("images64", True, 1e-10)])
def test_sampler_reproduces_edm(
    edm: EDMDenoiser, arrays: dict[str, Tensor], array: str, double: bool, limit: float
) -> None:
    denoiser, noise = (edm.double(), arrays["latents"].double()) if double else (edm, arrays["latents"])
    assert off(solve(denoiser, noise, SamplerConfig(solver="heun", steps=6)), arrays[array]) < limit


def test_every_parameter_of_the_fixture_matters(edm: EDMDenoiser, arrays: dict[str, Tensor]) -> None:
    # A parameter without effect on the output would be checked by none of the above.
    x, sigma = arrays["x"][:1].double(), arrays["sigma"][:1].double()
    edm.double().requires_grad_(True)
    edm(x, sigma).square().sum().backward()
    untouched = [n for n, p in edm.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert untouched == []


def test_sigma_may_be_one_number_or_one_each(edm: EDMDenoiser, arrays: dict[str, Tensor]) -> None:
    x = arrays["x"]
    alone = torch.cat([edm(x[i : i + 1], torch.tensor(0.7)) for i in range(len(x))])
    assert off(edm(x, torch.tensor(0.7)), alone) < 1e-5
    assert torch.equal(edm(x, torch.tensor(0.7)), edm(x, torch.full((len(x),), 0.7)))


def test_denoiser_limits() -> None:
    # c_skip -> 1 and c_out -> 0 as sigma -> 0; c_skip -> 0 as sigma grows (Karras et al. 2022, table 1).
    torch.manual_seed(0)
    network = EDMDenoiser(
        img_resolution=8, img_channels=1, model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[]
    ).eval()
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(network(x, torch.tensor(1e-6)), x, atol=1e-5)
        assert network(x * 1e4, torch.tensor(1e4)).abs().max() < 5


@pytest.mark.parametrize("patch_size", [2, 4])
def test_patch_size_works_on_unshuffled_pixels(patch_size: int) -> None:
    options = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.0}
    torch.manual_seed(0)
    patched = SongUNet(img_resolution=16, in_channels=3, out_channels=3, patch_size=patch_size, **options).eval()
    with torch.no_grad():
        for p in patched.parameters():
            p.add_(0.1 * torch.randn_like(p))
    channels = 3 * patch_size**2
    plain = SongUNet(img_resolution=16 // patch_size, in_channels=channels, out_channels=channels, **options).eval()
    plain.load_state_dict(patched.state_dict(), strict=True)
    x, c_noise = torch.randn(2, 3, 16, 16), torch.randn(2)
    with torch.no_grad():
        found = patched(x, c_noise)
        inner = plain(torch.nn.functional.pixel_unshuffle(x, patch_size), c_noise)
    assert found.shape == x.shape
    assert torch.equal(found, torch.nn.functional.pixel_shuffle(inner, patch_size))
    assert f"{16 // patch_size}x{16 // patch_size}_conv" in patched.enc


def test_a_resolution_that_does_not_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="img_resolution 12 is not a multiple"):
        EDMDenoiser(img_resolution=12, img_channels=1, model_channels=8, channel_mult=[1, 2, 2, 2])


def one_block(**settings: Any) -> EDMDenoiser:
    """A network of one block on 8x8 whose weights, those that begin at zero too, are random."""
    torch.manual_seed(0)
    size = {"img_resolution": 8, "img_channels": 1, "model_channels": 8}
    network = EDMDenoiser(**size, channel_mult=[1], num_blocks=1, attn_resolutions=[], **settings)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network


def test_class_labels_and_augment_labels_change_the_output() -> None:
    network = one_block(label_dim=3, augment_dim=2).eval()
    with torch.no_grad():
        x, sigma, one = torch.randn(2, 1, 8, 8), torch.tensor(1.0), torch.eye(3)[[0, 1]]
        assert torch.equal(network(x, sigma), network(x, sigma, torch.zeros(2, 3)))
        assert not torch.equal(network(x, sigma), network(x, sigma, one))
        assert not torch.equal(network(x, sigma), network(x, sigma, None, torch.ones(2, 2)))


def test_label_dropout_acts_in_training_only() -> None:
    network = one_block(label_dim=2, label_dropout=1.0, dropout=0.0)
    with torch.no_grad():
        x, sigma, labels = torch.randn(2, 1, 8, 8), torch.tensor(1.0), torch.eye(2)
        assert torch.equal(network.train()(x, sigma, labels), network(x, sigma))
        assert not torch.equal(network.eval()(x, sigma, labels), network(x, sigma))


def test_resampling_keeps_means() -> None:
    # Both filters are low-pass with unit gain: a constant stays, and the fast path equals the general convolution.
    x = torch.arange(32.0).view(1, 2, 4, 4)
    for up in (True, False):
        fast = Conv2d(2, 2, 1, up=up, down=not up)
        general = Conv2d(2, 2, 1, up=up, down=not up, resample_filter=(1, 1, 1, 1))
        taps = fast.resample_filter
        assert taps is not None
        wide = torch.nn.functional.pad(taps, (1, 1, 1, 1))
        assert torch.allclose(fast._resample(x, taps, 0), general._resample(x, wide, 1))
        assert torch.allclose(fast._resample(torch.ones_like(x), taps, 0).mean(), torch.ones(()))


def test_group_norm_divides_odd_widths() -> None:
    assert [GroupNorm(c, eps=1e-6).num_groups for c in (2, 16, 48, 128, 256, 36)] == [1, 4, 12, 32, 32, 9]


def test_half_precision_is_near_float32(edm: EDMDenoiser, arrays: dict[str, Tensor]) -> None:
    edm.precision = "bfloat16"
    found = edm(arrays["x"], arrays["sigma"])
    assert found.dtype == torch.float32
    assert 0 < off(found, arrays["y32"]) < 0.05


def test_the_fastest_precision_denoises_as_float32_does(make_network: MakeNetwork) -> None:
    network, x = make_network(), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    exact = network(x, torch.tensor(0.5))
    network.precision = fastest_precision(torch.device("cpu"))
    assert torch.allclose(network(x, torch.tensor(0.5)), exact, atol=0.05)
