"""The headers of NIfTI-1 and NIfTI-2 files.

Field positions, the quaternion and the order of the transforms follow the NIfTI-1 and NIfTI-2
data format standards (nifti.nimh.nih.gov). The sform goes before the qform, as in nibabel, FSL
and SPM.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import ImageError
from medxlate.images.orientation import Geometry
from medxlate.images.volume_layout import Layout, VolumeHeader, nifti_version, plain_type

Affine = npt.NDArray[np.float64]
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
DATATYPES = {
    2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4",
    1024: "i8", 1280: "u8", 16: "f4", 64: "f8",
}  # fmt: skip
TO_MM = {1: 1000.0, 3: 0.001}  # xyzt_units: metres, micrometres; else mm

# struct codes and byte offsets of the fields that are used, of either version
FIELDS: dict[int, dict[str, tuple[str, int]]] = {
    1: {
        "dim": ("8h", 40), "datatype": ("h", 70), "pixdim": ("8f", 76), "vox_offset": ("f", 108),
        "scale": ("2f", 112), "units": ("B", 123), "codes": ("2h", 252), "quaternion": ("3f", 256),
        "offset": ("3f", 268), "sform": ("12f", 280),
    },
    2: {
        "dim": ("8q", 16), "datatype": ("h", 12), "pixdim": ("8d", 104), "vox_offset": ("q", 168),
        "scale": ("2d", 176), "units": ("i", 500), "codes": ("2i", 344), "quaternion": ("3d", 352),
        "offset": ("3d", 376), "sform": ("12d", 400),
    },
}  # fmt: skip
HEADER_BYTES = {1: 348, 2: 540}


@dataclass(frozen=True, slots=True)
class _Fields:
    """The raw fields; see FIELDS."""

    order: str
    dim: tuple[int, ...]
    datatype: int
    pixdim: tuple[float, ...]
    vox_offset: float
    scale: tuple[float, ...]
    units: int
    codes: tuple[int, ...]
    quaternion: tuple[float, ...]
    offset: tuple[float, ...]
    sform: tuple[float, ...]


def parse_nifti(path: Path) -> VolumeHeader:
    """Read the header of a single file (.nii, .nii.gz) or of a pair (.hdr with .img).

    Raises:
        ImageError: The header contradicts itself or describes no scalar volume.
    """
    head, packed = _head(path)
    version = nifti_version(head)
    if not version:
        raise ImageError(
            "it is an Analyze 7.5 header, which does not say where the voxels lie",
            "Convert the image to NIfTI.",
        )
    fields = _unpack(head, version)
    size, volumes = _sizes(fields.dim)
    if fields.datatype not in DATATYPES:
        plain_type("")
    affine, code = _affine(fields, size)
    scale = TO_MM.get(fields.units & 7, 1.0)
    affine[:3] *= scale
    data_file, packed, before = _voxels(path, head, packed, fields.vox_offset, version)
    slope, intercept = _scaling(fields.scale)
    layout = Layout(
        data_file,
        start=0 if packed else before,
        packed=packed,
        skip=before if packed else 0,
        stored=fields.order + DATATYPES[fields.datatype],
        slope=slope,
        intercept=intercept,
    )
    return VolumeHeader(_geometry(affine, size), volumes, layout, xform=code)


def _head(path: Path) -> tuple[bytes, bool]:
    """Return the first bytes, unpacked, and whether the file is packed."""
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES[2])
    if not head.startswith(b"\x1f\x8b"):
        return head, False
    try:
        with gzip.open(path) as unpacked:
            return unpacked.read(HEADER_BYTES[2]), True
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ImageError("its compressed data are damaged or truncated") from None


def _unpack(head: bytes, version: int) -> _Fields:
    if len(head) < HEADER_BYTES[version]:
        raise ImageError("it is truncated within its header")
    order = "<" if struct.unpack_from("<i", head)[0] == HEADER_BYTES[version] else ">"
    if struct.unpack_from(order + "i", head)[0] != HEADER_BYTES[version]:
        raise ImageError("its header is damaged")
    values: dict[str, Any] = {}
    for name, (code, position) in FIELDS[version].items():
        found = struct.unpack_from(order + code, head, position)
        values[name] = found[0] if len(code) == 1 else found
    return _Fields(order, **values)


def _sizes(dim: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    """Return the voxels along i, j, k and the number of volumes."""
    dimensions = dim[0]
    if not 1 <= dimensions <= 7 or min(dim[1 : dimensions + 1]) < 1:
        raise ImageError(f"its header claims impossible dimensions {list(dim)}")
    if dimensions < 2:
        raise ImageError("it is 1-D; a volume is needed")
    if any(length > 1 for length in dim[5 : dimensions + 1]):
        raise ImageError("its voxels are not single real numbers (colour, complex, vectors...)")
    lengths = [*dim[1 : dimensions + 1], 1, 1]
    return (lengths[0], lengths[1], lengths[2]), lengths[3]


def _affine(fields: _Fields, size: tuple[int, int, int]) -> tuple[Affine, int]:
    """Return the matrix from (i, j, k) to RAS coordinates and the code of the space."""
    affine = np.eye(4)
    qform, sform = fields.codes
    if sform > 0:
        affine[:3] = np.reshape(fields.sform, (3, 4))
        return affine, sform
    spacing = np.abs(fields.pixdim[1:4])
    spacing[(spacing == 0) & (np.array(size) == 1)] = 1.0  # 2-D files often leave it out
    if qform > 0:
        handed = -1.0 if fields.pixdim[0] < 0 else 1.0
        affine[:3, :3] = _rotation(fields.quaternion) * spacing * [1.0, 1.0, handed]
        affine[:3, 3] = fields.offset
        return affine, qform
    # nothing is known: radiological order about the centre, as in nibabel and FSL
    affine[:3, :3] = np.diag(spacing * [-1.0, 1.0, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(size) - 1) / 2
    return affine, 0


def _rotation(quaternion: tuple[float, ...]) -> Affine:
    """Return the rotation of a unit quaternion given by b, c, d; its first part a is >= 0."""
    b, c, d = quaternion
    rest = 1.0 - (b * b + c * c + d * d)
    if not np.isfinite(rest) or rest < -1e-4:
        raise ImageError("its qform is no rotation")
    if rest < 1e-7:  # rounding of the stored numbers; half a turn
        b, c, d = np.array([b, c, d]) / np.sqrt(b * b + c * c + d * d)
        rest = 0.0
    a = np.sqrt(rest)
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _geometry(affine: Affine, size: tuple[int, int, int]) -> Geometry:
    if not np.isfinite(affine).all():
        raise ImageError("its geometry holds values that are not finite")
    lps = RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    if spacing.min() <= 0:
        raise ImageError("its voxel spacing is not positive")
    axes = lps[:3, :3] / spacing
    i, j, k = (float(value) for value in spacing)
    x, y, z = (float(value) for value in lps[:3, 3])
    return Geometry(size, (i, j, k), (x, y, z), tuple(float(value) for value in axes.flat))


def _scaling(scale: tuple[float, ...]) -> tuple[float, float]:
    """Return slope and intercept; a slope of 0 or NaN means that there is none."""
    slope, intercept = scale
    if not np.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise ImageError("its scl_inter is not finite")
    return slope, intercept


def _voxels(
    path: Path, head: bytes, packed: bool, vox_offset: float, version: int
) -> tuple[Path, bool, int]:
    """Return the file with the voxels, whether it is packed, and the bytes before them."""
    magic = head[344:348] if version == 1 else head[4:8]
    single = magic[1:2] == b"+"
    if not np.isfinite(vox_offset):
        raise ImageError("its header gives an impossible place for the voxels")
    before = int(vox_offset)
    first = HEADER_BYTES[version] + 4
    if single and before == 0:
        before = first
    if before < (first if single else 0):
        raise ImageError("its header gives an impossible place for the voxels")
    if single:
        return path, packed, before
    return *_image_beside(path), before


def _image_beside(path: Path) -> tuple[Path, bool]:
    stem = re.sub(r"\.hdr(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    for suffix in (".img", ".IMG", ".img.gz", ".IMG.GZ"):
        image = path.with_name(stem + suffix)
        if image.is_file():
            with image.open("rb") as stream:
                return image, stream.read(2) == b"\x1f\x8b"
    raise ImageError("the .img file that belongs to its header is absent")
