"""FID, KID, IS, precision and recall of features, as torch-fidelity takes them.

Each figure stands here once, in the form that a report shows and, where that differs, in the one
that the jackknife of its interval needs. Features are [N, D + K]: pooled ones and, behind them,
class logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import svdvals
from scipy.linalg.lapack import dpstrf
from torch_fidelity import (
    KEY_METRIC_ISC_MEAN,
    KEY_METRIC_PRECISION,
    KEY_METRIC_RECALL,
)
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kernel_mmd, kernel_poly
from torch_fidelity.metric_prc import prc_features_to_metric

from medxlate.base.errors import DataError
from medxlate.evaluation.batches import evenly_spaced
from medxlate.evaluation.intervals import jackknife

NAMES = ("fid", "kid", "is", "precision", "recall")
KID_SUBSETS, KID_SIZE, IS_SPLITS, SEED = 100, 1000, 10, 2020  # torch-fidelity's
NEIGHBOURS = 3  # likewise, and in Kynkaanniemi et al. 2019
MOST_COMPARED = 2048  # images of a set by which precision and recall are judged
BLOCK = 512  # images whose features are in memory at once

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.intp]


class Features(Protocol):
    """Features [N, D + K] in memory (an array) or on disk (``StoredFeatures``)."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, rows: Rows, /) -> Array:
        """Return the features of some images."""


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution.

    Attributes:
        mean: [D].
        factor: F [R, D], whose product F^T F is the covariance; R is its rank or a little more.
    """

    mean: Array
    factor: Array


def compare_features(
    fakes: Features, reals: Features, names: Sequence[str], *, width: int, has_classes: bool
) -> dict[str, float]:
    """Compare translated with real images.

    Args:
        fakes: Features of translated images, at least two.
        reals: Features of real target images, likewise.
        names: Figures of NAMES.
        width: D.
        has_classes: Whether there are class logits.

    Returns:
        The figures by name. Without class logits there is no IS, and without more than three
        images of each kind neither precision nor recall.

    Raises:
        DataError: Features are not finite numbers.
    """
    found: dict[str, float] = {}
    if "fid" in names:
        found["fid"] = frechet_distance(gaussian(fakes, width), gaussian(reals, width))
    if "kid" in names:
        found["kid"] = kernel_distance(fakes, reals, width)
    if "is" in names and has_classes:
        found["is"] = inception_score(fakes, width)
    if {"precision", "recall"} & set(names) and min(len(fakes), len(reals)) > NEIGHBOURS:
        some = (each[evenly_spaced(len(each), MOST_COMPARED)][:, :width] for each in (fakes, reals))
        found |= precision_and_recall(*some)
    return {name: found[name] for name in names if name in found}


def deviations(
    fakes: Array,
    reals: Array,
    patients: tuple[Sequence[str], Sequence[str]],
    names: Sequence[str],
    *,
    width: int,
) -> dict[str, float | None]:
    """Return the standard deviation of each figure by the jackknife over the patients of both sets.

    Args:
        fakes: Features of translated images [N, D + K].
        reals: Features of real images [M, D + K].
        patients: The patient of each of the N and of the M images.
        names: Figures of NAMES.
        width: D.

    Returns:
        None where too few images are left without some patients, or where a figure is the same
        without any of them.
    """
    a, b = fakes[:, :width], reals[:, :width]
    # Whole, for the jackknife leaves images out of one set alone: those of a subset are parts.
    kernels = [_kernel(x, y) for x, y in ((a, a), (b, b), (a, b))] if "kid" in names else []
    distance = subset_distance(a, b) if "fid" in names else None

    def figures(p: Rows, q: Rows) -> dict[str, float]:
        found: dict[str, float] = {}
        if distance is not None:
            found["fid"] = distance(p, q)
        if "kid" in names:
            pairs = ((p, p), (q, q), (p, q))
            found["kid"] = squared_mmd(
                *(k[np.ix_(*x)] for k, x in zip(kernels, pairs, strict=True))
            )
        if {"precision", "recall"} & set(names):
            found |= precision_and_recall(a[p], b[q])
        return found

    spread = jackknife(figures, patients, fewest=NEIGHBOURS + 1)
    if "is" in names:  # of the translated images alone

        def score(p: Rows) -> dict[str, float]:
            return {"is": _score(fakes[p, width:])}

        spread |= jackknife(score, patients[:1], fewest=NEIGHBOURS + 1)
    return {name: spread[name] for name in names}


def gaussian(features: Features, width: int) -> Gaussian:
    """Return the normal distribution with the features' mean and unbiased covariance.

    Of no more images than there are features, the centred rows themselves are a factor of the
    covariance, which has no full rank; of more, it is Cholesky's factor with pivoting (LAPACK's
    ``dpstrf``), which stops where what remains is rounding: features that are always zero do it
    no harm. Rows are read in blocks, so that memory does not grow with their number.

    Raises:
        DataError: There are fewer than two images.
    """
    count = len(features)
    if count < 2:
        raise DataError(f"{count} images are too few for a covariance; 2 or more are needed.")
    mean = sum(block.sum(axis=0) for block in _blocks(features, width)) / count
    if count <= width:
        rows = np.concatenate(list(_blocks(features, width)))
        return Gaussian(mean, (rows - mean) / np.sqrt(count - 1))
    scatter = np.zeros((width, width))
    for block in _blocks(features, width):
        centred = block - mean
        scatter += centred.T @ centred
    root, pivots, rank, _ = dpstrf(scatter / (count - 1))
    factor = np.empty((rank, width))
    factor[:, pivots - 1] = np.triu(root)[:rank]
    return Gaussian(mean, factor)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Return the squared Fréchet distance of two Gaussians (Dowson and Landau 1982).

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). With S1 = F1^T F1 and S2 = F2^T F2, the last
    trace is the sum of the singular values of F1 F2^T, a matrix as small as the sets are. Rounding
    may bring the result a little below zero.

    Raises:
        DataError: There are values that are not finite.
    """
    difference, product = one.mean - other.mean, one.factor @ other.factor.T
    if not np.isfinite(product).all() or not np.isfinite(difference).all():
        raise DataError("The features contain values that are not finite.")
    traces = np.linalg.norm(one.factor) ** 2 + np.linalg.norm(other.factor) ** 2
    return float(difference @ difference + traces - 2 * svdvals(product).sum())


def subset_distance(one: Array, other: Array) -> Callable[[Rows, Rows], float]:
    """Return the Fréchet distance of subsets of two sets of features, as a function of their rows.

    The same as of the subsets' Gaussians. Their factors are centred rows, whose products follow
    from those of all rows with all others, which are taken once.

    Args:
        one: [N, D].
        other: [M, D].
    """
    width = one.shape[1]
    if max(len(one), len(other)) > width:  # the covariances are smaller than those products
        return lambda p, q: frechet_distance(gaussian(one[p], width), gaussian(other[q], width))
    sets = [each.astype(np.float64) for each in (one, other)]
    means = [each.mean(axis=0) for each in sets]
    centred = [each - mean for each, mean in zip(sets, means, strict=True)]
    squares = [np.square(each).sum(axis=1) for each in centred]
    products = centred[0] @ centred[1].T

    def distance(p: Rows, q: Rows) -> float:
        shifts = [each[rows].mean(axis=0) for each, rows in zip(centred, (p, q), strict=True)]
        traces = sum(
            (each[rows].sum() - len(rows) * (shift @ shift)) / (len(rows) - 1)
            for each, rows, shift in zip(squares, (p, q), shifts, strict=True)
        )
        some = products[np.ix_(p, q)]
        some = some - some.mean(axis=0) - some.mean(axis=1, keepdims=True) + some.mean()
        roots = svdvals(some / np.sqrt((len(p) - 1) * (len(q) - 1))).sum()
        difference = means[0] + shifts[0] - means[1] - shifts[1]
        return float(difference @ difference + traces - 2 * roots)

    return distance


def kernel_distance(fakes: Features, reals: Features, width: int) -> float:
    """Return KID: the mean over torch-fidelity's subsets, one of which is in memory at a time."""
    size = min(KID_SIZE, len(fakes), len(reals))
    random = np.random.RandomState(SEED)
    values = []
    for _ in range(KID_SUBSETS):
        pair = [
            each[random.choice(len(each), size, replace=False)][:, :width]
            for each in (fakes, reals)
        ]
        values.append(kernel_mmd(*pair))
    return float(np.mean(values))


def squared_mmd(own: Array, other: Array, between: Array) -> float:
    """Return the unbiased MMD^2 (Gretton et al. 2012, equation 3) of kernels of two sets.

    For sets of different sizes; torch-fidelity's takes equal ones alone.

    Args:
        own: [N, N].
        other: [M, M].
        between: [N, M].
    """
    within = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (own, other))
    return float(within - 2 * between.mean())


def inception_score(fakes: Features, width: int) -> float:
    """Return IS: the mean over torch-fidelity's splits, one of which is in memory at a time."""
    count = len(fakes)
    splits = min(IS_SPLITS, count)
    order = np.random.RandomState(SEED).permutation(count)
    parts = [slice(i * count // splits, (i + 1) * count // splits) for i in range(splits)]
    return float(np.mean([_score(fakes[order[part]][:, width:]) for part in parts]))


def precision_and_recall(fakes: Array, reals: Array) -> dict[str, float]:
    """Return the share of fakes in the manifold of reals, and the reverse, in [0, 1].

    The manifold is the union of spheres around each image, as wide as to its third neighbour
    (Kynkaanniemi et al. 2019, equation 1).

    Args:
        fakes: Pooled features [N, D], at least four rows.
        reals: Likewise [M, D].
    """
    a, b = (torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in (fakes, reals))
    found = prc_features_to_metric(a, b, prc_neighborhood=NEIGHBOURS, verbose=False)
    precision, recall = found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]
    # They come as float32; as whole numbers of images they have all digits again.
    return {
        "precision": round(precision * len(fakes)) / len(fakes),
        "recall": round(recall * len(reals)) / len(reals),
    }


def _score(logits: Array) -> float:
    """Return IS of logits [N, K] as a single split."""
    found = isc_features_to_metric(torch.from_numpy(logits), splits=1, shuffle=False)
    return float(found[KEY_METRIC_ISC_MEAN])


def _kernel(one: Array, other: Array) -> Array:
    kernel: Array = kernel_poly(one.astype(np.float64), other.astype(np.float64))
    return kernel


def _blocks(features: Features, width: int) -> Iterator[Array]:
    """Yield the pooled features block by block, float64 [B, D]."""
    for start in range(0, len(features), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(features)))
        yield features[rows][:, :width].astype(np.float64)
