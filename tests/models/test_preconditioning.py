"""The four preconditionings of Karras et al. 2022, table 1, against their formulas in plain numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fairsims.models import EDMDenoiser, open_checkpoint, save_checkpoint
from fairsims.models.precondition import SCHEDULES, iddpm_levels
from fairsims.models.sampling import SamplerConfig, solve

TINY: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 2,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [],
}
KINDS = tuple(SCHEDULES)


def make(preconditioning: str, **changes: Any) -> EDMDenoiser:
    torch.manual_seed(0)
    network = EDMDenoiser(preconditioning=preconditioning, **TINY | changes)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network.eval().requires_grad_(False)


def table1(kind: str, s: float, u: list[float]) -> tuple[float, float, float, float]:
    """c_skip, c_out, c_in, c_noise in Python numbers; VP's time by bisection of its noise level, not by the inverse."""
    if kind == "edm":
        total = s * s + 0.25
        return 0.25 / total, s * 0.5 / math.sqrt(total), 1 / math.sqrt(total), math.log(s) / 4
    if kind == "ve":
        return 1, s, 1, math.log(s / 2)
    c_in = 1 / math.sqrt(s * s + 1)
    if kind == "iddpm":
        return 1, -s, c_in, 999 - min(range(1001), key=lambda j: abs(u[j] - s))
    low, high = 0.0, 2.0
    for _ in range(200):
        t = (low + high) / 2
        low, high = (t, high) if math.exp(0.5 * 19.9 * t * t + 0.1 * t) - 1 < s * s else (low, t)
    return 1, -s, c_in, 999 * low


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_are_those_of_table_1(kind: str) -> None:
    network = make(kind).double()
    u = [] if network.u is None else network.u.tolist()
    for s in (0.02, 0.5, 5.0, 80.0):
        found = [float(c) for c in network.coefficients(torch.tensor(s, dtype=torch.float64))]
        assert found == pytest.approx(table1(kind, s, u), rel=1e-10), s


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_denoiser_is_its_network_between_the_coefficients(kind: str, dtype: torch.dtype) -> None:
    network = make(kind).to(dtype)
    x, sigma = torch.randn(3, 2, 8, 8, dtype=dtype), torch.tensor([0.02, 0.7, 60.0], dtype=dtype)
    u = [] if network.u is None else network.u.tolist()
    rows = [table1(kind, float(s), u) for s in sigma]
    c_skip, c_out, c_in, c_noise = (torch.tensor(c, dtype=dtype) for c in zip(*rows, strict=True))
    columns = [c.view(-1, 1, 1, 1) for c in (c_skip, c_out, c_in)]
    expected = columns[0] * x + columns[1] * network.model(columns[2] * x, c_noise)[:, :2]
    # In float32 the time of VP is rounded where 1 + sigma**2 is near 1.
    limit = 1e-12 if dtype == torch.float64 else 1e-3 if kind == "vp" else 1e-5
    assert (network(x, sigma) - expected).abs().max() < limit * expected.abs().max()
    assert not torch.allclose(network(x, sigma), c_skip.view(-1, 1, 1, 1) * x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_weight_is_one_over_c_out_squared(kind: str) -> None:
    network, sigma = make(kind), torch.tensor([0.02, 1.0, 30.0])
    c_out = network.coefficients(sigma)[1]
    assert torch.allclose(network.loss_weight(sigma), c_out**-2)


def test_the_range_to_sample_is_the_trained_one_inside_edms() -> None:
    ranges = {kind: (make(kind).sigma_min, make(kind).sigma_max) for kind in KINDS}
    u = iddpm_levels(C_1=0.001, C_2=0.008, M=1000)
    assert ranges == {"edm": (0.002, 80), "vp": (0.002, 80), "ve": (0.02, 80), "iddpm": (u[-2], 80)}
    assert make("vp", epsilon_t=1e-2).sigma_min == pytest.approx(math.sqrt(math.exp(9.95e-4 + 1e-3) - 1))
    assert make("ve", sigma_min=0.1, sigma_max=50.0).sigma_max == 50


def test_levels_of_iddpm() -> None:
    # u_{j-1}**2 + 1 = (u_j**2 + 1) / max(abar(j-1) / abar(j), C_1), so that u_j**2 + 1 = abar(M) / abar(j) where the
    # cosine schedule is not clipped.
    u = iddpm_levels(C_1=0.001, C_2=0.008, M=1000)
    assert (len(u), u[-1]) == (1001, 0)
    assert all(a > b for a, b in zip(u[:-1], u[1:], strict=True))
    abar = [math.sin(math.pi / 2 * j / 1000 / 1.008) ** 2 for j in range(1001)]
    for j in (1, 10, 500, 999):
        assert u[j] ** 2 + 1 == pytest.approx(abar[1000] / abar[j], rel=1e-9)
    assert u[0] ** 2 + 1 == pytest.approx((u[1] ** 2 + 1) / 0.001)
    assert 20291 < u[0] < 20292
    buffer = make("iddpm").u
    assert buffer is not None
    assert buffer.dtype == torch.float32
    assert np.array_equal(buffer.numpy(), np.array(u, dtype=np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iddpm_rounds_to_levels_it_knows(dtype: torch.dtype) -> None:
    network = make("iddpm")
    assert network.u is not None
    sigma = torch.tensor([[0.0065, 0.3], [7.0, 1e6]], dtype=dtype)
    rounded = network.round_sigma(sigma)
    assert (rounded.shape, rounded.dtype) == (sigma.shape, dtype)
    u = network.u.tolist()
    assert rounded.flatten().tolist() == pytest.approx(
        [min(u, key=lambda v: abs(v - s)) for s in sigma.flatten().tolist()]
    )
    assert torch.equal(network.round_sigma(rounded), rounded)
    for kind in ("edm", "vp", "ve"):
        assert make(kind).round_sigma(sigma) is sigma


def test_only_the_image_half_of_iddpms_output_counts() -> None:
    network = make("iddpm")
    x, sigma = torch.randn(1, 2, 8, 8), torch.tensor(1.0)
    before = network(x, sigma)
    assert network.model(x, torch.ones(1)).shape == (1, 4, 8, 8)
    network.model.dec["8x8_aux_conv"].bias[2:] += 9
    assert torch.equal(network(x, sigma), before)
    network.model.dec["8x8_aux_conv"].bias[:2] += 9
    assert not torch.allclose(network(x, sigma), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["songunet", "dhariwal"])
def test_checkpoints_keep_the_preconditioning(kind: str, architecture: str, tmp_path: Any) -> None:
    network = make(kind, architecture=architecture)
    save_checkpoint(tmp_path / "model", network)
    loaded = open_checkpoint(tmp_path / "model").network
    x, sigma = torch.randn(2, 2, 8, 8), torch.tensor([0.1, 20.0])
    assert torch.equal(loaded(x, sigma), network(x, sigma))
    assert (loaded.config, loaded.sigma_min) == (network.config, network.sigma_min)


def test_checkpoints_of_edm_and_ddpmpp_do_not_name_the_choice() -> None:
    # What is hashed of a model from before there was a choice stays as it was.
    assert set(make("edm").config) == {"label_dim", "sigma_data", "sigma_min", "sigma_max", *TINY}
    assert make("edm", augment_dim=9).augment_dim == 9


@pytest.mark.parametrize("kind", KINDS)
def test_every_preconditioning_samples_to_finite_images(kind: str) -> None:
    network, noise = make(kind), torch.randn(2, 2, 8, 8)
    images: Tensor = solve(network, noise, SamplerConfig(solver="heun", steps=4))
    assert images.isfinite().all()
    assert images.std() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preconditioning": "ddpm"}, "preconditioning is 'ddpm'; expected one of edm, vp, ve, iddpm"),
        ({"architecture": "dit"}, "architecture is 'dit'; expected one of songunet, dhariwal"),
    ],
)
def test_unknown_choices_are_named(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EDMDenoiser(**TINY | change)


def test_constants_of_another_schedule_are_refused() -> None:
    with pytest.raises(TypeError, match="beta_d"):
        EDMDenoiser(**TINY, preconditioning="edm", beta_d=3.0)
