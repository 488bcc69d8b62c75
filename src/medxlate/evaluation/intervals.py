"""Intervals by resampling patients: images of a patient are no independent cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]

REPLICATES = 2000
SEED = 0
COVERAGE = 0.95
BLOCK = 4_000_000  # weights in memory at once
DEFINED = 0.9  # share of the resamples that must have a figure


def bootstrap(
    statistics: Callable[[Array], dict[str, Array]], patients: Sequence[str]
) -> dict[str, tuple[float, float] | None]:
    """Return a 95 % interval of each figure by the bootstrap over patients (percentiles).

    Patients are drawn with replacement, each with all of its cases (Efron and Tibshirani 1993,
    sections 8 and 13).

    Args:
        statistics: From weights [R, N] of the cases to figures [R]; see ``weighted``.
        patients: Whose each case is, [N].

    Returns:
        None where there is a single patient, or too few resamples in which the figure is defined.
    """
    names, owner = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    if len(names) < 2:
        return dict.fromkeys(statistics(np.ones((1, len(owner)))))
    parts = [statistics(weights) for weights in _weights(len(names), owner)]
    found: dict[str, tuple[float, float] | None] = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        known = values[np.isfinite(values)]
        tails = [50 * (1 - COVERAGE), 50 * (1 + COVERAGE)]
        enough = len(known) >= DEFINED * len(values)
        low, high = np.percentile(known, tails) if enough else (np.nan, np.nan)
        found[name] = (float(low), float(high)) if enough else None
    return found


def _weights(count: int, owner: npt.NDArray[np.integer[Any]]) -> Iterator[Array]:
    """Yield how often each case counts, [R, N], block by block."""
    random = np.random.default_rng(SEED)
    block = max(1, min(REPLICATES, BLOCK // len(owner)))
    for start in range(0, REPLICATES, block):
        size = min(block, REPLICATES - start)
        drawn = random.multinomial(count, np.full(count, 1 / count), size=size)
        yield drawn[:, owner].astype(np.float64)
