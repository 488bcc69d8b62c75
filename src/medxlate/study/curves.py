"""Learning curves: made monotone, read backwards, and drawn anew from their repeats.

Errors over the number of patients are made monotone by isotonic regression (pool adjacent
violators: Barlow et al., Statistical Inference under Order Restrictions, 1972) and joined by a
monotone cubic (Fritsch and Carlson, SIAM J. Numer. Anal. 17, 1980) over the log of that number.
Straight lines there would read about a fifth too many patients on a curve ``a + b / n``.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

FloatArray = npt.NDArray[np.float64]

GRID = 513
FINE = 0.05  # of the error: a standard error below it tells a flat curve from a noisy one


def isotonic(values: FloatArray) -> FloatArray:
    """Return the nearest sequence [N], by squares, that never rises."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        block = (float(value), 1)
        while blocks and blocks[-1][0] < block[0]:
            mean, count = blocks.pop()
            whole = count + block[1]
            block = ((mean * count + block[0] * block[1]) / whole, whole)
        blocks.append(block)
    return np.concatenate([np.full(count, mean) for mean, count in blocks])


def needed(patients: FloatArray, errors: FloatArray, wanted: FloatArray, near: float) -> FloatArray:
    """Return the number of patients at which the reference's curve comes down to an error.

    Args:
        patients: [N], rising, above 0.
        errors: [D, N], the reference's mean errors with so many, of D curves.
        wanted: [D], the errors to reach.
        near: Where a curve is flat at that error, the number closest to this one is taken.

    Returns:
        [D], between the smallest and the largest number of patients; an end where the error lies
        beyond the curve.
    """
    levels = np.stack([isotonic(row) for row in errors])
    at = np.linspace(math.log(patients[0]), math.log(patients[-1]), GRID)
    curves = PchipInterpolator(np.log(patients), levels, axis=1)(at)
    curves = np.minimum.accumulate(np.clip(curves, levels[:, -1:], levels[:, :1]), axis=1)
    found = [
        _crossing(at, curve, error, math.log(near))
        for curve, error in zip(curves, wanted, strict=True)
    ]
    return np.clip(np.exp(found), patients[0], patients[-1])


def _crossing(at: FloatArray, curve: FloatArray, error: float, near: float) -> float:
    """Return where a curve that never rises comes down to an error, or the end it lies beyond."""
    first = int(np.searchsorted(-curve, -error, side="left"))
    last = int(np.searchsorted(-curve, -error, side="right")) - 1
    if first > last:  # between two points, or beyond an end
        pair = np.clip([last, first], 0, len(at) - 1)
        return float(np.interp(-error, -curve[pair], at[pair]))
    return float(np.clip(near, at[first], at[last]))


def draws(values: FloatArray, spread: float, *, count: int, seed: int) -> FloatArray:
    """Return means [D, N] as other repeats could have given them, t-distributed and correlated.

    Args:
        values: [R, N], a row a repeat.
        spread: What turns the standard deviation over repeats into that of their mean.
        count: D.
        seed: Of the draws.
    """
    random = np.random.default_rng(seed)
    repeats, centre = len(values), values.mean(axis=0)
    noise = random.standard_normal((count, repeats)) @ (values - centre) / math.sqrt(repeats - 1)
    tail = np.sqrt(random.chisquare(repeats - 1, (count, 1)) / (repeats - 1))
    return np.asarray(centre + spread * noise / tail)


def last_helpful(losses: FloatArray) -> tuple[int, float, float]:
    """Return the first column [R, N] after which none is clearly lower, the best gain, its error.

    At the last column gain and error are 0.
    """
    for place in range(losses.shape[1] - 1):
        gains = losses[:, [place]] - losses[:, place + 1 :]
        means, errors = gains.mean(axis=0), _standard_error(gains)
        if not (means > errors).any():
            best = int(means.argmax())
            return place, float(means[best]), float(errors[best])
    return losses.shape[1] - 1, 0.0, 0.0


def hidden_by_noise(losses: FloatArray) -> float:
    """Return the standard error behind which differences of columns [R, N] hide, 0 where not."""
    first, second = np.triu_indices(losses.shape[1], 1)
    gaps = losses[:, first] - losses[:, second]
    errors = _standard_error(gaps)
    clear = np.abs(gaps.mean(axis=0)) > errors
    coarse = errors.max() > FINE * np.abs(losses).mean()
    return float(errors.max()) if coarse and not clear.any() else 0.0


def _standard_error(differences: FloatArray) -> FloatArray:
    return np.asarray(differences.std(axis=0, ddof=1) / math.sqrt(len(differences)))
