"""What the predictor is shown in the place of translated source images.

Baselines between "source images as they are" and "a perfect translation": they differ from
`raw-mix` in the images alone. All of them use training images and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from medxlate.base.errors import ConfigError, DataError
from medxlate.config import Config
from medxlate.dataset.index import Rows
from medxlate.dataset.loading import Slices
from medxlate.dataset.training_data import Data
from medxlate.images.stack import FloatArray

StandIn = Callable[[str, Data, Config], Slices]

LEVELS = 1024  # quantiles of a distribution of grey values
REFERENCE_IMAGES = 256  # of the target, from which its distribution is taken
SCAN_IMAGES = 16  # of a scan, likewise
KEPT_MAPS = 4096  # of scans, 8 KiB each


def matched_to_target(source: str, data: Data, config: Config) -> Slices:
    """Return the source's slices, each scan matched to the target's distribution of grey values.

    The reference is pooled over the target's training images, of which a fixed random sample is
    read. A scan has one map for all of its slices: that removes its gain and keeps what tells one
    slice from another, such as the height in the head, which a map of each slice would even out.
    Nothing is kept but the maps.

    Args:
        source: The source modality.
        data: Training slices.
        config: It names the target.
    """
    slices, target = data.train[source], data.train[config.data.target]
    chosen = np.random.default_rng(0).permutation(len(target))[:REFERENCE_IMAGES]
    reference = quantiles(_images(target, np.sort(chosen)))
    return slices.with_images(_Matched(slices, reference).read)


def repeated_target(source: str, data: Data, config: Config) -> Slices:
    """Return real target slices, as many as the source has: the same ones again and again.

    What more images of the same patients do by themselves, without any new patient.

    Args:
        source: The source modality, whose number of slices counts.
        data: Training slices.
        config: It names the target, and has the seed of the order.
    """
    target = data.train[config.data.target]
    random = np.random.default_rng([config.runtime.seed, *source.encode()])
    order = random.permutation(len(target))
    return target.picked(np.resize(order, len(data.train[source])))


def true_images(source: str, data: Data, config: Config) -> Slices:
    """Return the true target images of the source's training patients, from ``data.oracle``.

    The most that a perfect translation could give.

    Args:
        source: The source modality.
        data: Training slices, with the paired ones.
        config: It names the paired modality.

    Raises:
        ConfigError: No paired modality is named.
        DataError: A training patient of the source has no image there.
    """
    if data.oracle is None:
        raise ConfigError(*NO_PAIRS)
    patients = set(data.train[source].patients)
    check_covered(patients, set(data.oracle.patients), source, config.data.oracle)
    return data.oracle.picked([i for i, p in enumerate(data.oracle.patients) if p in patients])


NO_PAIRS = (
    "The method oracle needs pairs: the true target images of the source patients.",
    "Give the modality that contains them with --set data.oracle=NAME, or leave the method out.",
)


def check_covered(patients: set[str], paired: set[str], source: str, oracle: str) -> None:
    """Raise DataError unless all of a source's training patients have paired images.

    Args:
        patients: Training patients of the source.
        paired: Patients of the paired modality.
        source: The source modality.
        oracle: The paired modality.
    """
    lacking = patients - paired
    if lacking:
        raise DataError(
            f"{len(lacking)} of {len(patients)} {source} training patients, such as "
            f"{min(lacking)}, have no image in {oracle} (data.oracle).",
            f"Prepare the target images of all {source} patients as {oracle}, with the same "
            "patient ids, or leave the method oracle out.",
        )


def quantiles(values: FloatArray) -> FloatArray:
    """Return the quantile function of grey values at the middles of LEVELS equal steps."""
    levels = (np.arange(LEVELS) + 0.5) / LEVELS
    return np.asarray(np.quantile(values, levels), dtype=np.float32)


def matching(values: FloatArray, reference: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the piecewise linear map that gives grey values the reference's distribution.

    Histogram matching (Gonzalez and Woods, Digital Image Processing, section 3.3) between quantile
    functions. A value that fills many quantiles, such as the background, goes to the middle of
    them: at their upper end, where the cumulative histogram has it, a background that is a little
    larger than the reference's would become skin.

    Args:
        values: Grey values of any shape.
        reference: Their wanted quantiles, [LEVELS].

    Returns:
        Grey values, increasing, and what each of them becomes, for ``numpy.interp``.
    """
    known, first, count = np.unique(quantiles(values), return_index=True, return_counts=True)
    middle = first + (count - 1) / 2
    return known, np.interp(middle, np.arange(LEVELS), reference).astype(np.float32)


class _Matched:
    """Reads slices through the map of the scan to which they belong.

    Args:
        slices: Of the source.
        reference: Quantiles of the target.
    """

    def __init__(self, slices: Slices, reference: FloatArray) -> None:
        self._slices = slices
        self._reference = reference
        self._of_scan: dict[str, list[int]] = {}
        for index, scan in enumerate(slices.volumes):
            self._of_scan.setdefault(scan, []).append(index)
        self._map = lru_cache(maxsize=KEPT_MAPS)(self._find_map)

    def read(self, index: int) -> FloatArray:
        """Return the matched image [S, S] in [-1, 1] with this position among the slices."""
        image = _images(self._slices, [index])[0]
        known, wanted = self._map(self._slices.volumes[index])
        return np.asarray(np.interp(image, known, wanted), dtype=np.float32)

    def _find_map(self, scan: str) -> tuple[FloatArray, FloatArray]:
        every = self._of_scan[scan]
        places = np.linspace(0, len(every) - 1, min(len(every), SCAN_IMAGES)).round()
        some = [every[int(place)] for place in places]
        return matching(_images(self._slices, some), self._reference)


def _images(slices: Slices, positions: Rows) -> FloatArray:
    """Return images [N, S, S] in [-1, 1]."""
    images: FloatArray = slices.batch(positions).images[:, 0].numpy()
    return images
