"""One way in: any image file becomes an Image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medxlate.errors import ImageError
from medxlate.images.find import FoundImage, sniff
from medxlate.images.image import Bits, Image

MIN_SIDE = 8


def read_image(path: Path, *, channel: int | None = None, tags: Iterable[str] = ()) -> Image:
    """Read a PNG, JPEG, TIFF or single-frame DICOM file, whatever its suffix says.

    Args:
        path: The file.
        channel: Which channel of a colour image to take, from 0; None: luma.
        tags: DICOM attributes to bring along, by keyword.

    Raises:
        ImageError: The file is no image, damaged, smaller than 8 pixels or all one value.
    """
    format_ = sniff(path)
    if format_ is None:
        raise ImageError(f"{path} is no PNG, JPEG, TIFF or DICOM image.")
    if format_ == "dicom":
        from medxlate.images.dicom import read_dicom  # pydicom is loaded only where it is needed

        image = read_dicom(path, tags=tags)
    else:
        from medxlate.images.raster import read_raster

        image = read_raster(path, channel=channel)
    height, width = image.pixels.shape
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{path} is {width}x{height} pixels; at least 8x8 are needed.")
    if not np.isfinite(image.pixels).all():
        raise ImageError(f"{path} holds values that are not finite.")
    if image.pixels.min() == image.pixels.max():
        raise ImageError(f"{path} is empty: all pixels are {image.pixels.flat[0]:g}.")
    return image


def stored_bits(found: FoundImage) -> Bits:
    """Return the depth (8 or 16) that keeps the file's values, from its header alone."""
    if found.format == "dicom":
        return 16
    from medxlate.images import raster

    return 16 if raster.stored_bits(found.path) == 16 else 8
