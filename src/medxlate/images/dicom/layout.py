"""How the frames of a DICOM file are stored, from its header."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medxlate.base.errors import ImageError
from medxlate.images.dicom.parse import PIXEL_DATA, UNDEFINED_LENGTH, Elements, Parsed
from medxlate.images.limits import check_slice_size, check_volume_size
from medxlate.images.scan import NO_IMAGE

PLAIN_SYNTAXES = frozenset({str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian)})
MAX_FRAMES = 32768


@dataclass(frozen=True, slots=True)
class Layout:
    """How the frames are stored; see Frame for offset, stored and bits."""

    rows: int
    columns: int
    frames: int
    offset: int
    stored: str
    bits: int
    inverted: bool
    padding: tuple[int, int] | None

    def offset_of(self, number: int) -> int:
        """Return where in the file a frame begins; -1 where it must be decoded."""
        if self.offset < 0:
            return -1
        return self.offset + number * self.rows * self.columns * int(self.stored[-1])


def read_layout(parsed: Parsed) -> Layout:
    """Return how a file's frames are stored.

    Raises:
        ImageError: There are none, they are in colour, truncated, too large, or stored in a way
            that is not read.
    """
    values = parsed.elements
    if not parsed.pixel_tag:
        raise ImageError(NO_IMAGE)
    if parsed.pixel_tag != PIXEL_DATA:
        raise ImageError("its pixels are floating-point numbers, which are not read from DICOM")
    rows, columns, allocated, sign = (
        _needed(values, key) for key in ("Rows", "Columns", "BitsAllocated", "PixelRepresentation")
    )
    photometric = values.text("PhotometricInterpretation")
    if not photometric:
        raise ImageError("PhotometricInterpretation is missing or damaged")
    if values.short("SamplesPerPixel") not in (None, 1) or not photometric.startswith("MONO"):
        raise ImageError(f"it is a colour image ({photometric}); DICOM images must be greyscale")
    check_slice_size(rows, columns)
    count = max(1, values.integer("NumberOfFrames") or 1)
    if count > min(MAX_FRAMES, parsed.size):
        raise ImageError(f"its header claims {count} frames; at most {MAX_FRAMES} are read")
    check_volume_size(count * rows * columns, max(1, allocated // 8))
    bits = values.short("BitsStored") or allocated
    if allocated not in (1, 8, 16, 32) or not 1 <= bits <= allocated or sign not in (0, 1):
        raise ImageError(f"its pixels have {bits} of {allocated} bits, which is not supported")
    plain = _check_storage(parsed, math.ceil(count * rows * columns * allocated / 8), bits)
    plain = plain and allocated in (8, 16) and "ModalityLUTSequence" not in values
    kind = "i" if sign else "u"
    stored = f"<{kind}{max(1, allocated // 8)}"
    offset = parsed.offset if plain else -1
    inverted, padding = photometric == "MONOCHROME1", _padding(values, signed=bool(sign))
    return Layout(rows, columns, count, offset, stored, bits, inverted, padding)


def _needed(values: Elements, keyword: str) -> int:
    found = values.short(keyword)
    if found is None:
        raise ImageError(f"{keyword} is missing or damaged")
    return found


def _check_storage(parsed: Parsed, needed: int, bits: int) -> bool:
    """Return whether the pixels are stored plainly; raise ImageError where they cannot be read."""
    if not _can_decode(parsed.syntax):
        name = UID(parsed.syntax).name
        raise ImageError(
            f"its pixels ({name}) cannot be decoded",
            "If they are JPEG, install python-gdcm alongside medxlate.",
        )
    if UID(parsed.syntax).is_encapsulated:
        if parsed.length != UNDEFINED_LENGTH:
            raise ImageError("it is damaged: its pixels are compressed but have a fixed length")
        return False
    rest = parsed.length if parsed.deflated else min(parsed.length, parsed.size - parsed.offset)
    if parsed.length == UNDEFINED_LENGTH:
        raise ImageError("it is damaged: its pixels are uncompressed but have no length")
    if rest < needed:
        raise ImageError(f"it is truncated: it has {rest} of {needed} bytes of pixels")
    if parsed.elements.short("HighBit") not in (None, bits - 1):  # PS3.5 8.1.1
        raise ImageError(f"its HighBit does not fit the {bits} bits that are stored")
    return parsed.syntax in PLAIN_SYNTAXES


@lru_cache(maxsize=64)
def _can_decode(syntax: str) -> bool:
    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        return False


def _padding(values: Elements, *, signed: bool) -> tuple[int, int] | None:
    """Return the range of stored values that are padding (PS3.3 C.7.5.1.1.2); None for none.

    Their VR is US or SS; which of them is written is often wrong, so PixelRepresentation decides.
    """
    value = values.short("PixelPaddingValue")
    if value is None:
        return None
    limit = values.short("PixelPaddingRangeLimit")
    ends = [end & 0xFFFF for end in (value, value if limit is None else limit)]
    if signed:
        ends = [end - 0x10000 if end & 0x8000 else end for end in ends]
    return min(ends), max(ends)
