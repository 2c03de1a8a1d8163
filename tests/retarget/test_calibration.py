"""The closed loop: it hits its target on responses that are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fairsims.errors import NoResponse
from fairsims.models import GaussianMixtureDenoiser, SIMSGuidance
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.retarget.calibration import Pilot, ResponseFit, calibrate, focus_values
from fairsims.retarget.complement import complement_shares
from fairsims.retarget.config import RetargetConfig
from fairsims.seeds import noise_for

Response = Callable[[float], float]

CONFUSION = np.array([[0.97, 0.05], [0.03, 0.95]])
FOCUS = np.array([False, True])
TOLERANCE = RetargetConfig(model="m", attr="a", target="0.5").tolerance


def logistic(a: float, b: float, c: float = 0.0) -> Response:
    return lambda s: float(1 / (1 + np.exp(-(a + b * s + c * s * s))))


def observe(response: Response, seed: int) -> Callable[[float, int], np.ndarray]:
    """A model whose image k is of the focus class when a number of its own lies below the share; labelled with errors."""
    rng = np.random.default_rng(seed)
    truth, error = rng.random(5000), rng.random(5000)

    def measure(strength: float, n: int) -> np.ndarray:
        true = (truth[:n] < response(strength)).astype(int)
        predicted = (error[:n] < CONFUSION[1, true]).astype(int)
        return focus_values(predicted, CONFUSION, FOCUS)

    return measure


def pilot(values: np.ndarray, strength: float = 0.0) -> Pilot:
    n = len(values)
    return Pilot(strength=strength, share=float(values.mean()), se=float(values.std(ddof=1) / n**0.5), n=n)


def base_of(response: Response, seed: int, n: int = 3072) -> Pilot:
    return pilot(observe(response, seed + 10_000)(0.0, n))


@pytest.mark.parametrize(
    ("name", "response", "target", "start"),
    [
        ("as planned", logistic(-1.1, 1.1), 0.5, 1.0),
        ("weaker than the plan", logistic(-1.1, 0.8), 0.5, 1.0),
        ("steeper than the plan", logistic(-1.1, 2.6), 0.5, 1.0),
        ("bending", logistic(-1.1, 0.3, 0.55), 0.5, 1.0),
        ("linear in the share", lambda s: 0.25 + 0.18 * s, 0.5, 1.0),
        ("past parity", logistic(-1.1, 1.1), 0.65, 2.0),
        ("a rare class", logistic(-3.0, 1.2), 0.1, 1.0),
        ("a small move", logistic(-1.1, 1.0), 0.3, 1.0),
    ],
)
def test_it_hits_the_target_in_95_of_100_repeats(name: str, response: Response, target: float, start: float) -> None:
    misses = []
    for seed in range(100):
        found = calibrate(
            observe(response, seed), target=target, base=base_of(response, seed), start=start, cap=2.0
        )  # fmt: skip
        assert not found.at_cap
        assert [p.n for p in found.pilots] == [3072, 512, 1024, 3072]
        assert found.share == pytest.approx(target, abs=1e-5)
        misses.append(abs(response(found.strength) - target))
    within = int((np.array(misses) < TOLERANCE).sum())
    assert within >= 95, f"{name}: {within} of 100 within {TOLERANCE}"


def test_it_hits_the_target_on_exact_mixtures() -> None:
    # The whole loop on real samplers: 75:25, complement for parity, pilots of guided samples on common seeds.
    pi = np.array([0.75, 0.25])
    rho = complement_shares(pi, np.array([0.5, 0.5]), 1.0)
    means = torch.tensor([[-1.0], [1.0]])
    base, aux = (GaussianMixtureDenoiser(means, [0.3, 0.3], m.tolist()) for m in (pi, rho))
    exact = np.eye(2)

    def predicted(strength: float, seeds: range) -> np.ndarray:
        guided = SIMSGuidance(base, aux, strength)
        samples = solve(guided, noise_for(seeds, (1,)), SamplerConfig(solver="heun", steps=16))
        return base.classify(samples).numpy()

    def measure_at(offset: int) -> Callable[[float, int], np.ndarray]:
        return lambda s, n: focus_values(predicted(s, range(offset, offset + n)), exact, FOCUS)

    for repeat in range(3):
        offset = repeat * 100_000
        zero = pilot(focus_values(predicted(0.0, range(offset, offset + 2000)), exact, FOCUS))
        found = calibrate(measure_at(offset + 50_000), target=0.5, base=zero, start=0.6, cap=2.0)
        share = float(predicted(found.strength, range(10**6, 10**6 + 8000)).mean())
        assert abs(share - 0.5) < 0.025
        assert 0.8 < found.strength < 1.2, "with exact scores the plan is right"


def test_a_target_beyond_the_cap_is_reported() -> None:
    response = logistic(-2.5, 0.6)
    found = calibrate(observe(response, 0), target=0.6, base=base_of(response, 0), start=2.0, cap=2.0)
    assert found.at_cap
    assert found.strength == 2.0
    assert found.share == pytest.approx(response(2.0), abs=0.03)


@pytest.mark.parametrize("target", [0.55, 0.6])
def test_a_start_at_the_cap_does_not_hide_what_lies_before_the_turn(target: float) -> None:
    # The share is 0.64 at 1 and 0.66 at 1.3, 0.50 at the cap, where a large planned strength looks first.
    response = logistic(-1.39, 3.2, -1.25)
    for seed in range(30):
        found = calibrate(observe(response, seed), target=target, base=base_of(response, seed), start=2.0, cap=2.0)
        assert not found.at_cap
        assert response(found.strength) == pytest.approx(target, abs=0.05)


def test_a_flat_response_takes_the_weakest_strength_that_does_as_much() -> None:
    def response(s: float) -> float:
        return 0.23 + 0.07 * min(s, 1.0)

    weak = 0
    for seed in range(30):
        found = calibrate(observe(response, seed), target=0.5, base=base_of(response, seed), start=1.0, cap=2.0)
        assert found.at_cap
        assert any(p.strength == found.strength and p.n == 3072 for p in found.pilots)
        weak += found.strength <= 1.0
    assert weak >= 25


@pytest.mark.parametrize("sizes", [(1024,), (512, 1024)])
def test_few_pilots_and_a_small_plan_still_reach_the_target(sizes: tuple[int, ...]) -> None:
    response = logistic(-1.1, 0.9)
    found = calibrate(observe(response, 0), target=0.5, base=base_of(response, 0), start=0.25, cap=2.0, sizes=sizes)
    assert response(found.strength) == pytest.approx(0.5, abs=0.06)


def test_strengths_have_no_last_bits() -> None:
    """They are settings of pools: a processor that rounds its linear algebra otherwise has to find the same."""
    response = logistic(-1.1, 1.1)
    found = calibrate(observe(response, 0), target=0.5, base=base_of(response, 0), start=1 / 3, cap=2.0)
    assert all(s == round(s, 6) for s in (found.strength, *(p.strength for p in found.pilots)))


def test_a_target_just_inside_the_cap_is_not_at_cap() -> None:
    response = logistic(-1.1, 1.1)
    found = calibrate(observe(response, 1), target=response(1.8), base=base_of(response, 1), start=1.0, cap=2.0)
    assert not found.at_cap
    assert 1.6 < found.strength < 2.0


def test_the_start_is_held_to_the_cap() -> None:
    response, seen = logistic(-1.1, 0.2), list[float]()
    inner = observe(response, 0)

    def measure(strength: float, n: int) -> np.ndarray:
        seen.append(strength)
        return inner(strength, n)

    calibrate(measure, target=0.5, base=base_of(response, 0), start=5.0, cap=1.5)
    assert max(seen) <= 1.5


def test_no_step_goes_beyond_twice_what_was_seen() -> None:
    response, seen = logistic(-1.1, 0.9), list[float]()
    inner = observe(response, 0)

    def measure(strength: float, n: int) -> np.ndarray:
        seen.append(strength)
        return inner(strength, n)

    calibrate(measure, target=0.5, base=base_of(response, 0), start=0.2, cap=2.0, sizes=(512, 512, 512))
    assert seen[0] == 0.2
    assert all(later <= 2 * max(seen[: k + 1]) + 1e-5 for k, later in enumerate(seen[1:]))


def test_a_first_pilot_lost_in_noise_is_followed_by_a_stronger_one() -> None:
    # At .2 the share rises by .03, half of what chance moves 512 images.
    response = logistic(-1.1, 0.9)
    for seed in range(30):
        found = calibrate(observe(response, seed), target=0.5, base=base_of(response, seed), start=0.2, cap=2.0)
        assert len(found.pilots) in (4, 5)
        assert response(found.strength) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("response", [logistic(-1.1, -0.8), lambda s: 0.25 - 0.1 * s])
def test_a_share_that_does_not_rise_is_an_error(response: Response) -> None:
    for seed in range(30):
        with pytest.raises(
            NoResponse, match=r"does not rise with the strength \(0\.2\d\d at 0, 0\.\d+ at 0\.25, .* at 1\)"
        ):
            calibrate(observe(response, seed), target=0.5, base=base_of(response, seed), start=1.0, cap=2.0)


def test_an_answer_away_from_the_pilots_is_confirmed_where_other_shares_rest_on_it() -> None:
    response = logistic(-1.1, 1.1)
    for seed in range(10):
        plain, sure = (
            calibrate(
                observe(response, seed),
                target=0.5,
                base=base_of(response, seed),
                start=0.7,
                cap=2.0,
                sizes=(2048,),
                confirm=confirm,
            )
            for confirm in (False, True)
        )
        assert len(plain.pilots) == 2
        assert sure.pilots[:2] == plain.pilots
        assert len(sure.pilots) == 3
        assert sure.strength == pytest.approx(sure.pilots[2].strength, rel=0.1)


def test_beyond_the_turn_nothing_is_fitted() -> None:
    """A merged network whose auxiliary was trained for long: the share rises to 0.45 at 0.7 and falls again."""

    def response(s: float) -> float:
        return 0.32 + 0.13 * float(np.sin(np.pi / 2 * s / 0.7)) if s < 2.0 else 0.29

    for start, sizes in ((1.42, (512, 2048)), (1.42, (512, 1024, 3072)), (2.0, (512, 1024, 3072))):
        for seed in range(20):
            found = calibrate(
                observe(response, seed), target=0.5, base=base_of(response, seed), start=start, cap=2.0, sizes=sizes
            )
            # Out of reach of any strength: the strongest rise that was seen, and resampling for what is missing.
            assert found.at_cap
            assert found.share == pytest.approx(response(found.strength), abs=0.04)
            assert found.share > 0.38
            near = calibrate(
                observe(response, seed), target=0.38, base=base_of(response, seed), start=start, cap=2.0, sizes=sizes
            )
            # Without a pilot left to look again there, the bend of the response stays in the fit.
            assert response(near.strength) == pytest.approx(0.38, abs=0.06), (start, sizes, seed)


def test_a_small_rise_on_few_images_is_looked_at_again_before_giving_up() -> None:
    """Six tones merged: 0.389 at the planned strength on 512 images, 0.32 at twice that on 4,096, little below it."""

    def response(s: float) -> float:
        return 0.334 + 0.05 * float(np.sin(np.pi / 2 * s / 0.85) ** 2) if s < 1.6 else 0.32

    found = 0
    for seed in range(40):
        try:
            one = calibrate(
                observe(response, seed), target=0.5, base=base_of(response, seed), start=0.81, cap=2.0,
                sizes=(512, 4096), confirm=True,
            )  # fmt: skip
        except NoResponse:
            continue
        found += 1
        assert one.at_cap
        assert 0.5 < one.strength < 1.3
    assert found >= 30


def test_an_auxiliary_without_any_effect_is_an_error() -> None:
    flat = logistic(-1.1, 0.0)
    # Common seeds: without effect the pilot repeats the base's images exactly.
    values = observe(flat, 3)
    with pytest.raises(NoResponse, match="larger --budget"):
        calibrate(
            lambda _, n: values(0.0, n), target=0.5, base=pilot(values(0.0, 512)), start=1.0, cap=2.0, sizes=[512]
        )
    # The base's pool is of other seeds: now and then chance looks like an effect.
    told = 0
    for seed in range(40):
        try:
            calibrate(observe(flat, seed), target=0.5, base=base_of(flat, seed), start=1.0, cap=2.0)
        except NoResponse:
            told += 1
    assert told >= 30


@pytest.mark.parametrize("target", [0.2505, 0.255])
@pytest.mark.parametrize("confirm", [False, True])
def test_a_target_beside_the_base_still_gets_a_strength(target: float, confirm: bool) -> None:
    """Of a pool that has, by chance, more than the target; at strength 0 there would be nothing to audit."""
    response = logistic(-1.1, 1.1)
    for seed in range(30):
        found = calibrate(
            observe(response, seed), target=target, base=base_of(response, seed), start=0.25, cap=2.0, confirm=confirm
        )
        assert found.strength >= 0.25 / 8 - 1e-6
        looks = [(p.strength, p.n) for p in found.pilots[1:]]
        assert all(strength > 0 for strength, _ in looks)
        assert len(set(looks)) == len(looks)
        assert response(found.strength) == pytest.approx(target, abs=0.03)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.2, float("nan")])
def test_a_target_of_everything_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match=r"expected a share inside \(0, 1\)"):
        calibrate(lambda *_: np.ones(9), target=target, base=pilot(np.arange(9.0)), start=1.0, cap=2.0)


pilots = st.lists(
    st.builds(
        Pilot,
        strength=st.floats(0, 2),
        share=st.floats(-0.05, 1.05),
        se=st.floats(0, 0.05),
        n=st.integers(50, 4000),
    ),
    min_size=2,
    max_size=5,
    unique_by=lambda p: round(p.strength, 2),
)


@given(pilots, st.floats(0.02, 0.98))
@example([Pilot(strength=2.0, share=1.0, se=0.0, n=50), Pilot(strength=1.984375, share=0.0, se=0.0, n=50)], 0.5)
def test_a_rising_fit_rises_everywhere_and_its_root_is_one(found: list[Pilot], target: float) -> None:
    fit = ResponseFit(found, cap=2.0)
    if not fit.rises:
        return
    shares = [fit.share(s) for s in np.linspace(0, 2, 41)]
    assert all(b >= a - 1e-12 for a, b in zip(shares, shares[1:], strict=False))
    root = fit.strength(target, 2.0)
    assert 0 <= root <= 2
    if shares[0] < target < shares[-1]:
        assert fit.share(root) == pytest.approx(target, abs=1e-6)
    elif target >= shares[-1]:
        assert root == 2.0


def test_fit_recovers_a_noiseless_response() -> None:
    response = logistic(-1.2, 0.7, 0.2)
    fit = ResponseFit([Pilot(strength=s, share=response(s), se=0.01, n=1000) for s in (0, 0.8, 1.3, 1.9)], cap=2.0)
    for s in np.linspace(0, 2, 9):
        assert fit.share(s) == pytest.approx(response(s), abs=1e-6)
    assert fit.strength(0.4, 2.0) == pytest.approx(
        next(s for s in np.linspace(0, 2, 20001) if response(s) >= 0.4), abs=1e-3
    )


def test_fit_weighs_pilots_by_their_uncertainty() -> None:
    steady = [Pilot(strength=0, share=0.25, se=0.005, n=3000), Pilot(strength=1, share=0.5, se=0.005, n=3000)]
    stray = Pilot(strength=0.5, share=0.6, se=0.2, n=50)
    assert ResponseFit([*steady, stray], cap=2.0).share(1.0) == pytest.approx(0.5, abs=0.02)


@given(st.integers(2, 4).flatmap(lambda k: st.tuples(
    st.lists(st.floats(0.05, 1), min_size=k, max_size=k),
    st.lists(st.lists(st.floats(0.01, 0.3), min_size=k, max_size=k), min_size=k, max_size=k),
    st.lists(st.booleans(), min_size=k, max_size=k),
)))  # fmt: skip
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
