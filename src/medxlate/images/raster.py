"""PNG, JPEG and TIFF images. The only module that knows pillow's reader and tifffile."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile
from PIL import UnidentifiedImageError

from medxlate.errors import ImageError
from medxlate.images.limits import MAX_DEFLATE, check_claim, check_slice_size, check_volume_size
from medxlate.images.quiet import without_warnings
from medxlate.images.stack import Stack

BITS_PER_SAMPLE = 258  # TIFF tag
PHOTOMETRIC = 262  # TIFF tag
DEFLATED = (8, 32946)  # of the TIFF tag Compression
BITS_OF_MODES = {"1": 1, "L": 1, "P": 1, "I;16": 16, "I;16B": 16, "I": 16, "F": 32}  # at least
# How much each packing can shrink at best; LZW's codes stand for at most 4,096 bytes in 12 bits.
RATIOS = {"PNG": MAX_DEFLATE, "raw": 1, "packbits": 128, "tiff_lzw": 2800}
RATIOS |= dict.fromkeys(("tiff_adobe_deflate", "tiff_deflate"), MAX_DEFLATE)
MODES_OF_8_BITS = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # pillow's names

for _reader in ("PIL", "tifffile"):  # what they log of damaged files would end on stderr
    logging.getLogger(_reader).setLevel(logging.CRITICAL)


def read_raster(path: Path, *, channel: int | None = None) -> Stack:
    """Read a PNG, JPEG or TIFF as a stack of one grey image.

    Colour becomes grey by ITU-R 601 luma unless ``channel`` picks one channel (counted from 0);
    an alpha channel is dropped. Values stay as stored: 0..255 or 0..65535.

    Raises:
        ImageError: Damaged, of a kind that would lose depth, or without that channel.
    """
    array = _decode(path)
    if array.ndim == 2:
        if channel not in (None, 0):
            raise ImageError(f"the file has one channel; there is no channel {channel}")
        grey = array
    elif channel is None:
        grey = _luma(array)
    elif 0 <= channel < array.shape[2]:
        grey = array[:, :, channel]
    else:
        raise ImageError(
            f"the file has {array.shape[2]} channels; there is no channel {channel}",
            "Channels are counted from 0.",
        )
    if array.dtype.kind == "f" and not np.isfinite(grey).all():
        raise ImageError("the file holds values that are not finite")
    if grey.min() == grey.max():
        raise ImageError(f"the image is empty: all pixels are {grey.flat[0]:g}")
    pixels = np.ascontiguousarray(grey, dtype=np.float32)
    return Stack(
        count=1,
        height=pixels.shape[0],
        width=pixels.shape[1],
        spacing=(1.0, 1.0),
        unit="",
        full_range=_full_range(array.dtype, grey),
        read=lambda _: pixels.copy(),
    )


def stored_bits(path: Path) -> int:
    """Return 8 or 16, from the file's header alone; damaged files count as 8."""
    try:
        with without_warnings(), PIL.Image.open(path) as image:  # as in _decode
            deep = max(_tiff_bits(image)) > 8 or image.mode not in MODES_OF_8_BITS
            return 16 if deep else 8
    except Exception:  # damaged; it is refused when it is read
        return 16 if path.suffix.lower() in (".tif", ".tiff") else 8


def _decode(path: Path) -> np.ndarray[Any, Any]:
    """Return [H, W] or [H, W, C] without alpha, in the stored type."""
    if _png_depth(path) == (16, True):
        raise ImageError(
            "it is a PNG with 16-bit colour, which cannot be read at full depth",
            "Save it as a grey 16-bit PNG or as TIFF.",
        )
    try:
        # Odd metadata in public files is no concern here.
        with without_warnings(), PIL.Image.open(path) as image:
            check_slice_size(image.height, image.width)
            _check_claim(image, path)
            pages = getattr(image, "n_frames", 1)
            if pages > 1:
                raise ImageError(f"the file holds {pages} pages; only one is read")
            bits = _tiff_bits(image)
            if len(bits) > 1 and max(bits) > 8:
                return _tiff_array(path)  # pillow would reduce the colours to 8 bits
            return _pillow_array(image)
    except UnidentifiedImageError:
        return _tiff_array(path)  # pillow knows few TIFFs with several channels
    except PIL.Image.DecompressionBombError as problem:
        raise ImageError(f"the file is too large: {problem}") from None
    except ImageError:
        raise
    except Exception as problem:  # a damaged file can break pillow's readers in many ways
        raise ImageError(f"the file is damaged: {problem}") from None


def _check_claim(image: PIL.Image.Image, path: Path) -> None:
    """Compare the pixels that a PNG's or TIFF's header claims with the size of the file."""
    there = path.stat().st_size
    if any(tile[2] > there for tile in getattr(image, "tile", ())):  # pillow would read up to it
        raise ImageError("the file is damaged: its header names pixels beyond its end")
    packing = image.info.get("compression", "") if image.format == "TIFF" else image.format
    if packing in RATIOS:
        bits = BITS_OF_MODES.get(image.mode, 8 * len(image.getbands()))
        claimed = image.height * image.width * bits // 8
        check_claim(claimed, there, RATIOS[packing])


def _pillow_array(image: PIL.Image.Image) -> np.ndarray[Any, Any]:
    if image.mode in ("L", "I;16", "I;16B", "I", "F", "RGB"):
        array = np.asarray(image)
        if array.dtype == np.int32 and _tiff_bits(image) == (16,):
            array = array.astype(np.int16)  # the file's own type
        elif array.dtype.kind == "u" and array.itemsize == 2 and _min_is_white(image):
            array = 65535 - array  # pillow turns only 8-bit images
    elif image.mode in ("1", "LA"):
        array = np.asarray(image.convert("L"))
    else:  # palettes, alpha, CMYK...
        array = np.asarray(image.convert("RGB"))
    return array


def _tiff_bits(image: PIL.Image.Image) -> tuple[int, ...]:
    """Return the bits of each channel of a TIFF; (0,) for other formats."""
    return tuple(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (0,)))


def _min_is_white(image: PIL.Image.Image) -> bool:
    return getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0


def _tiff_array(path: Path) -> np.ndarray[Any, Any]:
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            check_slice_size(page.imagelength, page.imagewidth)
            check_volume_size(page.size, np.dtype(page.dtype).itemsize)
            if page.imagedepth > 1:
                raise ImageError(f"the file holds {page.imagedepth} planes; only one is read")
            _check_strips(page, path)
            array = np.asarray(page.asarray())
    except ImageError:
        raise
    except Exception as problem:  # tifffile raises many kinds for damaged files
        raise ImageError(f"the file is damaged or of an unknown kind: {problem}") from None
    if array.ndim == 3 and array.shape[0] <= 4 < array.shape[2]:
        array = np.moveaxis(array, 0, 2)  # planar to interleaved
    if array.ndim not in (2, 3) or array.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        raise ImageError(f"the file holds {array.dtype} of shape {array.shape}, no flat image")
    return array


def _check_strips(page: Any, path: Path) -> None:
    """Raise ImageError where deflated strips or tiles grow beyond what the header says."""
    there = path.stat().st_size
    places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if any(offset + count > there for offset, count in places):
        raise ImageError("the file is damaged: its header names pixels beyond its end")
    if page.compression not in DEFLATED:
        return
    most = int(np.prod(page.chunks)) * np.dtype(page.dtype).itemsize
    with path.open("rb") as stream:
        for offset, count in places:
            stream.seek(offset)
            inflater = zlib.decompressobj()
            inflater.decompress(stream.read(count), max(most, 1))
            if not inflater.eof and inflater.decompress(inflater.unconsumed_tail, 1):
                raise ImageError("its packed pixels are more than its header says")


def _luma(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.shape[2] < 3 or (array == array[:, :, :1]).all():
        return array[:, :, 0]
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return array[:, :, :3].astype(np.float32) @ weights


def _full_range(dtype: np.dtype[Any], grey: np.ndarray[Any, Any]) -> tuple[float, float]:
    if dtype == np.uint8:
        return 0.0, 255.0
    if dtype.kind == "f":
        return float(grey.min()), float(grey.max())
    if dtype == np.int16:
        return -32768.0, 32767.0
    return 0.0, 65535.0


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
