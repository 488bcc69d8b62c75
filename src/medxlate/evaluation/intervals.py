"""Intervals by resampling patients: images of a patient are no independent cases."""

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


def bootstrap(
    statistics: Callable[[Array], dict[str, Array]], patients: Sequence[str]
) -> dict[str, tuple[float, float] | None]:
    """Return a 95 % interval of each figure by the bootstrap over patients.

    Patients are drawn with replacement, each with all of its cases (Efron and Tibshirani 1993,
    sections 8 and 13). The ends are percentiles, further out the fewer patients there are: the
    plain ones are too narrow then (expanded percentiles: Hesterberg 2015, "What teachers should
    know about the bootstrap", The American Statistician 69).

    Args:
        statistics: From weights [R, N] of the cases to figures [R]; see ``weighted``.
        patients: Whose each case is, [N].

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

    Resamples vary by sqrt((n - 1) / n) too little, and the normal distribution has to stand in for
    Student's, which is wider.
    """
    quantile = stdtrit(patients - 1, (1 + COVERAGE) / 2)
    return float(ndtr(-math.sqrt(patients / (patients - 1)) * quantile))


def _weights(count: int, owner: npt.NDArray[np.integer[Any]]) -> Iterator[Array]:
    """Yield how often each case counts, [R, N], block by block."""
    random = np.random.default_rng(SEED)
    block = max(1, min(REPLICATES, BLOCK // len(owner)))
    for start in range(0, REPLICATES, block):
        size = min(block, REPLICATES - start)
        drawn = random.multinomial(count, np.full(count, 1 / count), size=size)
        yield drawn[:, owner].astype(np.float64)
