"""How the values of a derived image are stored: by rescale slope and intercept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.valuerep import DSfloat


@dataclass(frozen=True)
class Rescale:
    """How physical values are stored: value = slope * stored + intercept.

    Attributes:
        slope: As it will be read back, in at most 16 characters.
        intercept: Likewise.
        dtype: int16 or uint16.
    """

    slope: float
    intercept: float
    dtype: type[np.int16] | type[np.uint16]

    def store(self, values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
        """Return values as stored, rounded and clipped to what the type can hold."""
        info = np.iinfo(self.dtype)
        stored = np.rint((values.astype(np.float64) - self.intercept) / self.slope)
        return np.clip(stored, info.min, info.max).astype(self.dtype)


def rescale_for(modality: str, unit: str, low: float, high: float) -> Rescale:
    """Choose how values from ``low`` to ``high`` are stored in a derived image.

    HU are stored as they are. PET has no intercept (PS3.3 C.8.9.4). The MR Image IOD has no rescale
    at all, so values that span at least 1024 are rounded to integers; smaller ones get a slope, as
    the Standard Extended SOP Class that scanners write, too. Others span all of uint16.

    Args:
        modality: The DICOM Modality of the target.
        unit: Unit of the values.
        low: The lowest value.
        high: The highest value.
    """
    fits = low >= -32768 and high <= 32767
    if unit == "HU" or (modality == "MR" and fits and high - low >= 1024):
        return Rescale(1.0, 0.0, np.int16)
    if modality == "PT":
        return Rescale(_decimal(max(abs(low), abs(high)) / 32767 or 1.0), 0.0, np.int16)
    return Rescale(_decimal((high - low) / 65535 or 1.0), _decimal(low), np.uint16)


def decimals(values: Iterable[float]) -> list[DSfloat]:
    """Return values as decimal strings of at most 16 characters (PS3.5 6.2)."""
    return [DSfloat(float(value), auto_format=True) for value in values]


def _decimal(value: float) -> float:
    """Return the value that is read back from the decimal string of another."""
    return float(str(DSfloat(float(value), auto_format=True)))
