"""How sure figures of sets of images are: the jackknife over patients.

Each set's patients are left out in turn, in at most 20 groups of whole patients, and the variances
that the two sets give are added (delete-a-group jackknife: Shao and Tu 1995, "The Jackknife and
Bootstrap", section 2.3; two independent samples: Efron and Tibshirani 1993, section 11). A
bootstrap would not do: what it draws twice makes FID, KID and neighbours look nearer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medxlate.evaluation.gaussian import Moments, frechet_distance

Array = npt.NDArray[Any]
Statistic = Callable[[Array, Array], float]  # from which of N and of M images count to a figure

NEIGHBOURS = 3  # as torch-fidelity and Kynkaanniemi et al. 2019
MOST = 2048  # images of a set by which neighbours are judged
SAMPLE = 512  # of each set by which deviations are: time grows with the third power
GROUPS = 20  # of patients
NORMAL = 1.96  # standard deviations of a 95 % interval
BLOCK = 1024


class Set:
    """Features of some images.

    Args:
        rows: [N, D + K]: pooled features and class logits.
        patients: Whose each image is.

    Attributes:
        groups: Into how many groups the patients are divided.
    """

    def __init__(self, rows: Array, patients: Sequence[str]) -> None:
        self.rows = rows
        names, self._owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
        self.groups = min(GROUPS, len(names))

    def without(self) -> Iterator[Array]:
        """Yield, for each group of patients, which images are left without it, bool [N]."""
        for group in range(self.groups):
            yield self._owner % self.groups != group


def deviations(
    fakes: Set, reals: Set, width: int, metrics: Sequence[str]
) -> dict[str, float | None]:
    """Return the standard deviation of figures by the jackknife over the patients of both sets.

    Args:
        fakes: Translated images.
        reals: Real ones.
        width: D.
        metrics: Of fid, kid, is, precision, recall.

    Returns:
        None where without some patients fewer than four images are left, or where a figure is the
        same without any of them.
    """
    known = statistics(fakes, reals, width, metrics)
    every = [np.ones(len(each.rows), dtype=bool) for each in (fakes, reals)]
    variances = dict.fromkeys(known, 0.0)
    for side, each in enumerate((fakes, reals)):
        left = [kept for kept in each.without() if kept.sum() > NEIGHBOURS]
        enough = len(left) > 1 and len(left) == each.groups
        for name, figure in known.items():
            if side and name == "is":  # of the fakes alone
                continue
            if not enough:
                variances[name] = np.nan
                continue
            values = np.array([figure(*([k, every[1]], [every[0], k])[side]) for k in left])
            spread = float(((values - values.mean()) ** 2).sum())
            variances[name] += (len(values) - 1) / len(values) * spread
    return {name: float(np.sqrt(v)) if v > 0 else None for name, v in variances.items()}


def statistics(
    fakes: Set, reals: Set, width: int, metrics: Sequence[str]
) -> Mapping[str, Statistic]:
    """Return the figures as functions of which images count; what they share is computed once."""
    a, b = (each.rows[:, :width] for each in (fakes, reals))
    found: dict[str, Statistic] = {}
    if "fid" in metrics:
        found["fid"] = lambda p, q: frechet_distance(*(_gaussian(x) for x in (a[p], b[q])))
    if "kid" in metrics:
        kernels = [_kernel(x, y) for x, y in ((a, a), (b, b), (a, b))]
        found["kid"] = lambda p, q: _discrepancy(kernels, p, q)
    if "is" in metrics:
        found["is"] = lambda p, _: inception_score(fakes.rows[p, width:])
    if {"precision", "recall"} & set(metrics):
        own, other, between = (distances(x, y) for x, y in ((a, a), (b, b), (a, b)))
        cases = {
            "precision": lambda p, q: inside(between[np.ix_(p, q)], other[np.ix_(q, q)]),
            "recall": lambda p, q: inside(between[np.ix_(p, q)].T, own[np.ix_(p, p)]),
        }
        found |= {name: case for name, case in cases.items() if name in metrics}
    return found


def distances(one: Array, other: Array) -> Array:
    """Return the distances of features [N, D] and [M, D], float32 [N, M]."""
    rows, columns = (torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in (one, other))
    return torch.cat([torch.cdist(part, columns) for part in torch.split(rows, BLOCK)]).numpy()


def inside(points: Array, own: Array) -> float:
    """Return the share of points that lie in the manifold of some balls' centres.

    The manifold is the union of spheres around each centre, as wide as to its third neighbour
    (Kynkaanniemi et al. 2019, equation 1). Of fakes in that of reals it is precision, the other way
    round recall.

    Args:
        points: Distances of N points to M centres [N, M].
        own: Distances of the centres [M, M]; at least four.
    """
    radius = np.partition(own, NEIGHBOURS, axis=1)[:, NEIGHBOURS]
    return float((points <= radius).any(axis=1).mean())


def inception_score(logits: Array) -> float:
    """Return IS of logits [N, K] over one split."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    mean = p.mean(axis=0)
    sharp = float((p * log_p).sum(axis=1).mean())
    return float(np.exp(sharp - (mean * np.log(np.where(mean > 0, mean, 1))).sum()))


def _gaussian(rows: Array) -> Any:
    moments = Moments(rows.shape[1])
    moments.add(rows)
    return moments.gaussian()


def _kernel(one: Array, other: Array) -> Array:
    """Return KID's kernel (x y / D + 1)^3 (Binkowski et al. 2018, section 3.2), [N, M]."""
    product = one.astype(np.float64) @ other.T.astype(np.float64)
    kernel: Array = (product / one.shape[1] + 1) ** 3
    return kernel


def _discrepancy(kernels: Sequence[Array], p: Array, q: Array) -> float:
    """Return the unbiased MMD^2 (Gretton et al. 2012, equation 3) of the images that count."""
    own, other, between = kernels
    total = 0.0
    for kernel, chosen in ((own, p), (other, q)):
        w = chosen.astype(np.float64)
        count = w.sum()
        total += (w @ kernel @ w - w @ np.diag(kernel)) / (count * (count - 1))
    weights = p.astype(np.float64), q.astype(np.float64)
    mean = weights[0] @ between @ weights[1] / (weights[0].sum() * weights[1].sum())
    return float(total - 2 * mean)
