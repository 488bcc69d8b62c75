"""What the header of a DICOM file says about its frames, without decoding a pixel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medxlate.errors import ImageError
from medxlate.images.dicom.groups import Groups
from medxlate.images.dicom.identity import ID_SEQUENCES, identifiers, identifying_tags
from medxlate.images.dicom.parse import (
    PIXEL_DATA,
    PRIVATE_BLOCKS,
    UNDEFINED_LENGTH,
    Elements,
    Parsed,
    parse,
)
from medxlate.images.dicom.suv import PRIVATE, SUV_KEYWORDS, suv_factor
from medxlate.images.dicom.tags import tag_of
from medxlate.images.limits import check_slice_size, check_volume_size
from medxlate.images.quiet import without_warnings
from medxlate.images.scan import NO_IMAGE, FoundImage, Frame

PLAIN_SYNTAXES = frozenset({str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian)})
MAX_FRAMES = 32768
# PS3.3 C.8.2.1.1.1 and C.8.16.1.3: value 3 of ImageType; the latter two are in use beside them.
LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM"})
TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UI"})
IMAGE_KEYWORDS = (
    "SOPClassUID",
    "Modality",
    "ImageType",
    "InstanceNumber",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "SliceThickness",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)


class RefusedError(ImageError):
    """A DICOM file that cannot be used; ``identifiers`` are the values that its header holds."""

    def __init__(self, message: str, hint: str = "", held: frozenset[str] = frozenset()) -> None:
        super().__init__(message, hint)
        self.identifiers = held


@dataclass(frozen=True, slots=True)
class Header:
    """A DICOM image file without its pixels.

    Attributes:
        file: The file.
        series: SeriesInstanceUID, "" where it has none.
        sop_class: SOPClassUID.
        modality: CT, MR, PT...
        localizer: Whether it is an image for planning.
        unit: "HU" or "".
        full_range: Lowest and highest physical value that the stored type can hold.
        thickness: SliceThickness, mm; 0 where it is not known.
        frames: Its frames in the order of the file.
        no_suv: For PET: the attribute because of which SUV cannot be computed.
        identifiers: Every value of an identifying attribute, as text.
    """

    file: FoundImage
    series: str
    sop_class: str
    modality: str
    localizer: bool
    unit: str
    full_range: tuple[float, float]
    thickness: float
    frames: tuple[Frame, ...]
    no_suv: str
    identifiers: frozenset[str]


def read_header(found: FoundImage, tags: Iterable[str] = ()) -> Header:
    """Read what a DICOM file says about itself.

    Stored values become physical ones by rescale slope and intercept, of the file or of each
    frame, or by the modality LUT (PS3.3 C.11.1). They are Hounsfield units where the modality is
    CT and RescaleType says HU, US or nothing. MONOCHROME1 is turned, so that a large value is
    always bright, but for Hounsfield units, whose meaning does not depend on how they are shown.

    Args:
        found: The file.
        tags: Keywords of attributes to bring along, for instance ``PatientAge``.

    Raises:
        RefusedError: Damaged, truncated, too large, in colour, without an image, or compressed in
            a way that cannot be decoded.
        UsageError: ``tags`` holds a word that is no keyword.
    """
    with without_warnings():  # pydicom warns of values that break the standard's form
        keywords = tuple(tags)
        wanted, held = _wanted(keywords), frozenset[str]()
        try:
            parsed = parse(found.path, wanted)
            held = identifiers(parsed.elements)
            return _header(found, parsed, keywords, held)
        except Exception as problem:
            raise RefusedError(*_reason(problem), held) from None


def _reason(problem: Exception) -> tuple[str, str]:
    """Return message and hint; a damaged file can break pydicom's conversions in many ways."""
    if isinstance(problem, ImageError):
        return problem.message, problem.hint
    if isinstance(problem, OSError):
        return f"it cannot be read: {problem.strerror}", ""
    return "it is a damaged DICOM file", ""


def _header(
    found: FoundImage, parsed: Parsed, tags: tuple[str, ...], held: frozenset[str]
) -> Header:
    values = parsed.elements
    layout = _layout(parsed)
    modality = values.text("Modality")
    suv, no_suv = suv_factor(values) if modality == "PT" else (None, "")
    texts = {key: text for key in tags if (text := _tag_text(values, key))}
    groups = Groups(values, layout.frames)
    unit = _unit(modality, groups)
    frames = _frames(found, layout, groups, _Fixed(unit != "HU", suv, texts))
    return Header(
        file=found,
        series=values.text("SeriesInstanceUID"),
        sop_class=values.text("SOPClassUID"),
        modality=modality,
        localizer=not LOCALIZERS.isdisjoint(values.values("ImageType")[2:]),
        unit=unit,
        full_range=_full_range(frames, values),
        thickness=groups.thickness(),
        frames=frames,
        no_suv=no_suv,
        identifiers=held,
    )


@lru_cache(maxsize=8)
def _wanted(tags: tuple[str, ...]) -> frozenset[int]:
    keywords = (*IMAGE_KEYWORDS, *SUV_KEYWORDS, *ID_SEQUENCES, *tags)
    private = {
        group << 16 | element
        for group, elements in PRIVATE.items()
        for block in PRIVATE_BLOCKS
        for element in (block, *(block << 8 | low for low in elements))
    }
    return frozenset(map(tag_of, keywords)) | frozenset(identifying_tags()) | private


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the frames are stored; see Frame for offset, stored and bits."""

    rows: int
    columns: int
    frames: int
    offset: int
    stored: str
    bits: int
    inverted: bool

    def offset_of(self, number: int) -> int:
        if self.offset < 0:
            return -1
        return self.offset + number * self.rows * self.columns * int(self.stored[-1])


def _layout(parsed: Parsed) -> _Layout:
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
        raise ImageError(f"it is a colour image ({photometric}); DICOM images must be grey")
    check_slice_size(rows, columns)
    count = max(1, values.integer("NumberOfFrames") or 1)
    if count > min(MAX_FRAMES, parsed.size):
        raise ImageError(f"its header claims {count} frames; at most {MAX_FRAMES} are read")
    check_volume_size(count * rows * columns, max(1, allocated // 8))
    bits = values.short("BitsStored") or allocated
    if allocated not in (1, 8, 16, 32) or not 1 <= bits <= allocated or sign not in (0, 1):
        raise ImageError(f"its pixels have {bits} of {allocated} bits, which are not read")
    plain = _check_storage(parsed, math.ceil(count * rows * columns * allocated / 8), bits)
    plain = plain and allocated in (8, 16) and "ModalityLUTSequence" not in values
    kind = "i" if sign else "u"
    stored = f"<{kind}{max(1, allocated // 8)}"
    offset = parsed.offset if plain else -1
    return _Layout(rows, columns, count, offset, stored, bits, photometric == "MONOCHROME1")


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
            "Where they are JPEG, install python-gdcm beside medxlate.",
        )
    if UID(parsed.syntax).is_encapsulated:
        if parsed.length != UNDEFINED_LENGTH:
            raise ImageError("it is damaged: compressed, but its pixel data has a fixed length")
        return False
    rest = parsed.length if parsed.deflated else min(parsed.length, parsed.size - parsed.offset)
    if parsed.length == UNDEFINED_LENGTH:
        raise ImageError("it is damaged: not compressed, but its pixel data has no length")
    if rest < needed:
        raise ImageError(f"it is truncated: {rest} of {needed} bytes of pixels are there")
    if parsed.elements.short("HighBit") not in (None, bits - 1):  # PS3.5 8.1.1
        raise ImageError(f"its HighBit does not fit the {bits} bits that are stored")
    return parsed.syntax in PLAIN_SYNTAXES


@lru_cache(maxsize=64)
def _can_decode(syntax: str) -> bool:
    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        return False


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What all frames of a file have in common: see Frame."""

    may_turn: bool
    suv: float | None
    tags: Mapping[str, str]


def _frames(found: FoundImage, layout: _Layout, groups: Groups, fixed: _Fixed) -> tuple[Frame, ...]:
    values = groups.values
    instance, order = values.text("SOPInstanceUID"), values.integer("InstanceNumber") or 0
    frames = []
    for number in range(layout.frames):
        transformation = groups.transformation(number)
        frame = Frame(
            file=found,
            number=number,
            rows=layout.rows,
            columns=layout.columns,
            orientation=groups.orientation(number),
            position=groups.position(number),
            spacing=groups.spacing(number),
            instance=instance,
            order=(order, number),
            offset=layout.offset_of(number),
            stored=layout.stored,
            bits=layout.bits,
            slope=_rescale(transformation, "RescaleSlope", 1.0),
            intercept=_rescale(transformation, "RescaleIntercept", 0.0),
            inverted=layout.inverted and fixed.may_turn,
            suv=fixed.suv,
            tags=fixed.tags,
        )
        frames.append(frame)
    return tuple(frames)


def _rescale(values: Elements, keyword: str, default: float) -> float:
    if not values.text(keyword):
        return default
    found = values.number(keyword)
    if found is None or (found == 0 and keyword == "RescaleSlope"):
        raise ImageError(f"{keyword} is not a number that values can be scaled with")
    return found


def _unit(modality: str, groups: Groups) -> str:
    values = groups.transformation(0)
    rescaled = bool(values.text("RescaleSlope") and values.text("RescaleIntercept"))
    is_hu = modality == "CT" and rescaled and "ModalityLUTSequence" not in groups.values
    return "HU" if is_hu and values.text("RescaleType") in ("HU", "US", "") else ""


def stored_range(frame: Frame) -> tuple[int, int]:
    """Return the lowest and highest value that a frame's stored bits can hold."""
    if frame.stored[1] == "i":
        return -(1 << frame.bits - 1), (1 << frame.bits - 1) - 1
    return 0, (1 << frame.bits) - 1


def _full_range(frames: tuple[Frame, ...], values: Elements) -> tuple[float, float]:
    tables = values.items("ModalityLUTSequence")
    if tables:
        data = np.asarray(tables[0].dataset["LUTDescriptor"].value)
        return 0.0, float((1 << int(data[2])) - 1)
    ends = [end * frame.slope + frame.intercept for frame in frames for end in stored_range(frame)]
    if max(map(abs, ends)) > np.finfo(np.float32).max:
        raise ImageError("its rescale slope and intercept lead beyond every finite number")
    return min(ends), max(ends)


def _tag_text(values: Elements, keyword: str) -> str:
    if dictionary_VR(tag_of(keyword)) in TEXT_VRS:
        text = values.text(keyword)
        if "\\" not in text:
            return text
    try:
        value = values.dataset.get(keyword)
    except Exception:  # a value that breaks the standard's form counts as absent
        return ""
    return "" if value is None else str(value).strip()
