"""NIfTI, NRRD and MetaImage volumes.

Voxels are read here as the header describes them and not by ITK, which fills what a truncated
file lacks with zeros, does not know NIfTI-2, prints to the standard error stream, and ends the
process at a file name that is not UTF-8. Files are written by SimpleITK and read again before
they get their name.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import ImageError, OutputError
from medxlate.base.files import naming_full_disk
from medxlate.images.nifti_headers import RAS_TO_LPS
from medxlate.images.orientation import Geometry
from medxlate.images.texts import sidecar_of
from medxlate.images.volume_headers import read_volume_header
from medxlate.images.volume_layout import Layout, VolumeHeader

Voxels = npt.NDArray[Any]
CHUNK = 1 << 20
GZIP_LEVEL = 1  # noise does not shrink; higher levels take twice the time for 2 %
TRUNCATED = "it is truncated: its header claims more voxels than the file holds"
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
SIDECAR_BYTES = 1 << 22


def read_volume(path: Path, volume: int | None = None) -> Voxels:
    """Read one volume.

    Args:
        path: A NIfTI, NRRD or MetaImage file.
        volume: Which volume of a 4-D file, from 0; of no meaning for a 3-D file.

    Returns:
        Array [k, j, i] in the stored type, native byte order; float32 (float64 where that is
        stored) where the header scales the values. NaN and Inf stay.

    Raises:
        ImageError: See read_volume_header; or the voxels are damaged or truncated.
    """
    header = read_volume_header(path, volume)
    index = volume if volume is not None and header.volumes > 1 else 0
    voxels: Voxels = np.empty(header.geometry.size[::-1], dtype=header.dtype)
    with np.errstate(all="ignore"):  # voxels may be absurd; the caller judges them
        for number, plane in enumerate(_planes(header, index)):
            voxels[number] = plane
            if header.layout.scaled:
                voxels[number] *= header.layout.slope
                voxels[number] += header.layout.intercept
    return voxels


def write_volume(
    path: Path,
    voxels: Voxels,
    geometry: Geometry,
    *,
    facts: Mapping[str, Any],
    xform: int = 1,
) -> None:
    """Write a volume; the suffix of ``path`` says the format.

    The same input gives the same bytes. The file appears whole or not at all; of a detached
    header (.nhdr, .mhd) the data file appears first.

    Args:
        path: Ends in .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd.
        voxels: int16, uint16 or float32 [k, j, i].
        geometry: Where they lie.
        facts: What is kept beside the voxels, such as ``{"description": "SYNTHETIC ct from mri"}``:
            in NRRD and MetaImage every entry; NIfTI has room for 79 characters, ``description``.
        xform: The NIfTI code of the space; see VolumeHeader.

    Raises:
        OutputError: The file cannot be written, or its folder's name is not UTF-8.
        ValueError: The shape is not the geometry's, or the suffix is unknown.
    """
    suffix = next((end for end in SUFFIXES[::-1] if path.name.lower().endswith(end)), None)
    if suffix is None:
        raise ValueError(f"{path} has none of the suffixes {SUFFIXES}")
    if voxels.shape != geometry.size[::-1]:
        raise ValueError(f"voxels {voxels.shape} do not fit the size {geometry.size}")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise OutputError(
            f"{path!r} cannot be written: its name is not UTF-8.", "Name another output folder."
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        naming_full_disk(path),
        tempfile.TemporaryDirectory(prefix=".volume.", suffix=".partial", dir=path.parent) as name,
    ):
        whole = Path(name) / path.name
        if suffix.startswith(".nii"):
            _write_nifti(whole, voxels, geometry, str(facts.get("description", "")), xform)
        else:
            _write_itk(whole, voxels, geometry, _texts(facts), packed=True)
        _check_written(whole, voxels)
        for part in sorted(Path(name).iterdir(), key=lambda part: part.name == path.name):
            part.replace(path.parent / part.name)


def read_sidecar(path: Path) -> dict[str, str]:
    """Return the scalar values of the JSON file beside a volume (BIDS), as text.

    The file has the volume's name with .json in place of .nii.gz, .nii...; {} where it is absent,
    damaged or holds no object.
    """
    sidecar = sidecar_of(path)
    if not os.path.isfile(sidecar):  # another kind of file (a pipe) might never end
        return {}
    try:
        with sidecar.open("rb") as stream:
            values = json.loads(stream.read(SIDECAR_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {
        _plain(key): _plain(value)
        for key, value in values.items()
        if isinstance(value, str | int | float | bool)
    }


def _plain(value: object) -> str:
    """Return a value as text that can be encoded: half a surrogate cannot."""
    return str(value).encode(errors="replace").decode()


def _planes(header: VolumeHeader, volume: int) -> Iterator[Voxels]:
    """Yield the stored slices along k; each overwrites the one before."""
    i, j, k = header.geometry.size
    layout = header.layout
    plane: Voxels = np.empty((j, i), dtype=layout.stored)
    try:
        with layout.data_file.open("rb") as stream:
            source = _Packed(stream, layout) if layout.packed else _Plain(stream, layout)
            source.skip(volume * k * plane.nbytes)
            for _ in range(k):
                source.fill(plane)
                yield plane
            source.finish()
    except OSError as problem:
        raise ImageError(f"it cannot be read: {problem.strerror}") from None
    except zlib.error:
        raise ImageError("its compressed voxels are damaged") from None


class _Plain:
    """Voxels stored as they are."""

    def __init__(self, stream: BinaryIO, layout: Layout) -> None:
        self.stream = stream
        stream.seek(layout.start)

    def skip(self, count: int) -> None:
        self.stream.seek(count, os.SEEK_CUR)

    def fill(self, plane: Voxels) -> None:
        if self.stream.readinto(plane.data.cast("B")) < plane.nbytes:  # type: ignore[attr-defined]
            raise ImageError(TRUNCATED)

    def finish(self) -> None:
        """Nothing more to check."""


class _Packed:
    """Voxels in a gzip stream of one or more members, or in a zlib stream."""

    def __init__(self, stream: BinaryIO, layout: Layout) -> None:
        self.stream = stream
        stream.seek(layout.start)
        self.inflater = zlib.decompressobj(47)  # gzip or zlib
        self.packed = b""
        self.ready = memoryview(b"")
        self.skip(layout.skip)

    def skip(self, count: int) -> None:
        while count:
            count -= len(self._take(count))

    def fill(self, plane: Voxels) -> None:
        target, filled = plane.data.cast("B"), 0
        while filled < len(target):
            piece = self._take(len(target) - filled)
            target[filled : filled + len(piece)] = piece
            filled += len(piece)

    def finish(self) -> None:
        """Unpack a little more, so that a checksum at the end of the stream is compared."""
        if not self.ready and not self.inflater.eof:
            self.inflater.decompress(self.packed + self.stream.read(64), 1)

    def _take(self, most: int) -> memoryview:
        while not self.ready:
            if self.inflater.eof:
                self.packed = self.inflater.unused_data
                self.inflater = zlib.decompressobj(47)
            self.packed = self.packed or self.stream.read(CHUNK)
            if not self.packed:
                raise ImageError(TRUNCATED)
            self.ready = memoryview(self.inflater.decompress(self.packed, CHUNK))
            self.packed = self.inflater.unconsumed_tail
        piece, self.ready = self.ready[:most], self.ready[most:]
        return piece


def _write_nifti(
    path: Path, voxels: Voxels, geometry: Geometry, description: str, xform: int
) -> None:
    """Write with SimpleITK, then put in what it leaves out: exact sform, codes, description."""
    plain = path.with_name("volume.nii")
    _write_itk(plain, voxels, geometry, {}, packed=False)
    affine = np.eye(4)
    affine[:3, :3] = geometry.axes() * geometry.spacing
    affine[:3, 3] = geometry.origin
    with plain.open("rb") as stream:
        header = bytearray(stream.read(352))
        struct.pack_into("<2h", header, 252, xform, xform)
        struct.pack_into("<12f", header, 280, *(RAS_TO_LPS @ affine)[:3].flat)
        struct.pack_into("80s", header, 148, description.encode("ascii", "replace")[:79])
        with path.open("wb") as target:
            packed = path.name.lower().endswith(".gz")
            # the name and time of a gzip header are left out: the same volume, the same bytes
            with gzip.GzipFile("", "wb", GZIP_LEVEL, target, mtime=0) if packed else target as out:
                out.write(header)
                shutil.copyfileobj(stream, out, CHUNK)
    plain.unlink()


def _write_itk(
    path: Path, voxels: Voxels, geometry: Geometry, facts: Mapping[str, str], packed: bool
) -> None:
    """Write by SimpleITK in the format of the suffix.

    Raises:
        OSError: ITK failed; without a number, as naming_full_disk expects.
    """
    import SimpleITK as sitk  # noqa: N813  the name its documentation uses; slow to load

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    for key, value in facts.items():
        image.SetMetaData(key, value)
    try:
        sitk.WriteImage(image, str(path), useCompression=packed)
    except RuntimeError as problem:
        raise OSError(str(problem).strip().splitlines()[-1]) from None


def _check_written(path: Path, voxels: Voxels) -> None:
    """Read the file again and compare: ITK does not report every failed write.

    Raises:
        OSError: What is stored is not what was to be written.
    """
    try:
        planes = _planes(read_volume_header(path), 0)
        same = all(
            plane.tobytes() == np.ascontiguousarray(wanted, plane.dtype).tobytes()
            for plane, wanted in zip(planes, voxels, strict=True)
        )
    except ImageError:
        same = False
    if not same:
        raise OSError("what was written is incomplete")


def _texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return keys and values without characters that would end a line of a text header."""
    return {
        re.sub(r"\W", "_", str(key)): re.sub(r"\s+", " ", str(value)).strip()
        for key, value in facts.items()
    }
