"""What is refused before any memory is taken for it."""

from __future__ import annotations

from medxlate.base.errors import ImageError

MIN_SIDE = 8
MAX_SIDE = 32768
MAX_SLICE_PIXELS = 100_000_000
MAX_VOLUME_BYTES = 1 << 30
MAX_DEFLATE = 1032  # how much deflate can shrink at best (zlib, technical details)
MAX_SQUARE = 8192  # side of the squares that datasets and models hold, pixels


def check_slice_size(height: int, width: int) -> None:
    """Raise ImageError unless an image of this size may be read.

    At least 8 x 8 pixels, at most 32,768 on a side and 100 million in all.
    """
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"it is {width}x{height} pixels; at least 8x8 are needed")
    if max(height, width) > MAX_SIDE or height * width > MAX_SLICE_PIXELS:
        raise ImageError(
            f"its header claims {width}x{height} pixels; at most {MAX_SIDE} on a side and "
            f"{MAX_SLICE_PIXELS // 1_000_000} million in total are read"
        )


def check_claim(claimed: int, there: int, ratio: int) -> None:
    """Raise ImageError where a header claims more than the file can unpack to.

    Args:
        claimed: Bytes of pixels that the header claims, at least.
        there: Bytes of the file.
        ratio: How much the packing can shrink at best.
    """
    if claimed > there * ratio:
        raise ImageError(
            "the file is damaged: its header claims more pixels than the file can hold"
        )


def check_volume_size(voxels: int, bytes_each: int) -> None:
    """Raise ImageError where a volume that must be held whole needs more than 1 GiB."""
    if voxels <= 0:
        raise ImageError(f"its header claims {voxels} voxels")
    if voxels * bytes_each > MAX_VOLUME_BYTES:
        raise ImageError(
            f"its header claims {voxels * bytes_each / 2**30:.1f} GiB of voxels; at most "
            f"{MAX_VOLUME_BYTES >> 30} GiB is read at once"
        )
