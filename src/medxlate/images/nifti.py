"""NIfTI-1 and NIfTI-2: headers are read, and files written, by nibabel.

nibabel says where the fields lie, and what data types, scaling and sform mean. Voxels are read in
``volumes``, as those of the other formats are: nibabel would scale them in float64, hold them
twice, and leave the checksum of a packed file uncompared. Of the two transforms the sform goes
first, as in nibabel, FSL and SPM; nibabel's own reading of the qform would refuse some files that
those programs read (a rounded quaternion, spacings with a sign, a qfac of 0).
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import ImageError
from medxlate.images.orientation import Geometry
from medxlate.images.volume_header import VECTORS, VolumeHeader, VoxelStorage, plain_type

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

Affine = npt.NDArray[np.float64]
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TO_MM = {1: 1000.0, 3: 0.001}  # xyzt_units: metres, micrometres; else mm
HEADER_BYTES = {1: 348, 2: 540}
HEAD_BYTES = 544  # what is needed to recognise either version
GZIP_LEVEL = 1  # noise does not shrink; higher levels take twice the time for 2 %


def nifti_version(head: bytes) -> int:
    """Return 1 or 2 for a file that begins like NIfTI, else 0."""
    if head[344:348] in (b"n+1\0", b"ni1\0") and is_analyze(head):
        return 1
    return 2 if head[4:8] in (b"n+2\0", b"ni2\0") and b"\x1c" in head[:4] else 0


def is_analyze(head: bytes) -> bool:
    """Whether a file begins with the size of a NIfTI-1 or Analyze header."""
    return head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c")  # sizeof_hdr 348


def unpacked_head(path: Path, head: bytes) -> bytes:
    """Return the first 544 bytes of a gzip file, unpacked; fewer where it is damaged or short.

    Args:
        path: The file; opened only where ``head`` does not hold enough.
        head: Its first bytes.
    """
    unpacked = b""
    try:
        unpacked = zlib.decompressobj(31).decompress(head, HEAD_BYTES)
        if len(unpacked) < HEAD_BYTES:
            with path.open("rb") as stream:
                head = stream.read(1 << 16)
            unpacked = zlib.decompressobj(31).decompress(head, HEAD_BYTES)
    except (OSError, zlib.error):
        pass
    return unpacked


def parse_nifti(path: Path) -> VolumeHeader:
    """Read the header of a single file (.nii, .nii.gz) or of a pair (.hdr with .img).

    Raises:
        ImageError: The header contradicts itself or describes no scalar volume.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    packed = head.startswith(b"\x1f\x8b")
    if packed:
        head = unpacked_head(path, head)
    version = nifti_version(head)
    if not version:
        raise ImageError(
            "it is an Analyze 7.5 header, which does not give the position of the voxels",
            "Convert the image to NIfTI.",
        )
    header = _header(head, version)
    size, volumes = _sizes(header["dim"].tolist())
    stored = _type(header)
    affine, code = _affine(header, size)
    affine[:3] *= TO_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    before = _before(header, version)
    data_file = path
    if not _is_single(header):
        data_file, packed = _image_beside(path)
    slope, intercept = _scaling(header)
    storage = VoxelStorage(
        data_file,
        start=0 if packed else before,
        packed=packed,
        skip=before if packed else 0,
        stored=stored,
        slope=slope,
        intercept=intercept,
    )
    return VolumeHeader(_geometry(affine, size), volumes, storage, xform=code)


def read_description(path: Path) -> str:
    """Return the text ``descrip`` of a NIfTI file; "" where it cannot be read."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
        head = unpacked_head(path, head) if head.startswith(b"\x1f\x8b") else head
    except OSError:
        return ""
    start = {1: 148, 2: 240}.get(nifti_version(head), len(head))
    return head[start : start + 80].split(b"\0")[0].decode("ascii", "replace")


def write_nifti(
    path: Path, voxels: npt.NDArray[Any], geometry: Geometry, description: str, xform: int
) -> None:
    """Write a NIfTI-1 file, packed where its name ends in .gz.

    The same input gives the same bytes.

    Args:
        path: The file.
        voxels: [k, j, i], of a type that NIfTI knows.
        geometry: Where they lie.
        description: Its first 79 characters are kept; what is not ASCII becomes "?".
        xform: The code of sform and qform; see VolumeHeader.

    Raises:
        OSError: The file cannot be written.
    """
    import nibabel  # slow to load

    affine = np.eye(4)
    affine[:3, :3] = geometry.axes() * geometry.spacing
    affine[:3, 3] = geometry.origin
    # Without an affine of its own the image leaves the transforms of its header as they are.
    image = nibabel.Nifti1Image(voxels.T, None)
    image.header.set_sform(RAS_TO_LPS @ affine, xform)
    image.header.set_qform(RAS_TO_LPS @ affine, xform)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    with path.open("wb") as target:
        packed = path.name.lower().endswith(".gz")
        # the name and time of a gzip header are left out: the same volume, the same bytes
        with gzip.GzipFile("", "wb", GZIP_LEVEL, target, mtime=0) if packed else target as out:
            image.to_stream(out)


def _header(head: bytes, version: int) -> Nifti1Header:
    import nibabel  # slow to load

    length = HEADER_BYTES[version]
    if len(head) < length:
        raise ImageError("it is truncated within its header")
    order = "<" if head[:4] == length.to_bytes(4, "little") else ">"
    if order == ">" and head[:4] != length.to_bytes(4, "big"):
        raise ImageError("its header is damaged")
    kind: type[Nifti1Header] = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    return kind(head[:length], order, check=False)  # nibabel's checks mend, print and refuse


def _sizes(dim: list[int]) -> tuple[tuple[int, int, int], int]:
    """Return the voxels along i, j, k and the number of volumes."""
    dimensions = dim[0]
    if not 1 <= dimensions <= 7 or min(dim[1 : dimensions + 1]) < 1:
        raise ImageError(f"its header claims impossible dimensions {dim}")
    if dimensions < 2:
        raise ImageError("it is one-dimensional; a volume is needed")
    if any(length > 1 for length in dim[5 : dimensions + 1]):
        raise ImageError(VECTORS)
    lengths = [*dim[1 : dimensions + 1], 1, 1]
    return (lengths[0], lengths[1], lengths[2]), lengths[3]


def _type(header: Nifti1Header) -> str:
    from nibabel.spatialimages import HeaderDataError

    try:
        stored: str = header.get_data_dtype().str
    except (KeyError, HeaderDataError):  # an unknown code, or one without a type
        stored = ""
    return plain_type(stored)


def _scaling(header: Nifti1Header) -> tuple[float, float]:
    """Return slope and intercept; a slope of 0 or NaN means that there is none."""
    from nibabel.spatialimages import HeaderDataError

    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError:
        raise ImageError("its scl_inter is not finite") from None
    return (1.0, 0.0) if slope is None else (slope, intercept)


def _affine(header: Nifti1Header, size: tuple[int, int, int]) -> tuple[Affine, int]:
    """Return the matrix from (i, j, k) to RAS coordinates and the code of the space."""
    qform, sform = int(header["qform_code"]), int(header["sform_code"])
    if sform > 0:
        return header.get_sform(), sform
    affine = np.eye(4)
    pixdim = header["pixdim"].astype(np.float64)
    spacing = np.abs(pixdim[1:4])
    spacing[(spacing == 0) & (np.array(size) == 1)] = 1.0  # 2-D files often leave it out
    if qform > 0:
        handed = -1.0 if pixdim[0] < 0 else 1.0
        rotation = _rotation(*(float(header[f"quatern_{part}"]) for part in "bcd"))
        affine[:3, :3] = rotation * spacing * [1.0, 1.0, handed]
        affine[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
        return affine, qform
    # nothing is known: radiological order about the centre, as in nibabel and FSL
    affine[:3, :3] = np.diag(spacing * [-1.0, 1.0, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(size) - 1) / 2
    return affine, 0


def _rotation(b: float, c: float, d: float) -> Affine:
    """Return the rotation of a unit quaternion (a, b, c, d), a >= 0 (NIfTI-1 standard)."""
    rest = 1.0 - (b * b + c * c + d * d)
    if not np.isfinite(rest) or rest < -1e-4:
        raise ImageError("its qform is not a rotation")
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
        raise ImageError("its geometry contains values that are not finite")
    lps = RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    if spacing.min() <= 0:
        raise ImageError("its voxel spacing is not positive")
    i, j, k = spacing.tolist()
    x, y, z = lps[:3, 3].tolist()
    return Geometry(size, (i, j, k), (x, y, z), tuple((lps[:3, :3] / spacing).ravel().tolist()))


def _before(header: Nifti1Header, version: int) -> int:
    """Return how many bytes lie before the voxels."""
    offset = float(header["vox_offset"])
    single, first = _is_single(header), HEADER_BYTES[version] + 4
    before = int(offset) if np.isfinite(offset) else -1
    if single and before == 0:
        before = first
    if before < (first if single else 0):
        raise ImageError("its header gives an impossible offset for the voxels")
    return before


def _is_single(header: Nifti1Header) -> bool:
    return bytes(header["magic"])[1:2] == b"+"


def _image_beside(path: Path) -> tuple[Path, bool]:
    """Return the .img file of a pair, and whether it is packed."""
    stem = re.sub(r"\.hdr(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    for suffix in (".img", ".IMG", ".img.gz", ".IMG.GZ"):
        image = path.with_name(stem + suffix)
        if image.is_file():
            with image.open("rb") as stream:
                return image, stream.read(2) == b"\x1f\x8b"
    raise ImageError("the .img file that belongs to its header is missing")
