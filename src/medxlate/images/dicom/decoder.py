"""Decodes compressed frames, also in a process of its own, which damaged ones may end or hold up.

The decoders in C++ end their process at some kinds of damage.
"""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from medxlate.base.errors import ImageError
from medxlate.base.pool import DiedError, Worker

TIME_LIMIT = 60.0  # seconds for one frame
DAMAGED = "its pixels cannot be decoded: they are damaged or use an unsupported compression"

_worker = Worker(quiet=True)
atexit.register(_worker.close)


def decode(attributes: Mapping[str, Any], stream: bytes) -> npt.NDArray[Any]:
    """Return the pixels of a compressed frame, one array of Rows x Columns values.

    They are decoded in another process, which lives on for the next frame.

    Args:
        attributes: As ``decode_here`` takes them.
        stream: The compressed frame.

    Raises:
        ImageError: It cannot be decoded, or not within a minute.
    """
    try:
        found = _worker.call(_decode, dict(attributes), stream, limit=TIME_LIMIT)
    except DiedError:
        raise ImageError(DAMAGED) from None
    shape = (attributes["Rows"], attributes["Columns"])
    if found is None or found.size != shape[0] * shape[1]:
        raise ImageError(DAMAGED)
    return found.reshape(shape)


def decode_here(attributes: Mapping[str, Any], stream: bytes) -> npt.NDArray[Any]:
    """Return the pixels of a compressed frame [rows, columns], decoded in this process.

    Args:
        attributes: The attributes of the Image Pixel Module by keyword, and ``syntax``, the
            transfer syntax UID.
        stream: The compressed frame.
    """
    frame = Dataset()
    frame.file_meta = FileMetaDataset()
    frame.file_meta.TransferSyntaxUID = UID(attributes["syntax"])
    for keyword, value in attributes.items():
        if keyword != "syntax":
            setattr(frame, keyword, value)
    frame.PixelData = encapsulate([stream])
    frame["PixelData"].VR = "OB"
    frame["PixelData"].is_undefined_length = True
    return np.asarray(pixel_array(frame))


def _decode(attributes: Mapping[str, Any], stream: bytes) -> npt.NDArray[Any] | None:
    """Return the decoded pixels; None where they cannot be decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return decode_here(attributes, stream)
        except Exception:  # decoders fail in many ways
            return None
