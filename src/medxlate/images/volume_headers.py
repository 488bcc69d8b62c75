"""What the headers of volume files say, checked before a voxel is read.

NIfTI-1 and NIfTI-2 are read in ``nifti_headers``, NRRD and MetaImage in ``text_headers``; this
module recognises the three formats and refuses what the headers claim and the files do not hold.
No imaging library is loaded.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from medxlate.base.errors import ImageError
from medxlate.images.limits import MAX_DEFLATE, check_slice_size, check_volume_size
from medxlate.images.nifti_headers import parse_nifti
from medxlate.images.text_headers import parse_meta, parse_nrrd
from medxlate.images.volume_layout import VolumeHeader, is_analyze, nifti_version

VolumeFormat = Literal["nifti", "nrrd", "meta"]
MAX_SKIP = 1 << 28  # bytes of a header and its extensions
PARSERS = {"nifti": parse_nifti, "nrrd": parse_nrrd, "meta": parse_meta}
NIFTI_BYTES = 544  # what is needed to recognise either version


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
        with path.open("rb") as stream:
            head = stream.read(512)
        format_ = sniff_volume(path, head)
        if format_ is None:
            raise ImageError("it is no NIfTI, NRRD or MetaImage volume")
        with np.errstate(all="ignore"):  # absurd numbers are found by the checks
            header = PARSERS[format_](path)
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
        with path.open("rb") as stream:
            head = stream.read(512)
        format_ = sniff_volume(path, head)
        with np.errstate(all="ignore"):
            return path if format_ is None else PARSERS[format_](path).layout.data_file
    except (ImageError, OSError, ValueError, OverflowError):
        return path


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
            f"it is 4-D and holds {volumes} volumes; choose one with --volume K, from 0"
        )
    if not 0 <= volume < volumes:
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
