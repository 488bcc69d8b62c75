"""Learning curves: made monotone, read backwards, and drawn anew from their repeats.

Errors over the number of patients are made monotone by isotonic regression (Barlow et al.,
Statistical Inference under Order Restrictions, 1972) and joined by a monotone cubic (Fritsch and
Carlson, SIAM J. Numer. Anal. 17, 1980) over the log of that number.
Straight lines there would read about a fifth too many patients on a curve ``a + b / n``.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

FloatArray = npt.NDArray[np.float64]

GRID = 513
FINE = 0.05  # of the loss: with a smaller standard error a flat curve is told from a falling one


def isotonic(values: FloatArray) -> FloatArray:
    """Return the nearest sequences [..., N], by squares, that never rise (min-max formula)."""
    count = values.shape[-1]

    def level(i: int) -> FloatArray:
        best = [
            np.max([values[..., j:k].mean(axis=-1) for k in range(i + 1, count + 1)], axis=0)
            for j in range(i + 1)
        ]
        return np.asarray(np.min(best, axis=0))

    return np.stack([level(i) for i in range(count)], axis=-1)


def needed(patients: FloatArray, errors: FloatArray, wanted: FloatArray, near: float) -> FloatArray:
    """Return the number of patients at which the reference's curve comes down to an error.

    Args:
        patients: [N], rising, above 0.
        errors: [D, N], the reference's mean errors with so many, of D curves.
        wanted: [D], the errors to reach.
        near: Where a curve is flat at that error, the number closest to this one is taken.

    Returns:
        [D], between the smallest and the largest number of patients; infinite where the curve does
        not come down to the error, 0 where it lies below it throughout.
    """
    levels = isotonic(errors)
    at = np.linspace(math.log(patients[0]), math.log(patients[-1]), GRID)
    curves = PchipInterpolator(np.log(patients), levels, axis=1)(at)
    curves[:, [0, -1]] = levels[:, [0, -1]]  # not a rounding beside them
    curves = np.minimum.accumulate(np.clip(curves, levels[:, -1:], levels[:, :1]), axis=1)
    first = (curves > wanted[:, None]).sum(axis=1)
    last = (curves >= wanted[:, None]).sum(axis=1) - 1
    above, below = np.clip(last, 0, GRID - 1), np.clip(first, 0, GRID - 1)
    row = np.arange(len(curves))
    high, low = curves[row, above], curves[row, below]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = at[above] + (high - wanted) / (high - low) * (at[below] - at[above])
    flat = np.clip(math.log(near), at[below], at[above])  # at exactly that error
    found = np.exp(np.where(first > last, between, flat))
    found = np.where(wanted > levels[:, 0], 0.0, np.clip(found, patients[0], patients[-1]))
    return np.where(wanted < levels[:, -1], np.inf, found)


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


def last_helpful(losses: FloatArray, spread: float) -> tuple[int, float, float]:
    """Return the first column [R, N] after which none is clearly lower, the best gain, its error.

    At the last column gain and error are 0. ``spread`` turns the standard deviation over repeats
    into the standard error of their mean; splits overlap, so that it is more than 1 / sqrt(R).
    """
    for place in range(losses.shape[1] - 1):
        gains = losses[:, [place]] - losses[:, place + 1 :]
        means, errors = gains.mean(axis=0), gains.std(axis=0, ddof=1) * spread
        if not (means > errors).any():
            best = int(means.argmax())
            return place, float(means[best]), float(errors[best])
    return losses.shape[1] - 1, 0.0, 0.0


def too_coarse(losses: FloatArray, place: int, gain: float, error: float) -> bool:
    """Return whether a further gain as large as the one up to a column [R, N] could hide in noise.

    Where there is no gain to compare with, ``FINE`` of the loss takes its place.

    Args:
        losses: [R, N], a row a repeat.
        place: What `last_helpful` found.
        gain: The largest gain beyond.
        error: Its standard error.
    """
    means = losses.mean(axis=0)
    visible = max(float(means[0] - means[place]), FINE * float(np.abs(losses).mean()))
    return -error < gain and error > visible
