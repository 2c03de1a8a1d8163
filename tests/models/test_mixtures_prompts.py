"""Exact mixtures under classifier-free guidance: a corrected share holds at every scale only with a corrected null."""

from __future__ import annotations

import pytest
import torch

from fairsims.models import GaussianMixtureDenoiser, SIMSGuidance
from fairsims.models.autoguidance import AutoGuidance
from fairsims.models.base import Denoiser
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.retarget.complement import complement_shares

MEANS, STDS, N = torch.tensor([[-1.0], [1.0]], dtype=torch.float64), [0.15, 0.15], 3000
PROMPT, EMPTY, TARGET, OMEGA = 0.25, 0.40, 0.5, 1.5
"""Shares of class 1 under the prompt and under the empty one, the target, and the strength."""


def mixture(share: float) -> GaussianMixtureDenoiser:
    return GaussianMixtureDenoiser(MEANS, STDS, [1 - share, share])


def away(share: float, complement: float) -> SIMSGuidance:
    return SIMSGuidance(mixture(share), mixture(complement), OMEGA)


def own_complement(share: float) -> float:
    shares, target = (torch.tensor([1 - s, s]).double().numpy() for s in (share, TARGET))
    return float(complement_shares(shares, target, OMEGA)[1])


def reached(prompt: Denoiser, empty: Denoiser, g: float) -> float:
    """Share of class 1 that guidance at scale g ends at, (1 - g) D_empty + g D_prompt."""
    noise = torch.randn(N, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guided = AutoGuidance(prompt, empty, g)
    found = solve(guided, noise, SamplerConfig(steps=24, sigma_max=20.0), seeds=range(N))
    return float((mixture(0.5).classify(found) == 1).double().mean())


def test_guidance_amplifies_what_the_base_has() -> None:
    found = [reached(mixture(PROMPT), mixture(EMPTY), g) for g in (1.0, 3.0, 5.0, 7.5)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[1], found[3]) == (
        pytest.approx(PROMPT, abs=0.03),
        pytest.approx(0.07, abs=0.03),
        pytest.approx(0.0, abs=0.01),
    )


def test_the_own_complement_of_the_empty_prompt_holds_the_share_at_every_scale() -> None:
    prompt, empty = (away(share, own_complement(share)) for share in (PROMPT, EMPTY))
    found = [reached(prompt, empty, g) for g in (1.0, 3.0, 5.0, 7.5)]
    assert max(found) - min(found) <= 0.03
    assert all(share == pytest.approx(TARGET, abs=0.03) for share in found)


def test_a_complement_of_the_prompt_alone_overshoots_with_the_scale() -> None:
    found = [reached(away(PROMPT, own_complement(PROMPT)), mixture(EMPTY), g) for g in (1.0, 7.5)]
    assert found[0] == pytest.approx(TARGET, abs=0.03)
    assert found[1] > 0.65


def test_dropping_captions_with_the_prompts_complement_is_the_worst_choice() -> None:
    complement = own_complement(PROMPT)
    assert reached(away(PROMPT, complement), away(EMPTY, complement), 7.5) < 0.02
