"""The arithmetic under every estimate of shares: arrays in, arrays out.

q = shares predicted, C[i, j] = P(predicted i | true j), p = true shares, q = C p. Draws have a leading axis `(D, ...)`.
A column of C that is all zero belongs to a class that no held-out image shows: its share is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.stats import binomtest, norm

from fairsims.classifiers.base import Confusion
from fairsims.seeds import numpy_generator

FloatArray = npt.NDArray[np.float64]

DRAWS = 4000
ALPHA = 0.05
"""Every interval is of level 1 - alpha."""
LEVEL = 1 - ALPHA
Z = float(norm.ppf((1 + LEVEL) / 2))


def wilson(counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Wilson 1927 for the share of each class from counts `(K,)`."""
    n = int(counts.sum())
    found = [binomtest(int(k), n).proportion_ci(LEVEL, method="wilson") for k in counts]
    return np.array([f.low for f in found]), np.array([f.high for f in found])


def newcombe(before: FloatArray, after: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Newcombe 1998, method 10, from counts `(K,)`: the two Wilson intervals, combined in quadrature."""
    q0, q1 = before / before.sum(), after / after.sum()
    (l0, u0), (l1, u1) = wilson(before), wilson(after)
    return q1 - q0 - np.hypot(q1 - l1, u0 - q0), q1 - q0 + np.hypot(u1 - q1, q0 - l0)


def rogan_gladen(q: FloatArray, rates: FloatArray) -> FloatArray:
    """`(q + Sp - 1)/(Se + Sp - 1)`, clipped to [0, 1]; class 0 counts as positive."""
    share = float(np.clip((q[0] - rates[0, 1]) / youden(rates), 0.0, 1.0))
    return np.array([share, 1 - share])


def lang_reiczigel(q: FloatArray, n: int, confusion: Confusion) -> tuple[FloatArray, FloatArray]:
    """Lang & Reiczigel 2014, eq. 3-5, with (1 - pi')^2 where the paper prints (1 - pi^2)."""
    j, se, sp, n1, n0 = shrunken(confusion)
    n_ = n + Z * Z
    q_ = (n * q[0] + Z * Z / 2) / n_
    pi = (q_ + sp - 1) / j
    v1, v0 = se * (1 - se) / n1, sp * (1 - sp) / n0
    shift = 2 * Z * Z * (pi * v1 - (1 - pi) * v0)
    half = Z * math.sqrt(q_ * (1 - q_) / n_ + pi * pi * v1 + (1 - pi) ** 2 * v0) / j
    low, high = np.clip([pi + shift - half, pi + shift + half], 0.0, 1.0)
    return np.array([low, 1 - high]), np.array([high, 1 - low])


def binary_difference(before: FloatArray, after: FloatArray, confusion: Confusion) -> tuple[FloatArray, FloatArray]:
    """Delta method; a success and a failure are added to every proportion in the variance, as Agresti & Caffo 2000."""
    j = youden(confusion.rates())
    j_, se, sp, n1, n0 = shrunken(confusion)
    delta = (after[0] / after.sum() - before[0] / before.sum()) / j
    sampling = 0.0
    for counts in (before, after):
        n = counts.sum() + 2
        q = (counts[0] + 1) / n
        sampling += q * (1 - q) / n
    half = Z * math.sqrt(sampling + delta**2 * (se * (1 - se) / n1 + sp * (1 - sp) / n0)) / j_
    low, high = np.clip([delta - half, delta + half], -1.0, 1.0)
    return np.array([low, -high]), np.array([high, -low])


def confusion_draws(confusion: Confusion, *name: str) -> FloatArray:
    """Matrices C from the posterior of the held-out counts, `(DRAWS, K, K)`; `name` sets the draws apart.

    The share of errors has Jeffreys' prior, and so has the mix of wrong classes among them (Berger & Bernardo 1992:
    what matters first comes first). One half for each of K - 1 wrong classes, as in a plain Jeffreys prior, would
    pretend (K - 1)/2 errors that nobody saw.
    """
    generator = numpy_generator("shares", "confusion", *name)
    size = len(confusion.counts)
    rates = np.zeros((DRAWS, size, size))
    for j in np.flatnonzero(confusion.totals):
        wrong = np.delete(np.arange(size), j)
        row = np.asarray(confusion.counts[j], dtype=np.float64)
        errors = generator.beta(row[wrong].sum() + 0.5, row[j] + 0.5, DRAWS)
        rates[:, j, j] = 1 - errors
        rates[:, wrong, j] = errors[:, None] * generator.dirichlet(row[wrong] + 0.5, DRAWS)
    return rates


def kronecker(confusions: Sequence[Confusion]) -> FloatArray:
    """P(predicted cell i | true cell j), `(cells, cells)`, the Kronecker product of the classifiers' rates.

    That takes their errors as independent of each other, and each classifier's errors as the same whatever the other
    attributes' true classes, given its own.
    """
    found: FloatArray = np.ones((1, 1))
    for c in confusions:
        found = np.asarray(np.kron(found, c.rates()))
    return found


def share_draws(counts: FloatArray, *name: str) -> FloatArray:
    """Shares predicted q `(DRAWS, K)` from the posterior of the counts `(K,)`, prior 1/K each (Perks 1947)."""
    return numpy_generator("shares", *name).dirichlet(counts + 1 / len(counts), DRAWS)


def left_inverse(rates: FloatArray) -> FloatArray:
    """L `(..., K, K)` with L C p = p for every p on the classes that have held-out images; L keeps sums.

    Without a zero column it is the inverse. With one, L q solves `min ||C p - q||, sum p = sum q`.
    """
    size = rates.shape[-1]
    known = np.flatnonzero(rates.reshape(-1, size, size)[0].any(axis=0))
    if len(known) == size:
        return np.asarray(np.linalg.inv(rates))
    c = rates[..., known]
    t = np.swapaxes(c, -1, -2)
    system = np.zeros((*rates.shape[:-2], len(known) + 1, len(known) + 1))
    system[..., :-1, :-1] = t @ c
    system[..., -1, :-1] = system[..., :-1, -1] = 1.0
    right = np.concatenate([t, np.ones((*t.shape[:-2], 1, size))], axis=-2)
    found = np.zeros_like(rates)
    found[..., known, :] = np.linalg.solve(system, right)[..., :-1, :]
    return found


def solutions(q: FloatArray, inverses: Sequence[FloatArray]) -> FloatArray:
    """Solutions p `(D, cells)` of q = C p with C the Kronecker product of what `inverses` `(D, K, K)` invert.

    Not cut to the simplex: where a true share is 0 half of the solutions are below, and cutting them would move the
    others' shares.
    """
    table = q.reshape(len(q), *(i.shape[-1] for i in inverses))
    for axis, inverse in enumerate(inverses, start=1):
        ahead = np.moveaxis(table, axis, 1)
        solved = inverse @ ahead.reshape(*ahead.shape[:2], -1)
        table = np.moveaxis(solved.reshape(ahead.shape), 1, axis)
    return table.reshape(q.shape)


def on_simplex(rates: FloatArray, q: FloatArray) -> FloatArray:
    """`min ||C p - q||` over p >= 0, sum p = 1, exactly; C `(K, M)`, p `(M,)`.

    There C p - q = A p with A = C - q 1'; scaling u = s p in `min ||A u||^2 + (1 - sum u)^2, u >= 0` and solving for s
    leaves `||A p||^2/(1 + ||A p||^2)`, which grows with ||A p||.
    """
    known = np.flatnonzero(rates.any(axis=0))
    system = np.vstack([rates[:, known] - q[:, None], np.ones(len(known))])
    u = nnls(system, np.append(np.zeros(len(q)), 1.0), maxiter=100 * len(known))[0]
    p = np.zeros(rates.shape[1])
    p[known] = u / u.sum()
    return p


def percentiles(draws: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The equal-tailed 95% interval of draws `(D, ...)`."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def youden(rates: FloatArray) -> float:
    """Sensitivity + specificity - 1 of a two-class confusion."""
    return float(rates[0, 0] + rates[1, 1] - 1)


def condition(rates: FloatArray) -> float:
    """Condition number over the classes that have held-out images."""
    return float(np.linalg.cond(rates[:, rates.any(axis=0)]))


def shrunken(confusion: Confusion) -> tuple[float, float, float, float, float]:
    """J', Se', Sp', n1', n0' of Lang & Reiczigel: one success and one failure added per class."""
    (a, b), (c, d) = confusion.counts
    n1, n0 = a + b + 2.0, c + d + 2.0
    se, sp = (a + 1) / n1, (d + 1) / n0
    return se + sp - 1, se, sp, n1, n0
