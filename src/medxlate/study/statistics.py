"""Intervals, ranks and families of p-values; the t-tests themselves are in ``ttests``.

A difference below is always the loss of a method minus that of its reference: negative is better.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Values = Sequence[float] | npt.NDArray[np.floating[Any]]
Clusters = Sequence[Hashable] | npt.NDArray[Any]

SAME = 1e-12  # spread of differences, relative to their size, that is rounding alone
LEAST_PATIENTS = 3  # from which on patients are resampled
EXACT = 50  # differences up to which the signed-rank test is exact; scipy's own limit
BATCH = 4_000_000  # resampled values held at once


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: The estimate itself.
        low: Lower end.
        high: Upper end.
        level: Confidence, 0..1.
    """

    estimate: float
    low: float
    high: float
    level: float


def wilcoxon(differences: Values) -> float | None:
    """Return the two-sided p-value of Wilcoxon's signed-rank test (Biometrics Bulletin 1, 1945).

    Exact up to 50 differences, with equal ranks too, and by the normal approximation beyond. Zero
    differences are left out, as Wilcoxon did. The test takes the repeats as independent, which
    overlapping splits are not: it stands beside the corrected t-test; no verdict hangs on it.

    Args:
        differences: [J], one a repeat.

    Returns:
        None for one repeat, and where every difference is zero.
    """
    values = np.asarray(differences, dtype=np.float64)
    changed = values[values != 0]
    if len(values) < 2 or not len(changed):
        return None
    ranks = stats.rankdata(np.abs(changed))
    if len(np.unique(ranks)) < len(ranks) <= EXACT:
        return _exact_signed_rank(changed, ranks)  # scipy tries all signs there, for seconds
    return float(stats.wilcoxon(changed, method="auto").pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust a family of p-values for its size, step-down.

    Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979):
    the k-th smallest of m is multiplied by m - k + 1, and none becomes smaller than one before it.

    Args:
        p_values: 0..1; None where there was no test, which does not count into the family.

    Returns:
        The adjusted p-values in the same order, None where there was none.
    """
    known = [(p, i) for i, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(sorted(known)):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = largest
    return adjusted


def effect_size(differences: Values) -> float | None:
    """Return Cohen's d_z: the mean difference in standard deviations of the differences.

    Cohen, Statistical power analysis for the behavioral sciences (1988), section 2.3.5. The
    standard deviation is that over repeats, with ddof 1.

    Args:
        differences: [J], one a repeat.

    Returns:
        None for fewer than two repeats, and where all differences are equal.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or all_equal(values):
        return None
    return float(values.mean() / values.std(ddof=1))


def mean_interval(
    losses: Values,
    patients: Clusters,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Return the mean loss and its bootstrap interval, resampling patients.

    Images of one patient are alike, and so are the results of one patient in several repeats:
    whole patients are drawn, each with all its rows (cluster bootstrap; Davison and Hinkley,
    Bootstrap methods and their application, 1997, section 3.8). The interval is bias-corrected
    and accelerated (BCa; Efron, JASA 82, 1987), or of percentiles where BCa is not defined. It
    covers the choice of test patients, not that of training patients.

    Args:
        losses: [N], one an image and repeat.
        patients: [N], whose image it is.
        level: Confidence, 0..1.
        resamples: How many times patients are drawn.
        seed: Decides the draws.

    Returns:
        None for fewer than three patients.
    """
    values = np.asarray(losses, dtype=np.float64)
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    counts = np.bincount(owner).astype(np.float64)
    if len(counts) < LEAST_PATIENTS:
        return None
    sums = np.bincount(owner, weights=values).astype(np.float64)
    mean = float(sums.sum() / counts.sum())
    if all_equal(sums / counts):
        return Interval(mean, mean, mean, level)
    low, high = _bootstrap(sums, counts, "BCa", level, resamples, seed)
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = _bootstrap(sums, counts, "percentile", level, resamples, seed)
    return Interval(mean, low, high, level)


def difference_interval(
    losses: Values,
    reference_losses: Values,
    patients: Clusters,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Return the mean difference of two systems' losses on the same images, with its interval.

    Args:
        losses: [N] of the method.
        reference_losses: [N] of the reference, for the same images and repeats in this order.
        patients: [N], whose image it is.
        level: Confidence, 0..1.
        resamples: How many times patients are drawn.
        seed: Decides the draws.

    Returns:
        As ``mean_interval``.
    """
    values = np.asarray(losses, dtype=np.float64) - np.asarray(reference_losses, dtype=np.float64)
    return mean_interval(values, patients, level=level, resamples=resamples, seed=seed)


def _exact_signed_rank(values: Floats, ranks: Floats) -> float:
    """Return the two-sided p-value where every sign is as likely, by adding up rank after rank."""
    doubled = np.rint(2 * ranks).astype(int)  # equal ranks are halves
    chance = np.ones(1)
    for rank in doubled:
        chance = (np.append(chance, np.zeros(rank)) + np.append(np.zeros(rank), chance)) / 2
    found = int(doubled[values > 0].sum())
    return min(1.0, 2 * float(min(chance[: found + 1].sum(), chance[found:].sum())))


def _bootstrap(
    sums: Floats,
    counts: Floats,
    method: Literal["BCa", "percentile"],
    level: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Return the interval of the ratio of two sums over patients, each [P]."""
    sample: Any = (sums, counts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of BCa where it is not defined: the ends are then NaN
        found = stats.bootstrap(
            sample,
            _ratio,
            paired=True,
            vectorized=True,
            confidence_level=level,
            n_resamples=resamples,
            method=method,
            batch=max(1, BATCH // len(sums)),
            random_state=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    return float(low), float(high)


def _ratio(sums: Floats, counts: Floats, axis: int = -1) -> Floats:
    ratio: Floats = sums.sum(axis=axis) / counts.sum(axis=axis)
    return ratio


def all_equal(values: Floats) -> bool:
    """Return whether values differ by rounding alone."""
    return bool(np.ptp(values) <= SAME * np.abs(values).max())
