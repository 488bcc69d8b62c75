"""A set of images as the audits see it: small copies, histograms, and fixed statistics.

Nothing here is learned. A discriminator's features, or those of a predictor that was trained on
G(y), may have learned to overlook the very thing that an audit looks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medxlate.evaluation.results import Points

Array = npt.NDArray[Any]
SIDE = 64  # of the small copies, pixels
LEVELS = 256  # bins of the histogram of an image's values over [-1, 1]
BANDS = 8  # rings of spatial frequency, and rings about the centre
CENTRES = (np.arange(LEVELS) + 0.5) * 2 / LEVELS - 1  # the values that the bins stand for
_COARSE = 16  # bins of the histogram among the statistics
FEWEST = 5  # patients on either side, below which an audit cannot tell


@dataclass(frozen=True)
class Sample:
    """Images of one kind.

    Attributes:
        small: float32 [N, s, s] in [-1, 1], means over blocks; s is 64 or the image's own side.
        histograms: float32 [N, 256], shares of an image's pixels, from -1 to 1.
        statistics: float32 [N, 32]: a histogram of 16 bins (square roots of shares), the mean in 8
            rings about the centre, and the logarithm of the power in 8 rings of spatial frequency.
        patients: The patient of each image [N].
        labels: [N]: values, or class numbers.
        series: The series of each image [N]; all different where there are none.
        positions: Where each lies in its series [N].
    """

    small: Array
    histograms: Array
    statistics: Array
    patients: Array
    labels: Array
    series: Array
    positions: Array

    def __len__(self) -> int:
        return len(self.small)

    @property
    def people(self) -> int:
        """The number of patients."""
        return len(set(self.patients.tolist()))


def look(
    batches: Iterable[Tensor],
    *,
    patients: Sequence[str],
    labels: Array,
    series: Sequence[str] | None = None,
    positions: Sequence[float] | None = None,
) -> Sample:
    """Return what the audits need of images, of which one batch is in memory at a time.

    Args:
        batches: float32 [B, 1, S, S] in [-1, 1].
        patients: [N].
        labels: [N].
        series: [N]; None: each image is a series of its own.
        positions: [N] within the series.
    """
    small, histograms, statistics = [], [], []
    for batch in batches:
        images = torch.nan_to_num(batch[:, 0].float().cpu()).clamp(-1, 1)
        small.append(shrink(images))
        histograms.append(_histograms(images.numpy()))
        statistics.append(_statistics(images, histograms[-1]))
    count = len(patients)
    return Sample(
        np.concatenate(small),
        np.concatenate(histograms),
        np.concatenate(statistics),
        np.asarray(patients, dtype=object),
        np.asarray(labels),
        np.asarray(range(count) if series is None else series, dtype=object),
        np.asarray(np.zeros(count) if positions is None else positions, dtype=np.float64),
    )


def shrink(images: Tensor) -> Array:
    """Return images [B, S, S] as their small copies, float32 [B, s, s]."""
    side = min(SIDE, images.shape[-1])
    small: Array = F.adaptive_avg_pool2d(images.unsqueeze(1), side)[:, 0].numpy()
    return small


def means_of_blocks(small: Array, side: int) -> Array:
    """Return copies [N, s, s] of small copies, s being ``side`` or a little more."""
    step = max(small.shape[-1] // side, 1)
    cut = small.shape[-1] // step * step
    blocks = small[:, :cut, :cut].reshape(len(small), cut // step, step, cut // step, step)
    means: Array = blocks.mean(axis=(2, 4))
    return means


def patient_means(values: Array, patients: Array) -> Array:
    """Return the mean [P, ...] over each patient's rows, patients in sorted order."""
    return group_means(values, np.unique(patients.astype(str), return_inverse=True)[1])


def cases(labels: Array, patients: Array) -> tuple[Array, Array, Array]:
    """Return the different labels of each patient: a patient at two ages has two.

    Args:
        labels: Of images, [N, K].
        patients: The patient of each image, [N].

    Returns:
        The label of each case [C, K], the number of its patient in sorted order [C], and the case
        to which each image belongs [N].
    """
    _, owner = np.unique(patients.astype(str), return_inverse=True)
    found, which = np.unique(np.column_stack([owner, labels]), axis=0, return_inverse=True)
    return found[:, 1:], found[:, 0].astype(int), which.reshape(-1)


def group_means(values: Array, which: Array) -> Array:
    """Return the mean [G, ...] over the rows of each group; ``which`` is in 0 to G - 1, [N]."""
    counts = np.bincount(which)
    totals = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(totals, which, values)
    counts = counts.reshape(-1, *[1] * (values.ndim - 1))
    means: Array = totals / counts
    return means


def transport(first: Array, second: Array) -> float:
    """Return the earth mover's distance of two histograms [256] over [-1, 1], in [0, 2]."""
    return float(np.abs(np.cumsum(first - second)).sum() * 2 / LEVELS)


def points(name: str, x: Array | Sequence[float], y: Array | Sequence[float] = ()) -> Points:
    """Return points of a picture, rounded to four digits."""
    return Points(name=name, x=_short(x), y=_short(y))


def _short(values: Array | Sequence[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)


def _histograms(images: Array) -> Array:
    bins = np.minimum((images + 1) * (LEVELS / 2), LEVELS - 1).astype(np.intp)
    found = np.stack([np.bincount(each.ravel(), minlength=LEVELS) for each in bins])
    shares: Array = (found / bins[0].size).astype(np.float32)
    return shares


def _statistics(images: Tensor, histograms: Array) -> Array:
    coarse = np.sqrt(histograms.reshape(len(images), _COARSE, -1).sum(axis=2))
    size = images.shape[-1]
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    rings = np.minimum(np.hypot(x, y) / (size / 2) * BANDS, BANDS - 1).astype(np.intp)
    power = torch.fft.rfft2(images).abs().square().numpy() / size**2
    v, u = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    bands = np.minimum(np.hypot(u, v) * 2 * BANDS, BANDS - 1).astype(np.intp)
    # A white noise of 1e-4 of the range keeps what no eye sees out of the logarithm.
    spectrum = np.log(_ring_means(power, bands) + 1e-4)
    return np.hstack([coarse, _ring_means(images.numpy(), rings), spectrum]).astype(np.float32)


def _ring_means(images: Array, rings: Array) -> Array:
    """Return the mean [B, 8] of images [B, H, W] over the pixels of each ring."""
    flat = rings.ravel()
    shares = np.zeros((flat.size, BANDS), np.float32)
    shares[np.arange(flat.size), flat] = 1 / np.bincount(flat, minlength=BANDS)[flat]
    means: Array = images.reshape(len(images), -1) @ shares
    return means
