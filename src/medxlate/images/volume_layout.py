"""What all headers of volume files come to: a geometry, and where the voxels lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medxlate.base.errors import ImageError
from medxlate.images.orientation import Geometry

TYPES = frozenset({"i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"})


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the voxels of a file lie.

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
        layout: Where they are stored.
        unit: Of the physical values; always "", for no format states it.
        xform: The NIfTI code of the space (1 scanner, 2 aligned, 3 Talairach, 4 MNI...); 0 where
            a NIfTI file has none and its place in space is unknown.
    """

    geometry: Geometry
    volumes: int
    layout: Layout
    unit: str = ""
    xform: int = 1

    @property
    def dtype(self) -> str:
        """The NumPy type of the values as they are read: the stored one, floating if scaled."""
        stored = np.dtype(self.layout.stored)
        if self.layout.scaled and stored != np.float64:
            return "float32"
        return stored.name

    @property
    def full_range(self) -> tuple[float, float]:
        """Lowest and highest physical value that the stored type can hold."""
        stored = np.dtype(self.layout.stored)
        if stored.kind == "f":
            limits: np.iinfo[Any] | np.finfo[Any] = np.finfo(stored)
        else:
            limits = np.iinfo(stored)
        if not self.layout.scaled or stored.kind == "f":
            return float(limits.min), float(limits.max)
        ends = [
            float(end) * self.layout.slope + self.layout.intercept
            for end in (limits.min, limits.max)
        ]
        return min(ends), max(ends)


def nifti_version(head: bytes) -> int:
    """Return 1 or 2 for a file that begins like NIfTI, else 0."""
    if head[344:348] in (b"n+1\0", b"ni1\0") and is_analyze(head):
        return 1
    return 2 if head[4:8] in (b"n+2\0", b"ni2\0") and b"\x1c" in head[:4] else 0


def data_file_beside(header: Path, name: str) -> Path:
    """Return the data file that a detached header names; it must lie in the header's folder.

    Raises:
        ImageError: It lies elsewhere, is absent, or several files are meant.
    """
    if name.upper().startswith("LIST") or "%" in name:
        raise ImageError("its header names several data files; only one is read")
    parts = re.split(r"[/\\]", name)
    if not name or ".." in parts or parts[0] == "" or ":" in parts[0]:
        raise ImageError("its header names a data file outside its own folder")
    path = header.parent / name
    if not path.is_file():
        raise ImageError("the data file that its header names is absent")
    if path.samefile(header):
        raise ImageError("its header names itself as the data file")
    return path


def plain_type(code: str) -> str:
    """Return the NumPy type where it is one number per voxel, real and at most 64 bits.

    Raises:
        ImageError: It is not.
    """
    if code.lstrip("<>|=") not in TYPES:
        raise ImageError("its voxels are not single real numbers (colour, complex, vectors...)")
    return code


def is_analyze(head: bytes) -> bool:
    """Whether a file begins with the size of a NIfTI-1 or Analyze header."""
    return head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c")  # sizeof_hdr 348
