"""What the headers of volume files say, checked before a voxel is read.

NIfTI-1 and NIfTI-2 are read in ``nifti_headers``, NRRD and MetaImage in ``text_headers``; this
module recognises the three formats and refuses what the headers claim and the files do not hold.
No imaging library is loaded.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medxlate.errors import ImageError
from medxlate.images.limits import check_slice_size, check_volume_size
from medxlate.images.orientation import Geometry

VolumeFormat = Literal["nifti", "nrrd", "meta"]
TYPES = frozenset({"i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"})
MAX_DEFLATE = 1032  # how much deflate can shrink at best (zlib, technical details)
MAX_SKIP = 1 << 28  # bytes of a header and its extensions
NIFTI_BYTES = 544  # what is needed to recognise either version


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


def sniff_volume(path: Path, head: bytes) -> VolumeFormat | None:
    """Return the volume format that a file's first bytes show, or None.

    Args:
        path: The file; opened only where it is packed and ``head`` is not enough.
        head: Its first 512 bytes.
    """
    if head.startswith(b"NRRD000"):
        return "nrrd"
    if re.search(rb"^(ObjectType|NDims)\s*=", head, re.M) and b"\0" not in head[:32]:
        return "meta"
    if head.startswith(b"\x1f\x8b"):
        head = _unpacked_head(path, head)
    if nifti_version(head) or (_analyze(head) and path.suffix.lower() == ".hdr"):
        return "nifti"
    return None


def nifti_version(head: bytes) -> int:
    """Return 1 or 2 for a file that begins like NIfTI, else 0."""
    if head[344:348] in (b"n+1\0", b"ni1\0") and _analyze(head):
        return 1
    return 2 if head[4:8] in (b"n+2\0", b"ni2\0") and b"\x1c" in head[:4] else 0


def read_volume_header(path: Path, volume: int | None = None) -> VolumeHeader:
    """Read and check the header of a NIfTI, NRRD or MetaImage file.

    Args:
        path: The file.
        volume: Which volume of a 4-D file will be read, from 0.

    Raises:
        ImageError: It is damaged, truncated, above the limits, sheared, holds vectors or colour,
            or is 4-D and no volume (or one that does not exist) was chosen. Nothing of the size
            that the header claims was allocated.
    """
    from medxlate.images.nifti_headers import parse_nifti
    from medxlate.images.text_headers import parse_meta, parse_nrrd

    parsers = {"nifti": parse_nifti, "nrrd": parse_nrrd, "meta": parse_meta}
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
        format_ = sniff_volume(path, head)
        if format_ is None:
            raise ImageError("it is no NIfTI, NRRD or MetaImage volume")
        with np.errstate(all="ignore"):  # absurd numbers are found by the checks
            header = parsers[format_](path)
            _check_sizes(header)
            header.geometry.check()
        _check_volume(header.volumes, volume)
        _check_complete(header)
    except OSError as problem:
        raise ImageError(f"it cannot be opened: {problem.strerror}") from None
    return header


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
    return path


def plain_type(code: str) -> str:
    """Return the NumPy type where it is one number per voxel, real and at most 64 bits.

    Raises:
        ImageError: It is not.
    """
    if code.lstrip("<>|=") not in TYPES:
        raise ImageError("its voxels are not single real numbers (colour, complex, vectors...)")
    return code


def _check_sizes(header: VolumeHeader) -> None:
    size = header.geometry.size
    if min(*size, header.volumes) < 1:
        raise ImageError(f"its header claims {'x'.join(map(str, size))} voxels")
    check_slice_size(*sorted(size)[1:])
    check_volume_size(size[0] * size[1] * size[2], np.dtype(header.dtype).itemsize)


def _check_volume(volumes: int, volume: int | None) -> None:
    if volume is None and volumes > 1:
        raise ImageError(
            f"it is 4-D and holds {volumes} volumes; choose one with --volume K, from 0"
        )
    if volume is not None and not 0 <= volume < volumes:
        raise ImageError(f"it has no volume {volume}; it holds {volumes}, counted from 0")


def _check_complete(header: VolumeHeader) -> None:
    """Compare what the header claims with the size of the file; see unpacking for the rest."""
    layout, size = header.layout, header.geometry.size
    if not 0 <= layout.start + layout.skip <= MAX_SKIP:
        raise ImageError("its header gives an impossible place for the voxels")
    claimed = size[0] * size[1] * size[2] * header.volumes * np.dtype(layout.stored).itemsize
    there = layout.data_file.stat().st_size - layout.start
    if layout.packed:
        there *= MAX_DEFLATE
    if there < claimed + layout.skip:
        raise ImageError("it is truncated: its header claims more voxels than the file holds")


def _analyze(head: bytes) -> bool:
    return head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c")  # sizeof_hdr 348


def _unpacked_head(path: Path, head: bytes) -> bytes:
    for _ in range(2):
        try:
            unpacked = zlib.decompressobj(31).decompress(head, NIFTI_BYTES)
        except zlib.error:
            return b""
        if len(unpacked) >= NIFTI_BYTES or len(head) > 512:
            break
        try:
            with path.open("rb") as stream:
                head = stream.read(1 << 16)
        except OSError:
            break
    return unpacked
