"""How the grey values of a modality are distributed: does an image look like those of training?

Files without a header say nothing of their modality. What the square roots of the shares of grey
values are like in training images (the coordinates of Hellinger's distance) tells CT from MR from
radiographs, image by image, and inverted images from others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

BINS = 32
FLOOR = 0.01  # of a bin's standard deviation: a bin that is always empty would weigh beyond measure
QUANTILE = 0.95
FEWEST = 5  # patients who say how much patients differ
MOST_IMAGES = 2000

Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Roots = npt.NDArray[np.float64]


class Greys(BaseModel):
    """Grey values of all training images together, as the networks see them; none of a single one.

    Attributes:
        mean: For each of 32 bins from -1 to 1, the mean over images of the square root of
            the share of pixels in the bin.
        spread: The standard deviation over images.
        usual: The distance from the mean below which 95 % of the images lie; see ``distances``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[Positive, ...] = Field(min_length=BINS, max_length=BINS)
    spread: tuple[Positive, ...] = Field(min_length=BINS, max_length=BINS)
    usual: Positive

    @classmethod
    def of(cls, batches: Iterable[npt.NDArray[Any]], patients: Sequence[str]) -> Greys | None:
        """Return those of N images.

        How far images usually lie is measured on each patient by the images of the others: a
        patient's images are alike, so that those of a new one lie farther.

        Args:
            batches: The images, [B, 1, S, S] in [-1, 1].
            patients: The patient of each, [N].

        Returns:
            None for fewer than five patients.
        """
        names, index = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
        if len(names) < FEWEST:
            return None
        roots = np.concatenate([_roots(images) for images in batches])
        sums = np.stack([roots, roots**2])  # [2, N, 32]
        total = sums.sum(axis=1)
        distances = np.empty(len(roots))
        for number in range(len(names)):
            own = index == number
            others = total - sums[:, own].sum(axis=1)
            distances[own] = _distances(roots[own], *_moments(others, int((~own).sum())))
        mean, spread = _moments(total, len(roots))
        return cls(
            mean=tuple(mean.tolist()),
            spread=tuple(spread.tolist()),
            usual=float(np.quantile(distances, QUANTILE)),
        )

    def distances(self, images: npt.NDArray[Any]) -> Roots:
        """Return how far images [B, 1, S, S] in [-1, 1] are from those of training, [B].

        The mean over bins of the squared difference of square roots, in standard deviations.
        """
        return _distances(_roots(images), np.array(self.mean), np.array(self.spread))

    def unlike(self, images: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which images [B, 1, S, S] in [-1, 1] are farther than is usual, [B]."""
        return np.asarray(self.distances(images) > self.usual)


def _moments(sums: Roots, count: int) -> tuple[Roots, Roots]:
    """Return mean and standard deviation, [32] each, from sums and sums of squares, [2, 32]."""
    mean = sums[0] / count
    variance = (sums[1] / count - mean**2) * count / (count - 1)
    return mean, np.sqrt(np.maximum(variance, 0))


def _distances(roots: Roots, mean: Roots, spread: Roots) -> Roots:
    return np.asarray((((roots - mean) / (spread + FLOOR)) ** 2).mean(axis=1))


def _roots(images: npt.NDArray[Any]) -> Roots:
    """Return the square roots of the shares of pixels in each bin, [B, 32]."""
    bins = np.clip((np.asarray(images) + 1) * (BINS / 2), 0, BINS - 1).astype(np.intp)
    flat = bins.reshape(len(bins), -1)
    counts = np.stack([np.bincount(row, minlength=BINS) for row in flat]) if len(flat) else flat
    return np.sqrt(counts.reshape(-1, BINS) / max(1, flat.shape[1]))
