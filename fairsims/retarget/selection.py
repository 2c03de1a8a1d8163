"""Classifier resampling: what reaches a target that the strength cap cannot, and the baseline of every claim."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairsims.audit.draws import Draws, selected
from fairsims.audit.estimates import ShareEstimate, floats, spread
from fairsims.audit.intervals import on_simplex
from fairsims.audit.joint import Cells
from fairsims.audit.shares import assumption
from fairsims.classifiers.base import AttributeClassifier, Confusion
from fairsims.errors import InfeasibleTarget
from fairsims.retarget.calibration import Calibration
from fairsims.retarget.goal import Goal
from fairsims.seeds import derive

SLACK = 0.01
"""How far selecting may leave the share of one of more than two cells off its target."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Keep an image predicted j with probability `keep[j]`."""

    keep: tuple[float, ...]
    images_per_kept: float


def plan_selection(shares: np.ndarray, confusion: np.ndarray, target: np.ndarray, *, slack: float = 0.0) -> Selection:
    """Acceptance rates after which the *true* shares are the target, as the confusion matrix has it.

    shares `(K,)` true shares of what is generated, confusion `(K, K)` with P(predicted i | true j) in row i, column j.
    Of the images predicted j a share P(true c | predicted j) = C_jc p_c / q_j is c; the mix k over predicted classes
    with sum_j k_j P(c | j) = tau_c is solved for; class j is accepted with k_j / q_j, scaled so that the largest is 1.
    Where the classifier errs too much to select that pure a mix, the nearest one is taken if no share is off by more
    than `slack`: among many joint cells a rare one may be too impure without any marginal suffering.
    Raises InfeasibleTarget otherwise.
    """
    q = confusion @ shares
    possible = q > 0
    posterior = (confusion[possible] * shares[None, :] / q[possible, None]).T
    mix = np.zeros_like(q)
    exact = possible.all() and shares.min() > 0
    mix[possible] = np.linalg.solve(posterior, target) if exact else on_simplex(posterior, target)
    if mix.min() < -1e-9:
        mix[possible] = on_simplex(posterior, target)
    if np.abs(posterior @ mix[possible] - target).max() > max(slack, 1e-6):
        best = posterior.max(axis=1)
        raise InfeasibleTarget(
            f"the classifier cannot select the target: kept images are at best {np.round(best, 3).tolist()} pure by "
            "class; use a more accurate classifier or a target nearer to what the model reaches"
        )
    rates = np.divide(np.clip(mix, 0, None), q, out=np.zeros_like(q), where=possible)
    keep = rates / rates.max()
    return Selection(keep=tuple(map(float, keep)), images_per_kept=float(1 / (keep @ q)))


def selection_for(goal: Goal, shares: np.ndarray) -> Selection:
    """What classifier resampling has to keep of images with these shares over the cells."""
    return plan_selection(shares, goal.confusion, goal.target, slack=SLACK if goal.cells.size > 2 else 0.0)


def remainder(goal: Goal, calibration: Calibration, shares: np.ndarray, noise: list[np.ndarray]) -> Selection | None:
    """What resampling has to add to the strength, for shares over the cells measured with this noise; None for nothing.

    That is where no strength reaches the target, and where one strength left some of several shares clearly off.
    Raises InfeasibleTarget when the classifier cannot select what no strength reaches.
    """
    if calibration.at_cap:
        return selection_for(goal, shares)
    if goal.cells.size > 2 and goal.clearly_off(shares, noise):
        with contextlib.suppress(InfeasibleTarget):
            return selection_for(goal, shares)
    return None


def accept(seeds: np.ndarray, predicted: np.ndarray, selection: Selection) -> np.ndarray:
    """Which images are kept, `(N,)` booleans: a function of each seed and its predicted class alone."""
    uniform = np.array([derive("accept", int(s)) / 2**63 for s in seeds])
    return np.asarray(uniform < np.asarray(selection.keep)[predicted])


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectedShares:
    """Shares of images that were kept by their labels: a `fairsims.audit.reading.ShareRule`."""

    cells: Cells
    """What images were kept by: attributes, and the class asked for where targets hold in each."""
    own: Cells
    """The attributes alone."""
    sides: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """Of the candidates and of the kept: predicted cell and condition of each image, `(N,)` each."""
    classifiers: tuple[AttributeClassifier, ...]

    def __call__(self, classifier: AttributeClassifier, by: str) -> ShareEstimate:
        counts = [np.bincount(places, minlength=self.cells.size) for places, _ in self.sides]
        errors = self._errors(by)
        if self.cells.size > self.own.size:
            errors.append(Confusion.without_errors(self.cells.shape[-1]))
        return selected_joint_shares(self.cells, counts[0], counts[1], errors)[self.classifiers.index(classifier)]

    def in_conditions(self, classifier: AttributeClassifier, by: str, conditions: Sequence[int]) -> Draws:
        found = []
        for condition in conditions:
            counts = []
            for places, of in self.sides:
                table = np.bincount(places[of == condition], minlength=self.cells.size)
                counts.append(table.reshape(self.own.size, -1).sum(axis=1))
            draws = selected(counts[0], counts[1], self._errors(by))
            found.append(draws.marginal(self.own, self.classifiers.index(classifier)))
        return Draws(
            point=np.concatenate([d.point for d in found]), values=np.concatenate([d.values for d in found], axis=1)
        )

    def _errors(self, by: str) -> list[Confusion]:
        return [c.confusions.get(by, c.confusions[c.default_split]) for c in self.classifiers]


def selected_joint_shares(
    cells: Cells, candidates: np.ndarray, kept: np.ndarray, confusions: Sequence[Confusion]
) -> list[ShareEstimate]:
    """Shares of each attribute among images kept by their predicted cell, where plain correction would be wrong.

    `candidates` and `kept` are counts by predicted cell, `(cells,)`; interval by Dirichlet Monte Carlo over the
    confusions' columns, the candidates and the kept.
    """
    draws, found = selected(candidates, kept, confusions), []
    for k, attribute in enumerate(cells.attributes):
        shares = draws.marginal(cells, k)
        low, high = shares.interval()
        found.append(
            ShareEstimate(
                classes=attribute.classes,
                n=int(kept.sum()),
                raw=floats(cells.marginal(kept / kept.sum(), k)),
                **spread(shares.point[0], low[0], high[0]),
                method="P(true | predicted) of the candidates weighted by the kept mix, Dirichlet Monte Carlo",
                tier="B",
                assumption=assumption(*confusions),
                warnings=(
                    "the after pool was selected by the classifier that measures it; its shares rest on the candidates",
                ),
            )
        )
    return found
