"""The headers of NRRD and MetaImage files, both of them lines of text before the voxels.

Sources: "Definition of NRRD File Format" (teem.sourceforge.net/nrrd/format.html) and the MetaIO
documentation (itk.org/Wiki/MetaIO/Documentation).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import ImageError
from medxlate.images.orientation import Geometry
from medxlate.images.volume_header import VECTORS, VolumeHeader, VoxelStorage, plain_type

MAX_TEXT = 1 << 20  # bytes of a header
MAX_VALUES = 64  # numbers in a field

META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2",
    "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
NRRD_TYPES = {
    "signed char": "i1", "int8": "i1", "int8_t": "i1",
    "uchar": "u1", "unsigned char": "u1", "uint8": "u1", "uint8_t": "u1",
    "short": "i2", "short int": "i2", "signed short": "i2", "signed short int": "i2",
    "int16": "i2", "int16_t": "i2",
    "ushort": "u2", "unsigned short": "u2", "unsigned short int": "u2", "uint16": "u2",
    "uint16_t": "u2",
    "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4",
    "uint": "u4", "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4",
    "longlong": "i8", "long long": "i8", "long long int": "i8", "signed long long": "i8",
    "signed long long int": "i8", "int64": "i8", "int64_t": "i8",
    "ulonglong": "u8", "unsigned long long": "u8", "unsigned long long int": "u8",
    "uint64": "u8", "uint64_t": "u8",
    "float": "f4", "double": "f8",
}  # fmt: skip
# Signs that bring a space's x, y and z to left, posterior, superior.
NRRD_SPACES = {
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "scanner-xyz": (1, 1, 1), "3d-right-handed": (1, 1, 1), "3d-left-handed": (1, 1, 1),
    "": (1, 1, 1),
}  # fmt: skip
NRRD_VOLUME_KINDS = frozenset({"", "???", "none", "domain", "space", "time", "list"})


def parse_meta(path: Path) -> VolumeHeader:
    """Read the header of a MetaImage: .mha, or .mhd with its data file.

    Raises:
        ImageError: The header contradicts itself or describes no scalar volume.
    """
    fields, end = _meta_fields(path)
    dimensions = _integers(fields.get("NDims", ""), 1)[0]
    if dimensions not in (3, 4):
        raise ImageError(f"it has {dimensions} dimensions; 3 or 4 are needed")
    sizes = _integers(fields.get("DimSize", ""), dimensions)
    if fields.get("ElementNumberOfChannels", "1").strip() != "1":
        raise ImageError(VECTORS)
    if _yes(fields, "BinaryData", default="True") is False:
        raise ImageError("its voxels are stored as text; they must be binary")
    if fields.get("DistanceUnits", "mm") not in ("mm", "?", "MET_DISTANCE_UNITS_MM"):
        raise ImageError("its distances are not given in mm")
    scale = [fields.get(f"ElementToIntensityFunction{name}", "") for name in ("Slope", "Offset")]
    if scale[0] not in ("", "1") or scale[1] not in ("", "0"):
        raise ImageError("its header rescales the stored values, which is not supported")
    order = ">" if _yes(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<"
    stored = order + plain_type(META_TYPES.get(fields.get("ElementType", ""), ""))
    storage = _meta_storage(path, fields, end, stored, sizes)
    return VolumeHeader(_meta_geometry(fields, sizes), _volumes(sizes), storage)


def parse_nrrd(path: Path) -> VolumeHeader:
    """Read the header of an NRRD file, attached (.nrrd) or detached (.nhdr).

    Raises:
        ImageError: The header contradicts itself or describes no scalar volume.
    """
    fields, end = _nrrd_fields(path)
    dimensions = _integers(fields.get("dimension", ""), 1)[0]
    if dimensions not in (3, 4):
        raise ImageError(f"it has {dimensions} dimensions; 3 or 4 are needed")
    sizes = _integers(fields.get("sizes", ""), dimensions)
    code = plain_type(NRRD_TYPES.get(fields.get("type", "").lower(), ""))
    endian = fields.get("endian", "little" if code[1] == "1" else "").lower()
    if endian not in ("little", "big"):
        raise ImageError("its header does not give the byte order")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ImageError("its encoding is not supported (only raw and gzip)")
    packed = encoding != "raw"
    data_file, start = path, end
    if name := fields.get("datafile"):
        data_file, start = _data_file_beside(path, name), 0
    skip = _integers(fields.get("byteskip", "0"), 1)[0]
    if fields.get("lineskip", "0") != "0" or (packed and skip < 0):
        raise ImageError("its header skips part of its data file, which is not supported")
    stored = ("<" if endian == "little" else ">") + code
    if skip == -1:
        start, skip = _from_end(data_file, sizes, stored), 0
    storage = VoxelStorage(
        data_file, start + (0 if packed else skip), packed, skip * packed, stored
    )
    return VolumeHeader(_nrrd_geometry(fields, sizes), _volumes(sizes), storage)


def _meta_fields(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields and where the header ends: after ElementDataFile."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        while stream.tell() < MAX_TEXT and (line := stream.readline(MAX_TEXT)):
            key, sign, value = line.decode("utf-8", "surrogateescape").partition("=")
            if sign:
                fields[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile":
                return fields, stream.tell()
    raise ImageError("its header does not give its data file")


def _meta_storage(
    path: Path, fields: dict[str, str], end: int, stored: str, sizes: tuple[int, ...]
) -> VoxelStorage:
    packed = _yes(fields, "CompressedData") is True
    name = fields["ElementDataFile"]
    if name.upper() == "LOCAL":
        return VoxelStorage(path, end, packed, 0, stored)
    data_file = _data_file_beside(path, name)
    start = _integers(fields.get("HeaderSize", "0"), 1)[0]
    if start == -1 and not packed:
        start = _from_end(data_file, sizes, stored)
    return VoxelStorage(data_file, start, packed, 0, stored)


def _meta_geometry(fields: dict[str, str], sizes: tuple[int, ...]) -> Geometry:
    count = len(sizes)
    spacing = _numbers(_first(fields, "ElementSpacing", "ElementSize") or "1 " * count, count)
    origin = _numbers(_first(fields, "Offset", "Position", "Origin") or "0 " * count, count)
    matrix = _first(fields, "TransformMatrix", "Rotation", "Orientation")
    axes = np.eye(count)
    if matrix:
        axes = np.array(_numbers(matrix, count * count)).reshape(count, count).T
    return _geometry(sizes, np.array(spacing[:3]), np.array(origin[:3]), axes[:3, :3])


def _nrrd_fields(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields, names without blanks, and where the attached data begin."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        stream.readline(MAX_TEXT)
        while stream.tell() < MAX_TEXT and (line := stream.readline(MAX_TEXT)):
            text = line.decode("utf-8", "surrogateescape").strip()
            if not text:
                break
            key, sign, value = text.partition(":")
            if sign and not text.startswith("#") and not value.startswith("="):
                fields[key.strip().lower().replace(" ", "")] = value.strip()
        return fields, stream.tell()


def _nrrd_geometry(fields: dict[str, str], sizes: tuple[int, ...]) -> Geometry:
    count = len(sizes)
    kinds = [kind.lower() for kind in fields.get("kinds", "").split()] or [""] * count
    if len(kinds) != count or not NRRD_VOLUME_KINDS.issuperset(kinds):
        raise ImageError(VECTORS)
    if "list" in kinds[:3] or "time" in kinds[:3]:
        raise ImageError(VECTORS)
    units = set(re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))) - {"", "mm", "???"}
    if units:
        raise ImageError(f"its space is in {sorted(units)[0]}, not in mm")
    space = fields.get("space", "").lower()
    timed = space.endswith("-time")
    space = space.removesuffix("-time")
    world = 4 if timed else _integers(fields.get("spacedimension", "3"), 1)[0]
    if space not in NRRD_SPACES or world not in (3, 4):
        raise ImageError("its space is not three-dimensional with known axes")
    flips = np.array(NRRD_SPACES[space], dtype=np.float64)
    if "spacedirections" not in fields:
        spacing, origin = _nrrd_axes(fields, count)
        return _geometry(sizes, spacing, origin, np.diag(flips))
    vectors = _vectors(fields["spacedirections"], world)
    start = _vectors(fields.get("spaceorigin", f"({','.join('0' * world)})"), world)[0]
    spatial = [vector for vector in vectors[:3] if vector is not None]
    if len(vectors) != count or len(spatial) < 3 or start is None:
        raise ImageError(VECTORS)
    columns = np.array(spatial).T
    if columns[3:].any():
        raise ImageError("its axes mix space and time")
    columns = columns[:3] * flips[:, None]
    if not np.isfinite(columns).all():
        raise ImageError("its geometry contains values that are not finite")
    spacing = np.linalg.norm(columns, axis=0)
    axes = columns / np.where(spacing > 0, spacing, 1)
    return _geometry(sizes, spacing, start[:3] * flips, axes)


def _nrrd_axes(
    fields: dict[str, str], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return spacing and origin of a file without space directions, as ITK does.

    "axis mins" are the borders of cells, not their centres, unless "centers" says so.
    """
    spacing = np.array(_numbers(fields.get("spacings", "1 " * count), count))[:3]
    if "axismins" not in fields:
        return spacing, np.zeros(3)
    least = np.array(_numbers(fields["axismins"], count))[:3]
    centers = [*fields.get("centers", "").lower().split(), *[""] * 3][:3]
    return spacing, least + spacing * [0.0 if place == "node" else 0.5 for place in centers]


def _vectors(text: str, world: int) -> list[npt.NDArray[np.float64] | None]:
    """Split ``(1,0,0) none (0,0,1)`` into vectors of ``world`` numbers."""
    vectors: list[npt.NDArray[np.float64] | None] = []
    for part in text.replace(")", ") ").replace(", ", ",").split():
        if part.lower() == "none":
            vectors.append(None)
        else:
            vectors.append(np.array(_numbers(part.strip("()").replace(",", " "), world)))
    return vectors or [None]


def _geometry(
    sizes: tuple[int, ...],
    spacing: npt.NDArray[np.float64],
    origin: npt.NDArray[np.float64],
    axes: npt.NDArray[np.float64],
) -> Geometry:
    i, j, k = (float(value) for value in spacing)
    x, y, z = (float(value) for value in origin)
    direction = tuple(float(value) for value in axes.flat)
    return Geometry((sizes[0], sizes[1], sizes[2]), (i, j, k), (x, y, z), direction)


def _volumes(sizes: tuple[int, ...]) -> int:
    return sizes[3] if len(sizes) == 4 else 1


def _data_file_beside(header: Path, name: str) -> Path:
    """Return the data file that a detached header names; it must lie in the header's folder.

    Raises:
        ImageError: It lies elsewhere, is absent, or several files are meant.
    """
    if name.upper().startswith("LIST") or "%" in name:
        raise ImageError("its header names several data files; only one is supported")
    parts = re.split(r"[/\\]", name)
    if not name or ".." in parts or parts[0] == "" or ":" in parts[0]:
        raise ImageError("its header names a data file outside its own folder")
    path = header.parent / name
    if not path.is_file():
        raise ImageError("the data file named in its header is missing")
    if path.samefile(header):
        raise ImageError("its header names itself as the data file")
    return path


def _from_end(data_file: Path, sizes: tuple[int, ...], stored: str) -> int:
    """Return where the data begin that fill the end of the file."""
    voxels = 1
    for length in sizes:
        voxels *= length
    return data_file.stat().st_size - voxels * np.dtype(stored).itemsize


def _first(fields: dict[str, str], *names: str) -> str:
    return next((fields[name] for name in names if name in fields), "")


def _yes(fields: dict[str, str], *names: str, default: str = "False") -> bool:
    return (_first(fields, *names) or default).lower() in ("true", "t", "1")


def _integers(text: str, count: int) -> tuple[int, ...]:
    values = tuple(_numbers(text, count))
    if not all(np.isfinite(value) and value == int(value) for value in values):
        raise ImageError("its header contains an invalid number")
    return tuple(int(value) for value in values)


def _numbers(text: str, count: int) -> list[float]:
    parts = text.split(maxsplit=MAX_VALUES)
    try:
        values = [float(part) for part in parts]
    except ValueError:
        raise ImageError("its header contains an invalid number") from None
    if len(values) != count:
        raise ImageError("a field of its header is missing or invalid")
    return values
