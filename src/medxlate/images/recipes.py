"""Intensity recipes: from physical values to the networks' [-1, 1], and back.

A recipe says which physical values become black and white. What lies between keeps its meaning:
the recipe is stored with the dataset and with the model, so a translated image can be given back
in physical units.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from medxlate.errors import ImageError, UsageError, nearest
from medxlate.images.geometry import resize, to_square
from medxlate.images.image import Bits, FloatArray, Image

Stored = npt.NDArray[np.unsignedinteger[Any]]
Kind = Literal["ct", "percentile", "as-is"]
KINDS: tuple[Kind, ...] = ("ct", "percentile", "as-is")

DEFAULT_WINDOW = (40.0, 400.0)
DEFAULT_PERCENTILES = (0.5, 99.5)


class Recipe(BaseModel):
    """How the values of one modality are mapped.

    Attributes:
        kind: ``ct``: a window in HU; ``percentile``: the image's own percentiles; ``as-is``: the
            range of the stored type.
        window: Level and width in HU, for ``ct``.
        percentiles: Lower and upper, for ``percentile``.
        channel: Which channel of colour images is read, from 0; None: luma.
        bits: Depth of the stored values, 8 or 16.
        unit: Unit of the physical values, "HU" or "".
        output_range: The physical values that -1 and 1 stand for in translated images. For
            ``percentile``, the median over the dataset's images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    channel: int | None = None
    bits: Bits = 16
    unit: str = ""
    output_range: tuple[float, float] = (0.0, 0.0)

    def limits(self, image: Image) -> tuple[float, float]:
        """Return the physical values of this image that become black and white."""
        if self.window is not None:
            if image.unit != "HU":
                raise ImageError(
                    "The recipe 'ct' needs Hounsfield units, and the image has none.",
                    "Use --recipe percentile or --recipe as-is for images already windowed.",
                )
            level, width = self.window
            return level - width / 2, level + width / 2
        if self.percentiles is not None:
            low, high = (float(v) for v in np.percentile(image.pixels, self.percentiles))
            if low < high:
                return low, high
            return float(image.pixels.min()), float(image.pixels.max())
        return image.full_range

    @property
    def peak(self) -> int:
        """The largest stored value: 255 or 65535."""
        return 255 if self.bits == 8 else 65535

    def store(
        self, image: Image, size: int, *, limits: tuple[float, float] | None = None
    ) -> Stored:
        """Map an image to the dataset's form: integers [size, size], 0 black, ``peak`` white.

        Args:
            image: The image.
            size: Side of the square, pixels.
            limits: What ``limits`` returned for it, where that is known already.
        """
        low, high = limits or self.limits(image)
        unit = np.clip((image.pixels - low) / np.float32(high - low), 0, 1)
        square = to_square(unit, size, background=0.0)
        return to_stored(square * 2 - 1, self.bits)

    @property
    def rescale(self) -> tuple[float, float]:
        """Slope and intercept that bring stored integers to physical values, by output_range."""
        low, high = self.output_range
        return (high - low) / self.peak, low


def to_stored(network: FloatArray, bits: Bits) -> Stored:
    """Map values in [-1, 1] to integers that span 0..255 or 0..65535."""
    unit = (np.clip(network, -1, 1) + 1) / 2
    if bits == 8:
        return np.rint(unit * 255).astype(np.uint8)
    return np.rint(unit * 65535).astype(np.uint16)


def to_network(stored: npt.NDArray[Any], size: int) -> FloatArray:
    """Bring stored integers [S, S] to float32 [size, size] in [-1, 1]: what every network sees."""
    peak = 255 if stored.dtype == np.uint8 else 65535
    unit = stored.astype(np.float32) / np.float32(peak)
    return resize(unit, size, size) * 2 - 1


def make_recipe(
    kind: str,
    *,
    modality: str,
    unit: str,
    bits: Bits,
    window: tuple[float, float] | None = None,
    percentiles: tuple[float, float] | None = None,
    channel: int | None = None,
) -> Recipe:
    """Build the recipe of a modality before its images are read.

    Args:
        kind: One of KINDS, or ``auto``: ``ct`` where the images are in HU, else ``percentile``.
        modality: Its name, for messages.
        unit: Unit of the first image.
        bits: Depth of the deepest image.
        window: Level and width for ``ct``; default 40, 400.
        percentiles: For ``percentile``; default 0.5, 99.5.
        channel: Which channel of colour images is read, from 0.

    Raises:
        UsageError: An unknown kind, or a parameter that does not belong to it.
    """
    if kind == "auto":
        kind = "ct" if unit == "HU" else "percentile"
    if kind not in KINDS:
        raise UsageError(f"There is no recipe '{kind}'.", nearest(kind, KINDS))
    if window is not None and kind != "ct":
        raise UsageError(f"--window belongs to the recipe ct; {modality} uses {kind}.")
    if percentiles is not None and kind != "percentile":
        raise UsageError(f"--percentiles belongs to percentile; {modality} uses {kind}.")
    if kind == "ct":
        window = window or DEFAULT_WINDOW
        if window[1] <= 0:
            raise UsageError(f"The window's width must be positive, not {window[1]:g}.")
        return Recipe(kind="ct", window=window, channel=channel, bits=bits, unit="HU")
    if kind == "percentile":
        percentiles = percentiles or DEFAULT_PERCENTILES
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise UsageError(f"Percentiles must rise within 0..100, not {percentiles}.")
        return Recipe(
            kind="percentile", percentiles=percentiles, channel=channel, bits=bits, unit=unit
        )
    return Recipe(kind="as-is", channel=channel, bits=bits, unit=unit)
