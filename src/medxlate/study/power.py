"""What a study could show: the smallest detectable difference, after it and before it.

A t-test with a standard error finds a true difference with a chance that the noncentral t
distribution gives (Cohen, Statistical power analysis for the behavioral sciences, 1988, section
2.2). After a study the error is measured. Before it, it follows from how much the differences of
two methods vary over patients and over repeats, and from how many there will be of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from scipy.optimize import brentq

from medxlate.study.ttests import (
    LEAST_REPEATS,
    VarianceComponents,
    crossed_error,
    estimate,
    overlap_of,
    splits_error,
)

Design = Literal["resampled", "redrawn", "given"]

POWER = 0.8  # the chance with which "detectable" differences are found; Cohen's convention
ALPHA = 0.05
QUANTILES = 1000
STEEP = 1e6  # differences in standard errors at which every test finds something


def chance(difference: float, error: float, df: float, *, alpha: float = ALPHA) -> float:
    """Return the chance, 0..1, that a two-sided t-test finds a true difference.

    Args:
        difference: The true difference.
        error: Standard error of the mean difference, above 0.
        df: Degrees of freedom, above 0.
        alpha: Two-sided level of the test, 0..1.
    """
    shift = abs(difference) / error
    # T exceeds c where Z + shift > c sqrt(W / df): averaged over chi-square W. scipy's nct has no
    # value for some small levels.
    limits = float(stats.t.isf(alpha / 2, df)) * _scales(df)
    return float(np.mean(stats.norm.sf(limits - shift) + stats.norm.cdf(-limits - shift)))


def detectable(
    error: float, df: float, *, alpha: float = ALPHA, power: float = POWER
) -> float | None:
    """Return the smallest true difference that is found with this power.

    Args:
        error: Standard error of the mean difference.
        df: Degrees of freedom of its t-test.
        alpha: Two-sided level, 0..1.
        power: Chance of finding it, above ``alpha``, below 1.

    Returns:
        In the unit of ``error``; None where nothing varies, so that there is no test.
    """
    if not error > 0:
        return None
    found = brentq(lambda shift: chance(shift, 1, df, alpha=alpha) - power, 0, STEEP)
    return float(found) * error


@lru_cache(maxsize=256)
def _scales(df: float) -> npt.NDArray[np.float64]:
    """Return sqrt(W / df) at evenly spaced quantiles of a chi-square W."""
    quantiles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    scales: npt.NDArray[np.float64] = np.sqrt(stats.chi2.ppf(quantiles, df) / df)
    return scales


@dataclass(frozen=True)
class Spread:
    """How much the paired differences of two methods' losses vary: standard deviations.

    Attributes:
        patients: Between test patients.
        repeats: Between trainings (draws, splits or seeds), all patients together.
        both: Of what a training does to single patients.
    """

    patients: float
    repeats: float
    both: float = 0.0

    def expected(
        self, design: Design, *, patients: float, repeats: int, pool: float, train: float
    ) -> tuple[float, float] | None:
        """Return standard error and degrees of freedom of the test of a study with this spread.

        Args:
            design: As in ``study.json``.
            patients: Test patients, of a split or in all.
            repeats: Repeats.
            pool: Target patients in the training part of a split.
            train: How many of them train.

        Returns:
            None where there is no test: one split or draw, or fewer than two patients.
        """
        own, shared, each = self.patients**2, self.repeats**2, self.both**2
        if design == "resampled":
            if repeats < 2:
                return None
            total = patients + pool
            means = shared + (own + each) / patients - own / total
            if repeats < LEAST_REPEATS or patients < 2:
                return math.sqrt((1 / repeats + patients / pool) * means), repeats - 1
            return splits_error(
                VarianceComponents(means, own, each, patients), repeats, train / pool, total
            )
        if patients < 2 or (design == "redrawn" and repeats < 2):
            return None
        overlap = overlap_of(train, pool) if design == "redrawn" else 0.0
        parts = VarianceComponents(shared + each / patients, own, each, patients)
        return crossed_error(parts, repeats, overlap)


def spread_of(differences: pd.DataFrame) -> Spread | None:
    """Estimate the spread from paired differences, by the method of moments.

    Args:
        differences: A row a patient and repeat: ``repeat``, ``patient``, ``difference``. Patients
            may be missing in repeats that did not test them.

    Returns:
        None with fewer than two patients in each repeat. With one repeat, what varies between
        trainings is not known and counts as 0.
    """
    columns = (differences[name].to_numpy() for name in ("difference", "repeat", "patient"))
    parts = estimate(*columns)
    if parts is None:
        return None
    counts = differences.groupby("patient").size()
    own, both, repeats = parts.patients, parts.both, differences["repeat"].nunique()
    if repeats == 1:
        return Spread(math.sqrt(own), 0.0)
    # Means of other patients vary by the patients as well; of the same, by what is theirs alone.
    other = own / parts.tests - own / len(counts)
    shared = max(parts.repeats - both / parts.tests - other, 0.0)
    return Spread(math.sqrt(own), math.sqrt(shared), math.sqrt(both))
