"""A single two-dimensional image with the meaning of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Bits = Literal[8, 16]


@dataclass(frozen=True)
class Image:
    """One slice or radiograph.

    Attributes:
        pixels: float32 [H, W], in physical units.
        unit: "HU" where the values are Hounsfield units, else "".
        full_range: Lowest and highest physical value that the stored type can hold.
        tags: The DICOM attributes that were asked for, by keyword; absent ones are left out.
    """

    pixels: FloatArray
    unit: str
    full_range: tuple[float, float]
    tags: Mapping[str, str] = field(default_factory=dict)
