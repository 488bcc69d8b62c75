"""TIFF images that pillow does not know, or would read wrongly. The only module with tifffile.

Found with files of every byte order, type, packing and photometric interpretation: pillow takes
signed bytes for unsigned ones and large unsigned integers for negative ones, leaves packed
big-endian signed and float samples in the wrong byte order, and turns WhiteIsZero images only
where they have at most 8 bits.
"""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import tifffile

from medxlate.base.errors import ImageError
from medxlate.images.limits import check_slice_size, check_volume_size

Array = npt.NDArray[Any]

BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, ORIENTATION = 258, 259, 262, 274  # tags
PLANAR_CONFIGURATION, SAMPLE_FORMAT = 284, 339
WHITE_IS_ZERO, PALETTE, SEPARATE, UNSIGNED = 0, 3, 2, 1  # values of some of them
GREY_AND_RGB = range(4)  # WhiteIsZero, BlackIsZero, RGB and palette colours
DEFLATED = (8, 32946)  # of the tag Compression
OWN_PACKINGS = (1, *DEFLATED)  # what tifffile unpacks by itself: plain and deflated pixels
READ = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32")
EXACT = 1 << 24  # the largest integer up to which float32 holds every one

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its words on damage end on stderr


def bits_of(image: PIL.Image.Image) -> tuple[int, ...]:
    """Return the bits of each channel of an opened TIFF; (0,) for other formats."""
    return tuple(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (0,)))


def pillow_is_right(image: PIL.Image.Image) -> bool:
    """Whether pillow reads this TIFF, which it has opened, as it is meant.

    Raises:
        ImageError: It shows colours of which neither pillow nor tifffile makes red, green and blue.
    """
    tags: Any = getattr(image, "tag_v2", {})
    bits, packing = bits_of(image), tags.get(COMPRESSION, 1)
    samples = set(tags.get(SAMPLE_FORMAT, (UNSIGNED,)))
    deep = max(bits) > 8
    if deep or tags.get(PHOTOMETRIC, 0) not in (*GREY_AND_RGB, 5, 6):  # 8-bit CMYK and YCbCr
        _check_colours(tags.get(PHOTOMETRIC, 0))
    if tags.get(PLANAR_CONFIGURATION, 1) == SEPARATE and packing in OWN_PACKINGS:
        return False
    if not deep:
        return samples == {UNSIGNED}
    if len(bits) > 1 or (samples == {UNSIGNED} and bits[0] > 16):
        return False
    return samples == {UNSIGNED} or bool(tags.prefix == b"II")


def read_tiff(path: Path) -> tuple[Array, int]:
    """Read a TIFF of one flat image by tifffile.

    Returns:
        [H, W] or [H, W, C] as stored, but that black is small and palette indices are their
        colours; and the tag Orientation, which is not applied.

    Raises:
        ImageError: Damaged, of several pages or planes, or of a kind that is not read.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages.first
            if len(tiff.pages) > 1:
                raise ImageError(
                    f"the file has {len(tiff.pages)} pages; only single-page files are read"
                )
            check_slice_size(page.imagelength, page.imagewidth)
            check_volume_size(page.size, np.dtype(page.dtype).itemsize)
            if page.imagedepth > 1:
                raise ImageError(
                    f"the file has {page.imagedepth} planes; only single-plane files are read"
                )
            _check_colours(int(page.photometric))
            _check_strips(page, path)
            array = _meant(np.asarray(page.asarray()), page)
            turned = page.tags.get(ORIENTATION)
            return array, 1 if turned is None else int(turned.value)
    except ImageError:
        raise
    except Exception as problem:  # tifffile raises many kinds for damaged files
        raise ImageError(f"the file is damaged or of an unknown kind: {problem}") from None


def full_range(array: Array) -> tuple[float, float]:
    """Return what the stored type can hold; of 32-bit and float images, their own range."""
    if array.dtype.kind != "f" and array.itemsize <= 2:
        info = np.iinfo(array.dtype)
        return float(info.min), float(info.max)
    return float(array.min()), float(array.max())


def turned_white(array: Array) -> Array:
    """Return a WhiteIsZero image as BlackIsZero: mirrored in the range of its type."""
    grey = array if array.ndim == 2 else array[:, :, :1]
    if array.dtype.kind in "ui":
        turned = ~grey if array.itemsize <= 2 else grey.min() + (grey.max() - grey)
    else:
        turned = grey.max() - grey + grey.min()
    return turned if array.ndim == 2 else np.concatenate([turned, array[:, :, 1:]], axis=2)


def check_exact(array: Array) -> None:
    """Raise ImageError where 32-bit integers would lose digits."""
    if array.dtype.kind in "ui" and array.itemsize > 2 and (
        int(array.max()) > EXACT or int(array.min()) < -EXACT
    ):  # fmt: skip
        raise ImageError(
            f"it contains {array.dtype} values beyond {EXACT:,}, which would lose precision",
            "Scale them to 16 bits or save them as 32-bit floating-point numbers.",
        )


def _meant(array: Array, page: Any) -> Array:
    if array.ndim == 3 and page.axes == "SYX":
        array = np.moveaxis(array, 0, 2)  # planar to interleaved
    if array.ndim not in (2, 3) or array.dtype.name not in READ:
        raise ImageError(f"the file contains {array.dtype} of shape {array.shape}, not a 2-D image")
    check_exact(array)
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    if page.photometric == PALETTE:
        if page.colormap is None or array.ndim != 2:
            raise ImageError("it uses a colour palette that it does not contain")
        return np.moveaxis(page.colormap[:, array], 0, 2)
    return turned_white(array) if page.photometric == WHITE_IS_ZERO else array


def _check_colours(photometric: int) -> None:
    if photometric not in GREY_AND_RGB:
        raise ImageError(
            f"it is neither greyscale nor RGB (PhotometricInterpretation {photometric})",
            "Save it as a greyscale or RGB image.",
        )


def _check_strips(page: Any, path: Path) -> None:
    """Raise ImageError where deflated strips or tiles grow beyond what the header says."""
    there = path.stat().st_size
    places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if any(offset + count > there for offset, count in places):
        raise ImageError(
            "the file is damaged: its header refers to pixels beyond the end of the file"
        )
    if page.compression not in DEFLATED:
        return
    most = int(np.prod(page.chunks)) * np.dtype(page.dtype).itemsize
    with path.open("rb") as stream:
        for offset, count in places:
            stream.seek(offset)
            inflater = zlib.decompressobj()
            inflater.decompress(stream.read(count), max(most, 1))
            if not inflater.eof and inflater.decompress(inflater.unconsumed_tail, 1):
                raise ImageError("its compressed pixels are larger than its header says")
