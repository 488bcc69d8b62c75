"""What every header of a volume file comes to: a geometry, and where the voxels lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medxlate.base.errors import ImageError
from medxlate.images.orientation import Geometry

TYPES = frozenset({"i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"})
VECTORS = "its voxels are not single real numbers (colour, complex, vectors...)"


@dataclass(frozen=True, slots=True)
class VoxelStorage:
    """Where and how a file holds its voxels.

    Attributes:
        data_file: The file that holds them.
        start: Bytes of that file before them, or before the packed stream.
        packed: Whether they are a gzip or zlib stream.
        skip: Bytes of the unpacked stream before them; 0 where it is not packed.
        stored: NumPy type with byte order, such as ``<i2``.
        slope: From stored to physical values.
        intercept: From stored to physical values.
    """

    data_file: Path
    start: int
    packed: bool
    skip: int
    stored: str
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def scaled(self) -> bool:
        """Whether stored and physical values differ."""
        return (self.slope, self.intercept) != (1.0, 0.0)


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """What a volume file's header says.

    Attributes:
        geometry: Where the voxels of one volume lie.
        volumes: How many volumes the file holds; more than 1 only where it is 4-D.
        storage: Where they are stored.
        xform: The NIfTI code of the space (1 scanner, 2 aligned, 3 Talairach, 4 MNI...); 0 where
            a NIfTI file has none and its place in space is unknown.
    """

    geometry: Geometry
    volumes: int
    storage: VoxelStorage
    xform: int = 1

    @property
    def dtype(self) -> str:
        """The NumPy type of the values as they are read: the stored one, floating if scaled."""
        stored = np.dtype(self.storage.stored)
        if self.storage.scaled and stored != np.float64:
            return "float32"
        return stored.name

    @property
    def full_range(self) -> tuple[float, float]:
        """Lowest and highest physical value that the stored type can hold."""
        stored = np.dtype(self.storage.stored)
        if stored.kind == "f":
            limits: np.iinfo[Any] | np.finfo[Any] = np.finfo(stored)
        else:
            limits = np.iinfo(stored)
        if not self.storage.scaled or stored.kind == "f":
            return float(limits.min), float(limits.max)
        ends = [
            float(end) * self.storage.slope + self.storage.intercept
            for end in (limits.min, limits.max)
        ]
        return min(ends), max(ends)


def plain_type(code: str) -> str:
    """Return the NumPy type where it is one number per voxel, real and at most 64 bits.

    Raises:
        ImageError: It is not.
    """
    if code.lstrip("<>|=") not in TYPES:
        raise ImageError(VECTORS)
    return code
