"""The closed loop: it hits its target on responses that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import script

from fairsims.errors import NoResponse
from fairsims.models import GaussianMixtureDenoiser, SIMSGuidance
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.retarget.calibration import Belief, Look, Measure, Pilot, ResponseFit, as_pilot, calibrate, focus_values
from fairsims.retarget.complement import complement_shares
from fairsims.seeds import noise_for

bench = script("bench/calibration.py")
FOCUS = np.array([False, True])
BELIEF = Belief(slope=1.0, scale=1.0, reach=0.9)


@pytest.mark.parametrize("name", list(bench.KINDS))
def test_it_ends_well(name: str) -> None:
    """A few repeats of what `bench/calibration.py` does 200 times."""
    kind = bench.KINDS[name]
    ends = [bench.repeat(kind, seed) for seed in range(3)]
    assert sum(bench.ended_well(kind, end) for end in ends) >= (3 if name in bench.ORDINARY else 2)
    assert all(end.images <= 4096 for end in ends)


@pytest.mark.parametrize("name", ["as planned", "turning short of the target"])
def test_the_promised_share_is_as_sure_as_it_says(name: str) -> None:
    kind = bench.KINDS[name]
    ends = [bench.repeat(kind, seed) for seed in range(8)]
    assert np.mean([abs(e.share - e.found.share) < 3 * e.found.se for e in ends]) > 0.8
    assert all(e.found.se < 0.02 for e in ends)


def test_it_hits_the_target_on_exact_mixtures() -> None:
    # The whole loop on real samplers: 75:25, complement for parity, looks at guided samples.
    pi = np.array([0.75, 0.25])
    rho = complement_shares(pi, np.array([0.5, 0.5]), 1.0)
    means = torch.tensor([[-1.0], [1.0]])
    base, aux = (GaussianMixtureDenoiser(means, [0.3, 0.3], m.tolist()) for m in (pi, rho))
    exact = np.eye(2)

    def predicted(strength: float, seeds: range) -> np.ndarray:
        guided = SIMSGuidance(base, aux, strength)
        samples = solve(guided, noise_for(seeds, (1,)), SamplerConfig(solver="heun", steps=16))
        return base.classify(samples).numpy()

    def measure_at(offset: int) -> Measure:
        return lambda look: focus_values(
            predicted(look.strength, range(offset + look.first, offset + look.first + look.n)), exact, FOCUS
        )

    for repeat in range(2):
        offset = repeat * 100_000
        zero = as_pilot(focus_values(predicted(0.0, range(offset, offset + 2000)), exact, FOCUS), 0.0)
        found = calibrate(measure_at(offset + 50_000), target=0.5, base=zero, start=0.6, cap=2.0)
        share = float(predicted(found.strength, range(10**6, 10**6 + 8000)).mean())
        assert abs(share - 0.5) < 0.025
        assert 0.8 < found.strength < 1.2, "with exact scores the plan is right"


def calibrated(name: str, *, seed: int = 0, **changes: object) -> tuple[list[Look], bench.Calibration]:
    """The looks that were asked for, and the answer."""
    kind, looks = bench.KINDS[name], list[Look]()
    images = bench.Images(kind.response, seed)

    def measure(look: Look) -> np.ndarray:
        looks.append(look)
        return np.asarray(images(look))

    settings = {"target": kind.target, "start": kind.start, "cap": bench.CAP} | changes
    base = as_pilot(bench.Images(kind.response, seed + 1)(Look(strength=0.0, first=0, n=3072)), 0.0)
    return looks, calibrate(measure, base=base, **settings)


def test_every_look_has_seeds_of_its_own_and_all_are_used() -> None:
    looks, found = calibrated("as planned")
    assert found.looks == tuple(looks)
    assert [look.first for look in looks] == np.cumsum([0, *(look.n for look in looks[:-1])]).tolist()
    assert sum(look.n for look in looks) == 4096
    assert {p.strength: p.n for p in found.pilots[1:]} == {
        s: sum(look.n for look in looks if look.strength == s) for s in dict.fromkeys(look.strength for look in looks)
    }


@pytest.mark.parametrize("images", [64, 100, 700])
def test_a_small_budget_is_kept_to(images: int) -> None:
    looks, found = calibrated("as planned", images=images)
    assert sum(look.n for look in looks) == images
    assert found.se > 0.01


def test_a_wide_tolerance_needs_fewer_images() -> None:
    looks, found = calibrated("as planned", tolerance=0.1)
    assert sum(look.n for look in looks) < 2048
    assert 1.96 * found.se <= 0.05


def test_strengths_have_no_last_bits() -> None:
    """They are settings of pools: a processor that rounds its linear algebra otherwise has to find the same."""
    looks, found = calibrated("as planned", start=1 / 3)
    assert all(s == round(s, 6) for s in (found.strength, *(look.strength for look in looks)))


def test_no_strength_is_beyond_the_cap() -> None:
    looks, found = calibrated("weaker than the plan", start=5.0, cap=1.2)
    assert max(look.strength for look in looks) <= 1.2
    assert found.at_cap
    assert found.strength <= 1.2


def test_a_share_that_does_not_rise_is_an_error() -> None:
    with pytest.raises(
        NoResponse, match=r"does not rise with the strength \(0\.2\d\d at 0, 0\.\d+ at .*larger --budget"
    ):
        calibrated("falling")


@pytest.mark.parametrize("target", [0.0, 1.0, -0.2, float("nan")])
def test_a_target_of_everything_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match=r"expected a share inside \(0, 1\)"):
        calibrate(lambda _: np.ones(9), target=target, base=as_pilot(np.arange(9.0), 0.0), start=1.0, cap=2.0)


def test_a_base_above_the_target_still_gets_a_strength() -> None:
    """By chance of its pool; at strength 0 there would be nothing to audit."""
    _, found = calibrated("as planned", target=0.2)
    assert found.strength == 0.05
    assert not found.at_cap


pilots = st.lists(
    st.builds(
        Pilot,
        strength=st.floats(0.05, 2),
        share=st.floats(-0.05, 1.05),
        se=st.floats(0, 0.05),
        n=st.integers(50, 4000),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda p: round(p.strength, 2),
)


@given(pilots)
def test_what_the_pilots_add_sums_to_one_and_more_of_them_are_surer(found: list[Pilot]) -> None:
    base, s = Pilot(strength=0.0, share=0.25, se=0.008, n=3072), np.linspace(0.1, 2, 9)
    fit = ResponseFit([base, *found], BELIEF)
    assert fit.weights(s).sum(axis=1) == pytest.approx(np.ones(9), abs=0.01)
    (_, now), (_, before) = fit.at(s), ResponseFit([base], BELIEF).at(s)
    assert (now <= before + 1e-6).all()


def test_fit_recovers_a_noiseless_response() -> None:
    response = bench.logistic(-1.2, 0.7, 0.2)
    fit = ResponseFit([Pilot(strength=s, share=response(s), se=1e-4, n=10**7) for s in (0, 0.8, 1.3, 1.9)], BELIEF)
    for s in np.linspace(0, 1.9, 9):
        (level,), _ = fit.at(np.array([s]))
        assert 1 / (1 + np.exp(-level)) == pytest.approx(response(s), abs=5e-3)


def test_fit_weighs_pilots_by_their_uncertainty() -> None:
    steady = [Pilot(strength=0, share=0.25, se=0.005, n=3000), Pilot(strength=1, share=0.5, se=0.005, n=3000)]
    stray = Pilot(strength=0.5, share=0.6, se=0.2, n=50)
    (level,), _ = ResponseFit([*steady, stray], BELIEF).at(np.ones(1))
    assert level == pytest.approx(0.0, abs=0.08)


@given(
    st.integers(2, 4).flatmap(
        lambda k: st.tuples(
            st.lists(st.floats(0.05, 1), min_size=k, max_size=k),
            st.lists(st.lists(st.floats(0.01, 0.3), min_size=k, max_size=k), min_size=k, max_size=k),
            st.lists(st.booleans(), min_size=k, max_size=k),
        )
    )
)
def test_focus_values_are_unbiased_under_any_confusion(
    drawn: tuple[list[float], list[list[float]], list[bool]],
) -> None:
    p = np.array(drawn[0]) / sum(drawn[0])
    confusion = np.array(drawn[1]) + np.eye(len(p))
    confusion /= confusion.sum(axis=0)
    focus = np.array(drawn[2])
    values = focus_values(np.arange(len(p)), confusion, focus)
    # The mean over predictions with probabilities C p is the true share of the focus classes.
    assert float(values @ (confusion @ p)) == pytest.approx(float(p[focus].sum()), abs=1e-9)


def test_without_errors_focus_values_count() -> None:
    assert focus_values(np.array([0, 1, 2, 1]), np.eye(3), np.array([False, True, True])).tolist() == [0, 1, 1, 1]
