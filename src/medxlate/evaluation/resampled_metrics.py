"""Figures of predictions as functions of weights of the cases, so that a bootstrap is one product.

Every function takes weights [R, N], how often each of N cases counts in each of R resamples, and
returns a figure a resample, [R]; NaN where it is not defined there. Ones give the plain figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]

BINS = 15  # of the calibration error, as in Guo et al. 2017


def regression(predicted: Array, truth: Array, weights: Array, baseline: float) -> dict[str, Array]:
    """Return mse, mae, bias, r2, pearson, slope, skill of predictions.

    Args:
        predicted: [N], in the label's unit.
        truth: [N], likewise.
        weights: [R, N].
        baseline: What a prediction that ignores the image says.

    Returns:
        ``bias`` is the mean of prediction less label; ``slope`` that of predictions on labels by
        least squares, below 1 where predictions regress to the mean; ``skill`` 1 - mse / mse of
        the baseline.
    """
    # Centred, for the sums of squares would lose digits otherwise.
    center = float(truth.mean())
    p, t = predicted.astype(np.float64) - center, truth.astype(np.float64) - center
    error, apart = p - t, baseline - center - t
    columns = [np.ones_like(t), p, t, p * p, t * t, p * t, error**2, np.abs(error), apart**2]
    sums = weights @ np.stack(columns, axis=1)
    count, means = sums[:, 0], (sums[:, 1:] / sums[:, :1]).T
    mp, mt, pp, tt, pt, mse, mae, base = means
    spread_t, spread_p, common = tt - mt**2, pp - mp**2, pt - mp * mt
    tiny = 1e-12 * (1 + np.abs(tt))  # rounding; equal labels have no spread
    some = np.where((spread_t > tiny) & (count > 1 + 1e-9), spread_t, np.nan)
    both = np.where(spread_p > 1e-12 * (1 + np.abs(pp)), some * spread_p, np.nan)
    return {
        "mse": mse,
        "mae": mae,
        "bias": mp - mt,
        "r2": 1 - mse / some,
        "pearson": common / np.sqrt(both),
        "slope": common / some,
        "skill": 1 - mse / np.where(base > 0, base, np.nan),
    }


def classification(
    shares: Array, truth: npt.NDArray[np.integer[Any]], weights: Array, baseline: int
) -> dict[str, Array]:
    """Return accuracy, balanced_accuracy, auroc, f1, brier, ece, skill of class probabilities.

    Args:
        shares: [N, K].
        truth: [N], class numbers.
        weights: [R, N].
        baseline: The class that a prediction which ignores the image names.

    Returns:
        Averages over classes are over those that occur in the resample. ``auroc`` is one against
        the rest, by ranks; ``brier`` the squared distance of the probabilities to the truth,
        summed over classes, 0 to 2 (Brier, Monthly Weather Review 78, 1950); ``ece`` the expected
        calibration error of the named class over 15 bins of equal width (Guo et al. 2017,
        equation 3); ``skill`` the accuracy less that of the baseline.
    """
    named, classes = shares.argmax(axis=1), range(shares.shape[1])
    right = (named == truth).astype(np.float64)
    total = weights.sum(axis=1)
    distance = ((shares - np.eye(shares.shape[1])[truth.astype(int)]) ** 2).sum(axis=1)
    accuracy = weights @ right / total
    recalls, scores, curves = [], [], []
    for k in classes:
        is_k, says_k = (truth == k).astype(np.float64), (named == k).astype(np.float64)
        positives, said, hits = (weights @ each for each in (is_k, says_k, is_k * says_k))
        occurs = np.where(positives > 0, positives, np.nan)
        recalls.append(hits / occurs)
        scores.append(2 * hits / (occurs + said))
        curves.append(_auroc(shares[:, k], is_k, weights))
    return {
        "accuracy": accuracy,
        "balanced_accuracy": _mean(recalls),
        "auroc": _mean(curves),
        "f1": _mean(scores),
        "brier": weights @ distance / total,
        "ece": _calibration_error(shares.max(axis=1), right, weights),
        "skill": accuracy - weights @ (truth == baseline).astype(np.float64) / total,
    }


def _auroc(score: Array, positive: Array, weights: Array) -> Array:
    """Return the share of pairs that are in order; equal scores count half."""
    order = np.argsort(score, kind="stable")
    _, starts = np.unique(score[order], return_index=True)
    w = weights[:, order]
    pos = np.add.reduceat(w * positive[order], starts, axis=1)
    neg = np.add.reduceat(w * (1 - positive[order]), starts, axis=1)
    below = np.cumsum(neg, axis=1) - neg
    pairs = pos.sum(axis=1) * neg.sum(axis=1)
    area: Array = (pos * (below + neg / 2)).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)
    return area


def _calibration_error(sure: Array, right: Array, weights: Array) -> Array:
    place = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    bins = np.eye(BINS)[place]
    gaps = np.abs((weights * (right - sure)) @ bins)
    return np.asarray(gaps.sum(axis=1) / weights.sum(axis=1))


def _mean(columns: list[Array]) -> Array:
    """Return the mean over the classes that occur; NaN where none has a figure."""
    stacked = np.stack(columns)
    known = ~np.isnan(stacked)
    count = known.sum(axis=0)
    total = np.where(known, stacked, 0).sum(axis=0)
    mean: Array = total / np.where(count > 0, count, np.nan)
    return mean
