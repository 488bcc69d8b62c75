"""The slices of one scan, with the meaning of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medxlate.images.orientation import Cut

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Stack:
    """Parallel slices, read one at a time.

    Attributes:
        count: How many slices there are; 1 for a radiograph.
        height: Rows of each slice.
        width: Columns of each slice.
        spacing: Distance between rows and between columns, mm; (1, 1) where it is not known.
        unit: "HU", "SUVbw" or "".
        full_range: Lowest and highest physical value that the stored type can hold.
        read: From a slice's number (0..count-1) to float32 [height, width] in physical units, an
            array of the caller's own; NaN where the scanner measured nothing (padding); raises
            ImageError where that slice cannot be used.
        note: What a user should know about how it is read; "" for nothing.
        cut: How the slices lie in the volume; None for an image without a place in space.
    """

    count: int
    height: int
    width: int
    spacing: tuple[float, float]
    unit: str
    full_range: tuple[float, float]
    read: Callable[[int], FloatArray]
    note: str = ""
    cut: Cut | None = None

    def slices(self) -> Iterator[FloatArray]:
        """Yield all slices in order."""
        return (self.read(number) for number in range(self.count))
