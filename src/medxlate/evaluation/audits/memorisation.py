"""Memorisation: does G return images that it was trained on?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from medxlate.base.errors import percent
from medxlate.evaluation.audits.rule import Rule
from medxlate.evaluation.audits.sample import FEWEST, Sample, patient_means, points
from medxlate.evaluation.results import Audit, Picture
from medxlate.images.recipes import DARK, LEAST_SHOWN

Array = npt.NDArray[Any]
# A copy lies at a small part of the distance between two patients. Neither copies nor other images
# cross half of what the nearest 5 % of real images have (measured in docs/explanation/audits.md).
NEAR_PERCENTILE = 5.0
NEAR = 0.5
SHARE = 0.1  # of the patients: where a tenth of them are copied, somebody is recognised
CHANCE = 0.01  # of as many copies, if one patient in fifty were as near by accident
_BY_ACCIDENT = 0.02
MEMORISATION = Rule(
    "memorisation",
    f"A translated image counts as a copy if its distance to a real training image is below "
    f"{NEAR:g} times the {NEAR_PERCENTILE:g}th percentile of the distances of real images of other "
    f"patients. Fires if most images of at least {percent(SHARE)} of the patients are copies and a "
    f"binomial test gives p < {percent(CHANCE)}.",
    "Compare the examples with their nearest training image. Do not share translated images of "
    "this model; train on more target patients or for fewer epochs.",
    SHARE,
)


class Neighbours:
    """The nearest training image of each image, found a batch of training images at a time.

    The distance is 1 - the correlation of two small copies less the mean real image: in [0, 2], 0
    for a copy, about 1 for images that have no more in common than their modality. Brightness,
    contrast and blur do not change it.

    Args:
        mean: The mean real image, float32 [s, s].
        small: Small copies [N, s, s] of the images to find neighbours of.
    """

    def __init__(self, mean: Array, small: Array) -> None:
        self._mean = mean
        self._own = self._directions(small)
        self.distance = np.full(len(small), np.inf)
        self.index = np.zeros(len(small), dtype=np.intp)

    def see(self, small: Array, indices: Array) -> None:
        """Compare with training images [M, s, s] of these numbers [M], without empty ones.

        An image without content is near to every other such image, which means nothing.
        """
        full = shown(small)
        if not full.any():
            return
        apart = 1 - self._own @ self._directions(small[full]).T
        best = apart.argmin(axis=1)
        found = apart[np.arange(len(apart)), best]
        nearer = found < self.distance
        self.distance[nearer] = found[nearer]
        self.index[nearer] = np.asarray(indices)[full][best[nearer]]

    def _directions(self, small: Array) -> Array:
        flat: Array = (small - self._mean).reshape(len(small), -1).astype(np.float32)
        flat = flat - flat.mean(axis=1, keepdims=True)
        flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
        return flat


def shown(small: Array) -> Array:
    """Return whether each image [N, s, s] is more than background, by the rule of ``prepare``."""
    shares: Array = (small > 2 * DARK - 1).mean(axis=(1, 2))
    return shares >= LEAST_SHOWN


def memorisation(
    source: str, translated: Sample, distance: Array, real: Sample, real_distance: Array
) -> Audit:
    """Compare how near translated and real images are to the target's training images.

    Args:
        source: The source modality.
        translated: Translated test images.
        distance: Of each to the nearest training image [N].
        real: Real target images of patients who are not among the training patients.
        real_distance: Likewise [M].
    """
    own = shown(translated.small) & np.isfinite(distance)
    others = shown(real.small) & np.isfinite(real_distance)
    people, known = (
        len(set(s.patients[rows].tolist())) for s, rows in ((translated, own), (real, others))
    )
    if min(people, known) < FEWEST:
        few = (
            f"Images of {people} translated and {known} real patients are too few to judge what is "
            f"close; {FEWEST} of each are needed."
        )
        return MEMORISATION.audit(source, "unknown", few)
    limit = NEAR * float(np.percentile(real_distance[others], NEAR_PERCENTILE))
    near = distance[own] < limit
    copied = int((patient_means(near * 1.0, translated.patients[own]) > 0.5).sum())
    share = copied / people
    fires = share >= SHARE and binom.sf(copied - 1, people, _BY_ACCIDENT) < CHANCE
    return MEMORISATION.audit(
        source,
        "fires" if fires else "ok",
        f"{near.sum()} of {own.sum()} translated images (most images of {copied} of {people} "
        f"patients) are closer than {limit:.3f} to a real training image. The median distance (1 - "
        f"correlation) is {np.median(distance[own]):.3f} for translated and "
        f"{np.median(real_distance[others]):.3f} for real images.",
        value=share,
        picture=Picture(
            kind="histogram",
            title="Distance to the nearest real training image",
            x_label="1 - correlation",
            y_label="images",
            lines=(
                points("translated", distance[own]),
                points("real, other patients", real_distance[others]),
            ),
            thresholds={"near": round(limit, 4)},
        ),
    )
