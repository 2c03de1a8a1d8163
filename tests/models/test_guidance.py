"""SIMS guidance and merging: the direction of omega, both ways, and what is never computed."""

from __future__ import annotations

import pytest
import torch
from support import MakeNetwork
from torch import Tensor

from fairsims.errors import InputError
from fairsims.models import Denoiser, EDMDenoiser, GaussianMixtureDenoiser, SIMSGuidance, merge
from fairsims.models.sampling import SamplerConfig, solve


class Counting(Denoiser):
    """Counts the calls of another denoiser."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__()
        self.inner, self.sigmas = inner, list[float]()
        self.img_resolution, self.img_channels = inner.img_resolution, inner.img_channels

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        self.sigmas.append(float(sigma.max()))
        return self.inner(x, sigma, labels)


@pytest.fixture
def pair(make_network: MakeNetwork) -> tuple[EDMDenoiser, EDMDenoiser]:
    return make_network(0), make_network(1)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))


SIGMA = torch.tensor([0.01, 0.3, 1.0, 5.0, 60.0])


def test_omega_zero_is_the_base_and_never_calls_the_auxiliary(pair: tuple[EDMDenoiser, EDMDenoiser], x: Tensor) -> None:
    aux = Counting(pair[1])
    guided = SIMSGuidance(pair[0], aux, 0.0)
    assert torch.equal(guided(x, SIGMA), pair[0](x, SIGMA))
    solve(guided, x, SamplerConfig(solver="heun", steps=3))
    assert aux.sigmas == []
    assert guided.evaluations_at(1.0) == 1


def test_omega_minus_one_is_the_auxiliary(pair: tuple[EDMDenoiser, EDMDenoiser], x: Tensor) -> None:
    assert torch.allclose(SIMSGuidance(*pair, -1.0)(x, SIGMA), pair[1](x, SIGMA), atol=1e-6)


def test_positive_omega_moves_away_from_the_auxiliary(pair: tuple[EDMDenoiser, EDMDenoiser], x: Tensor) -> None:
    base, aux = (d(x, SIGMA) for d in pair)
    guided = SIMSGuidance(*pair, 1.5)(x, SIGMA)
    assert torch.allclose(guided, 2.5 * base - 1.5 * aux, atol=1e-5)
    assert (guided - aux).norm() > (base - aux).norm()
    assert torch.cosine_similarity((guided - base).flatten(), (base - aux).flatten(), dim=0) > 0.999


def test_shares_move_away_from_the_auxiliary_mix() -> None:
    # The convention where it counts: an auxiliary with more of class 0 gives samples with less of it, and the reverse.
    base = GaussianMixtureDenoiser(torch.tensor([[-1.0], [1.0]]), [0.3, 0.3], [0.5, 0.5])
    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))

    def share_of_first(rho: float, omega: float) -> float:
        guided = SIMSGuidance(base, base.with_shares([rho, 1 - rho]), omega)
        return float((base.classify(solve(guided, noise, SamplerConfig(solver="heun", steps=20))) == 0).double().mean())

    assert share_of_first(0.8, 1.0) < 0.3
    assert share_of_first(0.2, 1.0) > 0.7
    assert abs(share_of_first(0.8, -1.0) - 0.8) < 0.03


def test_the_interval_limits_where_the_auxiliary_is_called(pair: tuple[EDMDenoiser, EDMDenoiser], x: Tensor) -> None:
    aux = Counting(pair[1])
    guided = SIMSGuidance(pair[0], aux, 1.0, interval=(0.28, 1.61))
    full = SIMSGuidance(*pair, 1.0)
    for sigma, inside in ((0.27, False), (0.28, True), (1.0, True), (1.61, True), (1.62, False)):
        s = torch.tensor(sigma)
        assert torch.equal(guided(x, s), full(x, s) if inside else pair[0](x, s)), sigma
    assert [round(s, 2) for s in aux.sigmas] == [0.28, 1.0, 1.61]


def test_two_networks_cost_two_evaluations(pair: tuple[EDMDenoiser, EDMDenoiser]) -> None:
    assert SamplerConfig(solver="heun", steps=12).evaluations(pair[0]) == 23
    assert SamplerConfig(solver="heun", steps=12).evaluations(SIMSGuidance(*pair, 0.5)) == 46


def test_precision_reaches_both_networks(pair: tuple[EDMDenoiser, EDMDenoiser]) -> None:
    guided = SIMSGuidance(*pair, 0.5)
    guided.precision = "bfloat16"
    assert (pair[0].precision, pair[1].precision, guided.precision) == ("bfloat16",) * 3


def test_networks_of_other_shape_are_refused(make_network: MakeNetwork) -> None:
    with pytest.raises(InputError, match=r"\(1, 8, 8\).*\(3, 8, 8\)"):
        SIMSGuidance(make_network(), make_network(img_channels=3), 1.0)


def test_merging_with_weight_zero_is_the_base_exactly(pair: tuple[EDMDenoiser, EDMDenoiser]) -> None:
    merged = merge(*pair, 0.0)
    for name, value in pair[0].state_dict().items():
        assert torch.equal(merged.state_dict()[name], value), name


def test_merging_with_weight_minus_one_is_the_auxiliary_exactly(pair: tuple[EDMDenoiser, EDMDenoiser]) -> None:
    merged = merge(*pair, -1.0)
    for name, value in pair[1].named_parameters():
        assert torch.equal(dict(merged.named_parameters())[name], value), name


def test_merging_extrapolates_away_from_the_auxiliary(pair: tuple[EDMDenoiser, EDMDenoiser]) -> None:
    before = [p.clone() for p in pair[0].parameters()]
    merged = merge(*pair, 0.7)
    for m, b, a in zip(merged.parameters(), *(d.parameters() for d in pair), strict=True):
        # Rounded once, from float64: a merge of merges does not pile up errors.
        assert torch.equal(m, (1.7 * b.double() - 0.7 * a.double()).float())
    assert all(torch.equal(p, q) for p, q in zip(pair[0].parameters(), before, strict=True)), "the base was changed"
    assert merged.config == pair[0].config


def test_merging_other_structures_is_refused(make_network: MakeNetwork) -> None:
    with pytest.raises(InputError, match="differ in their networks"):
        merge(make_network(), make_network(model_channels=16), 1.0)
    with pytest.raises(InputError, match="differ in their networks"):
        merge(make_network(), make_network(num_blocks=2), 1.0)
