"""Intervals by resampling patients, for the images of a patient are not independent.

The bootstrap is for figures of predictions. Figures of sets of images have the jackknife: what a
bootstrap draws twice makes FID, KID and nearest neighbours look nearer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

Array = npt.NDArray[np.floating[Any]]

REPLICATES = 2000
SEED = 0
COVERAGE = 0.95
FEWEST = 5  # patients; the resamples of fewer are too few to have tails
BLOCK = 4_000_000  # weights in memory at once
DEFINED = 0.9  # share of the resamples that must have a figure
GROUPS = 20  # of patients, that the jackknife leaves out in turn
NORMAL = 1.96  # standard deviations to either side of a 95 % interval


def bootstrap(
    statistics: Callable[[Array], dict[str, Array]], patients: Sequence[str]
) -> dict[str, tuple[float, float] | None]:
    """Return a 95 % interval of each figure by the bootstrap over patients.

    Patients are drawn with replacement, each with all of its cases (Efron and Tibshirani 1993,
    sections 8 and 13). The ends are percentiles, further out the fewer patients there are: the
    plain ones are too narrow then (expanded percentiles: Hesterberg 2015, "What teachers should
    know about the bootstrap", The American Statistician 69).

    Args:
        statistics: From weights [R, N] of the cases to figures [R]; see ``prediction_metrics``.
        patients: The patient of each case, [N].

    Returns:
        None where there are fewer than five patients, or too few resamples in which the figure is
        defined.
    """
    names, owner = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    if len(names) < FEWEST:
        return dict.fromkeys(statistics(np.ones((1, len(owner)))))
    parts = [statistics(weights) for weights in _weights(len(names), owner)]
    found: dict[str, tuple[float, float] | None] = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        known = values[np.isfinite(values)]
        tail = 100 * tail_of(len(names))
        enough = len(known) >= DEFINED * len(values)
        low, high = np.percentile(known, [tail, 100 - tail]) if enough else (np.nan, np.nan)
        found[name] = (float(low), float(high)) if enough else None
    return found


def tail_of(patients: int) -> float:
    """Return the share of resamples beyond either end: that of a t interval of a mean.

    It makes up for two things: resamples vary by sqrt((n - 1) / n) too little, and the normal
    distribution stands in for Student's, which is wider.
    """
    quantile = stdtrit(patients - 1, (1 + COVERAGE) / 2)
    return float(ndtr(-math.sqrt(patients / (patients - 1)) * quantile))


def jackknife(
    statistics: Callable[..., dict[str, float]], patients: Sequence[Sequence[str]], *, fewest: int
) -> dict[str, float | None]:
    """Return the standard deviation of figures of independent samples by the jackknife.

    Each sample's patients are left out in turn, in at most 20 groups of whole patients, and the
    variances that the samples give are added (delete-a-group jackknife: Shao and Tu 1995, "The
    Jackknife and Bootstrap", section 2.3; independent samples: Efron and Tibshirani 1993,
    section 11).

    Args:
        statistics: From the cases that are left of each sample, one array of row numbers a sample,
            to figures.
        patients: For each sample, the patient of each of its cases.
        fewest: The number of cases that must be left of a sample.

    Returns:
        None where fewer cases are left without some patients, where a sample has one patient, or
        where a figure is the same without any of them.
    """
    whole = [np.arange(len(each)) for each in patients]
    left = [list(_left(each)) for each in patients]
    if any(len(groups) < 2 or min(map(len, groups)) < fewest for groups in left):
        return dict.fromkeys(statistics(*whole))
    variances: dict[str, float] = {}
    for i, groups in enumerate(left):
        figures = [statistics(*whole[:i], rows, *whole[i + 1 :]) for rows in groups]
        for name in figures[0]:
            values = np.array([each[name] for each in figures])
            spread = float(((values - values.mean()) ** 2).sum())
            variances[name] = variances.get(name, 0) + (len(values) - 1) / len(values) * spread
    return {name: math.sqrt(v) if v > 0 else None for name, v in variances.items()}


def _left(patients: Sequence[str]) -> Iterator[npt.NDArray[np.intp]]:
    """Yield, for each group of patients, the cases of all others."""
    _, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    groups = group_count(patients)
    for group in range(groups):
        yield np.flatnonzero(owner % groups != group)


def group_count(patients: Sequence[str]) -> int:
    """Return the number of groups that ``jackknife`` leaves out in turn."""
    return min(GROUPS, len(set(patients)))


def _weights(count: int, owner: npt.NDArray[np.integer[Any]]) -> Iterator[Array]:
    """Yield how often each case counts, [R, N], block by block."""
    random = np.random.default_rng(SEED)
    block = max(1, min(REPLICATES, BLOCK // len(owner)))
    for start in range(0, REPLICATES, block):
        size = min(block, REPLICATES - start)
        drawn = random.multinomial(count, np.full(count, 1 / count), size=size)
        yield drawn[:, owner].astype(np.float64)
