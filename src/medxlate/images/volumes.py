"""NIfTI, NRRD and MetaImage volumes.

Headers are read in ``nifti`` and ``text_headers``; what they claim and the files do not hold is
refused here before a voxel is read. Voxels are read as the header describes them and not by ITK,
which fills what a truncated file lacks with zeros, does not know NIfTI-2, prints to the standard
error stream, and ends the process at a file name that is not UTF-8; nor by nibabel, see ``nifti``.
What is written is read again before it gets its name.
"""

from __future__ import annotations

import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import ImageError, OutputError
from medxlate.base.files import naming_full_disk
from medxlate.images.limits import MAX_DEFLATE, check_slice_size, check_volume_size
from medxlate.images.nifti import (
    is_analyze,
    nifti_version,
    parse_nifti,
    unpacked_head,
    write_nifti,
)
from medxlate.images.orientation import Geometry
from medxlate.images.text_headers import parse_meta, parse_nrrd
from medxlate.images.volume_header import VolumeHeader, VoxelStorage

Voxels = npt.NDArray[Any]
VolumeFormat = Literal["nifti", "nrrd", "meta"]
PARSERS = {"nifti": parse_nifti, "nrrd": parse_nrrd, "meta": parse_meta}
MAX_SKIP = 1 << 28  # bytes of a header and its extensions
CHUNK = 1 << 20
TRUNCATED = "it is truncated: its header claims more voxels than the file contains"
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


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
        head = unpacked_head(path, head)
    if nifti_version(head) or (is_analyze(head) and path.suffix.lower() == ".hdr"):
        return "nifti"
    return None


def read_volume_header(path: Path, volume: int | None = None) -> VolumeHeader:
    """Read and check the header of a NIfTI, NRRD or MetaImage file.

    Args:
        path: The file.
        volume: Which volume of a 4-D file will be read, from 0; of no meaning for a 3-D file.

    Raises:
        ImageError: It is damaged, truncated, above the limits, sheared, holds vectors or colour,
            or is 4-D and no volume (or one that does not exist) was chosen. Nothing of the size
            that the header claims was allocated.
    """
    try:
        with np.errstate(all="ignore"):  # absurd numbers are found by the checks
            header = _parse(path)
            _check_sizes(header)
            header.geometry.check()
        _check_volume(header.volumes, volume)
        _check_complete(header)
    except OSError as problem:
        raise ImageError(f"it cannot be opened: {problem.strerror}") from None
    return header


def data_file(path: Path) -> Path:
    """Return the file that holds a volume's voxels: another one where the header is detached.

    Args:
        path: A NIfTI, NRRD or MetaImage file; of any other, and of one whose header cannot be
            read, ``path`` is returned.
    """
    try:
        with np.errstate(all="ignore"):
            return _parse(path).storage.data_file
    except (ImageError, OSError, ValueError, OverflowError):
        return path


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
            if header.storage.scaled:
                voxels[number] *= header.storage.slope
                voxels[number] += header.storage.intercept
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
            f"{path!r} cannot be written: its name is not UTF-8.", "Choose another output folder."
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        naming_full_disk(path),
        tempfile.TemporaryDirectory(prefix=".volume.", suffix=".partial", dir=path.parent) as name,
    ):
        whole = Path(name) / path.name
        if suffix.startswith(".nii"):
            write_nifti(whole, voxels, geometry, str(facts.get("description", "")), xform)
        else:
            _write_itk(whole, voxels, geometry, _texts(facts), packed=True)
        _check_written(whole, voxels)
        for part in sorted(Path(name).iterdir(), key=lambda part: part.name == path.name):
            part.replace(path.parent / part.name)


def _parse(path: Path) -> VolumeHeader:
    with path.open("rb") as stream:
        head = stream.read(512)
    format_ = sniff_volume(path, head)
    if format_ is None:
        raise ImageError("it is not a NIfTI, NRRD or MetaImage volume")
    return PARSERS[format_](path)


def _check_sizes(header: VolumeHeader) -> None:
    size = header.geometry.size
    if min(*size, header.volumes) < 1:
        raise ImageError(f"its header claims {'x'.join(map(str, size))} voxels")
    check_slice_size(*sorted(size)[1:])
    check_volume_size(size[0] * size[1] * size[2], np.dtype(header.dtype).itemsize)


def _check_volume(volumes: int, volume: int | None) -> None:
    if volumes == 1:
        return
    if volume is None:
        raise ImageError(
            f"it is 4-D with {volumes} volumes; choose one with --volume K, counted from 0"
        )
    if not 0 <= volume < volumes:
        raise ImageError(f"it has no volume {volume}, only {volumes} volumes counted from 0")


def _check_complete(header: VolumeHeader) -> None:
    """Compare what the header claims with the size of the file; see unpacking for the rest."""
    storage, size = header.storage, header.geometry.size
    if not 0 <= storage.start + storage.skip <= MAX_SKIP:
        raise ImageError("its header gives an impossible offset for the voxels")
    claimed = size[0] * size[1] * size[2] * header.volumes * np.dtype(storage.stored).itemsize
    there = storage.data_file.stat().st_size - storage.start
    if storage.packed:
        there *= MAX_DEFLATE
    if there < claimed + storage.skip:
        raise ImageError(TRUNCATED)


def _planes(header: VolumeHeader, volume: int) -> Iterator[Voxels]:
    """Yield the stored slices along k; each overwrites the one before."""
    i, j, k = header.geometry.size
    storage = header.storage
    plane: Voxels = np.empty((j, i), dtype=storage.stored)
    try:
        with storage.data_file.open("rb") as stream:
            source = _Packed(stream, storage) if storage.packed else _Plain(stream, storage)
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

    def __init__(self, stream: BinaryIO, storage: VoxelStorage) -> None:
        self.stream = stream
        stream.seek(storage.start)

    def skip(self, count: int) -> None:
        self.stream.seek(count, os.SEEK_CUR)

    def fill(self, plane: Voxels) -> None:
        if self.stream.readinto(plane.data.cast("B")) < plane.nbytes:  # type: ignore[attr-defined]
            raise ImageError(TRUNCATED)

    def finish(self) -> None:
        """Nothing more to check."""


class _Packed:
    """Voxels in a gzip stream of one or more members, or in a zlib stream."""

    def __init__(self, stream: BinaryIO, storage: VoxelStorage) -> None:
        self.stream = stream
        stream.seek(storage.start)
        self.inflater = zlib.decompressobj(47)  # gzip or zlib
        self.packed = b""
        self.ready = memoryview(b"")
        self.skip(storage.skip)

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
