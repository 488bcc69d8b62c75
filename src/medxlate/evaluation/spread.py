"""How sure FID, IS, precision and recall are: what they do when patients are drawn again.

FID of a resample is larger than that of the images, for what was drawn twice adds nothing to the
covariance; its mean is therefore not used, but only how far it varies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medxlate.evaluation.gaussian import Gaussian, frechet_distance

Array = npt.NDArray[Any]

NEIGHBOURS = 3  # as torch-fidelity and Kynkaanniemi et al. 2019
MOST = 2048  # images of a set that are drawn from
WORK = 2e9  # multiplications of a resample of FID above which there are fewer of them
RESAMPLES, FEWEST = 100, 20
SEED = 0
NORMAL = 1.96  # standard deviations of a 95 % interval
BLOCK = 1024


def draw(patients: Sequence[str], random: np.random.Generator) -> Array:
    """Return how often each image counts when patients are drawn with replacement, [N]."""
    names, owner = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    counts = random.multinomial(len(names), np.full(len(names), 1 / len(names)))
    return counts[owner].astype(np.float64)


def weighted_gaussian(rows: Array, weights: Array) -> Gaussian:
    """Return mean and unbiased covariance of rows [N, D] that count ``weights`` [N] times."""
    seen = weights > 0
    w = weights[seen][:, None]
    x = rows[seen].astype(np.float64)
    total = w.sum()
    mean = (w * x).sum(axis=0) / total
    return Gaussian(mean, np.sqrt(w / max(total - 1, 1)) * (x - mean))


def weighted_score(logits: Array, weights: Array) -> float:
    """Return IS of logits [N, K] that count ``weights`` [N] times, over one split."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    w = weights / weights.sum()
    mean = w @ p
    sharp = float(w @ (p * log_p).sum(axis=1))
    return float(np.exp(sharp - (mean * np.log(np.where(mean > 0, mean, 1))).sum()))


def within(points: Array, balls: Array) -> Array:
    """Return which points [N, D] lie in the manifold of balls [M, D], bool [N].

    The manifold is the union of spheres around each, as wide as to its third neighbour
    (Kynkaanniemi et al. 2019, equation 1); of fakes in that of reals the mean is precision, the
    other way round recall. ``balls`` needs at least four rows.
    """
    centers = torch.from_numpy(np.ascontiguousarray(balls, dtype=np.float32))
    near = (torch.cdist(part, centers) for part in torch.split(centers, BLOCK))
    parts = [distances.kthvalue(NEIGHBOURS + 1).values for distances in near]
    radius = torch.cat(parts)
    every = torch.split(torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32)), BLOCK)
    return torch.cat([(torch.cdist(p, centers) <= radius).any(dim=1) for p in every]).numpy()


class Set:
    """Features of some images, of which as many as fit are drawn from.

    Args:
        rows: [N, D + K]: pooled features and class logits.
        patients: Whose each image is.
    """

    def __init__(self, rows: Array, patients: Sequence[str]) -> None:
        self.rows = rows
        self.patients = patients


def deviations(fakes: Set, reals: Set, width: int, metrics: Sequence[str]) -> dict[str, float]:
    """Return the standard deviation of figures over resamples of the patients of both sets.

    Args:
        fakes: Translated images.
        reals: Real ones.
        width: D.
        metrics: Of fid, is, precision, recall.
    """
    random = np.random.default_rng(SEED)
    inside = {}
    if "precision" in metrics:
        inside["precision"] = (within(fakes.rows[:, :width], reals.rows[:, :width]), fakes)
    if "recall" in metrics:
        inside["recall"] = (within(reals.rows[:, :width], fakes.rows[:, :width]), reals)
    values: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(resamples(len(fakes.rows), len(reals.rows), width)):
        w = {id(each): draw(each.patients, random) for each in (fakes, reals)}
        for name in metrics:
            if name == "fid":
                a, b = (weighted_gaussian(e.rows[:, :width], w[id(e)]) for e in (fakes, reals))
                values[name].append(frechet_distance(a, b))
            elif name == "is":
                values[name].append(weighted_score(fakes.rows[:, width:], w[id(fakes)]))
            else:
                hits, owner = inside[name]
                weight = w[id(owner)]
                values[name].append(float(weight @ hits / weight.sum()))
    return {name: float(np.std(each, ddof=1)) for name, each in values.items()}


def resamples(fakes: int, reals: int, width: int) -> int:
    """Return how many resamples are drawn: 100, fewer down to 20 for large sets."""
    return int(np.clip(RESAMPLES * WORK / (fakes * reals * width), FEWEST, RESAMPLES))
