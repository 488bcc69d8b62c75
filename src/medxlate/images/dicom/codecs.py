"""Which compressed pixel data can be read here."""

from __future__ import annotations

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

_SYNTAXES: dict[str, tuple[UID, ...]] = {
    "JPEG": (JPEGBaseline8Bit, JPEGExtended12Bit),
    "JPEG lossless": (JPEGLosslessSV1,),
    "JPEG-LS": (JPEGLSLossless,),
    "JPEG 2000": (JPEG2000Lossless, JPEG2000),
    "RLE": (RLELossless,),
}


def readable() -> dict[str, bool]:
    """Return for each kind of compression whether a decoder for it is installed."""
    return {
        name: all(get_decoder(syntax).is_available for syntax in syntaxes)
        for name, syntaxes in _SYNTAXES.items()
    }
