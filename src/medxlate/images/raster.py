"""PNG, JPEG, WebP and TIFF images. The only module that knows pillow's reader."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL import UnidentifiedImageError

from medxlate.base.errors import ImageError
from medxlate.images.limits import MAX_DEFLATE, check_claim, check_slice_size
from medxlate.images.quiet import without_warnings
from medxlate.images.stack import Stack
from medxlate.images.tiff import (
    ORIENTATION,
    PHOTOMETRIC,
    WHITE_IS_ZERO,
    bits_of,
    check_exact,
    full_range,
    pillow_is_right,
    read_tiff,
    turned_white,
)

Array = npt.NDArray[Any]

BITS_OF_MODES = {"1": 1, "L": 1, "P": 1, "I;16": 16, "I;16B": 16, "I": 16, "F": 32}  # at least
# How much each packing can shrink at best; LZW's codes stand for at most 4,096 bytes in 12 bits.
RATIOS = {"PNG": MAX_DEFLATE, "raw": 1, "packbits": 128, "tiff_lzw": 2800}
RATIOS |= dict.fromkeys(("tiff_adobe_deflate", "tiff_deflate"), MAX_DEFLATE)
MODES_OF_8_BITS = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # pillow's names

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # its words on damage end on stderr


def read_raster(path: Path, *, channel: int | None = None, flat: bool = False) -> Stack:
    """Read a PNG, JPEG, WebP or TIFF as a stack of one grey image.

    Colour becomes grey by ITU-R 601 luma unless ``channel`` picks one channel (counted from 0);
    an alpha channel is dropped. Values stay as stored (0..255, 0..65535, signed, 32-bit integers
    that float32 can hold, or floating-point numbers), except that large ones are bright
    (WhiteIsZero) and the image is upright (its EXIF orientation is undone, and its note says so).

    Args:
        path: The file.
        channel: Which channel of colour is picked.
        flat: Whether an image of one value is taken.

    Raises:
        ImageError: Damaged, of a kind that would lose depth, or without that channel.
    """
    array, orientation = _decode(path)
    if array.ndim == 2:
        if channel not in (None, 0):
            raise ImageError(f"the file has only one channel, so no channel {channel}")
        grey = array
    elif channel is None:
        grey = _luma(array)
    elif 0 <= channel < array.shape[2]:
        grey = array[:, :, channel]
    else:
        raise ImageError(
            f"the file has {array.shape[2]} channels, so no channel {channel}",
            "Channel numbers start at 0.",
        )
    if array.dtype.kind == "f" and not np.isfinite(grey).all():
        raise ImageError("the file contains values that are not finite")
    if not flat and grey.min() == grey.max():
        raise ImageError(f"the image is empty: all pixels are {grey.flat[0]:g}")
    pixels = np.ascontiguousarray(grey, dtype=np.float32)
    return Stack(
        count=1,
        height=pixels.shape[0],
        width=pixels.shape[1],
        spacing=(1.0, 1.0),
        unit="",
        full_range=full_range(array if array.itemsize <= 2 else grey),
        read=lambda _: pixels.copy(),
        note=f"rotated upright (EXIF orientation {orientation})" if orientation != 1 else "",
    )


def stored_bits(path: Path) -> int:
    """Return 8 or 16, from the file's header alone; damaged files count as 8."""
    try:
        with without_warnings(), PIL.Image.open(path) as image:  # as in _decode
            deep = max(bits_of(image)) > 8 or image.mode not in MODES_OF_8_BITS
            return 16 if deep else 8
    except Exception:  # damaged; it is refused when it is read
        return 16 if path.suffix.lower() in (".tif", ".tiff") else 8


def _decode(path: Path) -> tuple[Array, int]:
    """Return [H, W] or [H, W, C] without alpha, in the stored type, and the EXIF orientation.

    The orientation has been undone.
    """
    if _png_depth(path) == (16, True):
        raise ImageError(
            "it is a 16-bit colour PNG, which cannot be read at full depth",
            "Save it as a 16-bit greyscale PNG or as TIFF.",
        )
    try:
        # Odd metadata in public files does not matter here. Pillow maps a file that it opens by
        # itself into memory, and then does not turn TIFFs of the orientations 5 to 8.
        with without_warnings(), path.open("rb") as stream, PIL.Image.open(stream) as image:
            check_slice_size(image.height, image.width)
            _check_claim(image, path)
            pages = getattr(image, "n_frames", 1)
            if pages > 1:
                raise ImageError(f"the file has {pages} pages; only single-page files are read")
            if pillow_is_right(image):
                said = _orientation(image)
                array = _pillow_array(image)
                return upright(array, _orientation(image)), said  # TIFF: pillow has done it
            array, said = read_tiff(path)
    except UnidentifiedImageError:
        array, said = read_tiff(path)  # pillow knows few TIFFs with several channels
    except PIL.Image.DecompressionBombError as problem:
        raise ImageError(f"the file is too large: {problem}") from None
    except ImageError:
        raise
    except Exception as problem:  # a damaged file can break pillow's readers in many ways
        raise ImageError(f"the file is damaged: {problem}") from None
    return upright(array, said), said


def _orientation(image: PIL.Image.Image) -> int:
    """Return how an opened image is stored (EXIF tag 274); 1, upright, where it does not say."""
    try:
        said = image.getexif().get(ORIENTATION, 1)
    except Exception:  # of damaged EXIF data nothing can be believed
        return 1
    return said if said in range(1, 9) else 1


def upright(array: Array, orientation: int) -> Array:
    """Undo an EXIF orientation: where row 0 and column 0 of the stored image [H, W, ...] lie.

    Args:
        array: As stored.
        orientation: 1 to 8 (Exif 2.32, 4.6.4 A, and TIFF 6.0); anything else counts as 1.
    """
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, 0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def _check_claim(image: PIL.Image.Image, path: Path) -> None:
    """Compare the pixels that a PNG's or TIFF's header claims with the size of the file."""
    there = path.stat().st_size
    if any(tile[2] > there for tile in getattr(image, "tile", ())):  # pillow would read up to it
        raise ImageError(
            "the file is damaged: its header refers to pixels beyond the end of the file"
        )
    packing = image.info.get("compression", "") if image.format == "TIFF" else image.format
    if packing in RATIOS:
        bits = BITS_OF_MODES.get(image.mode, 8 * len(image.getbands()))
        claimed = image.height * image.width * bits // 8
        check_claim(claimed, there, RATIOS[packing])


def _pillow_array(image: PIL.Image.Image) -> Array:
    if image.mode in ("L", "I;16", "I;16B", "I", "F", "RGB"):
        array: Array = np.asarray(image)
        bits, photometric = bits_of(image), getattr(image, "tag_v2", {}).get(PHOTOMETRIC)
        if array.dtype == np.int32 and bits == (16,):
            array = array.astype(np.int16)  # the file's own type
        check_exact(array)
        if photometric == WHITE_IS_ZERO and max(bits) > 8:
            array = turned_white(array)  # pillow turns only 8-bit images
    elif image.mode in ("1", "LA"):
        array = np.asarray(image.convert("L"))
    else:  # palettes, alpha, CMYK...
        array = np.asarray(image.convert("RGB"))
    return array


def _luma(array: Array) -> Array:
    if array.shape[2] < 3 or (array == array[:, :, :1]).all():
        return array[:, :, 0]
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return array[:, :, :3].astype(np.float32) @ weights


def _png_depth(path: Path) -> tuple[int, bool]:
    """Return bit depth and whether there are several channels; (0, False) for other formats."""
    try:
        with path.open("rb") as stream:
            head = stream.read(26)
    except OSError as problem:
        raise ImageError(f"the file cannot be opened: {problem.strerror}") from None
    if len(head) < 26 or not head.startswith(b"\x89PNG"):
        return 0, False
    return head[24], head[25] in (2, 4, 6)
