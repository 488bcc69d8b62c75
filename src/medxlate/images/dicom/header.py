"""What the header of a DICOM file says about its frames, without decoding a pixel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydicom.datadict import dictionary_VR

from medxlate.base.errors import ImageError
from medxlate.images.dicom.functional_groups import FunctionalGroups
from medxlate.images.dicom.identity import ID_SEQUENCES, identifiers, identifying_tags
from medxlate.images.dicom.layout import Layout, read_layout
from medxlate.images.dicom.parse import (
    PRIVATE_BLOCKS,
    Elements,
    Parsed,
    parse,
)
from medxlate.images.dicom.suv import PRIVATE, SUV_KEYWORDS, suv_factor
from medxlate.images.dicom.tags import tag_of
from medxlate.images.quiet import without_warnings
from medxlate.images.scan import FoundImage, Frame

# PS3.3 C.8.2.1.1.1 and C.8.16.1.3: value 3 of ImageType; the latter two are in use beside them.
LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM"})
TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UI"})
IMAGE_KEYWORDS = (
    "SOPClassUID",
    "Modality",
    "ImageType",
    "InstanceNumber",
    "AcquisitionNumber",
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
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
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
        patient: PatientID, or, where it is absent, name and birth date; "" where it names neither.
        sop_class: SOPClassUID.
        modality: CT, MR, PT...
        acquisition: AcquisitionNumber, "" where it has none.
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
    patient: str
    sop_class: str
    modality: str
    acquisition: str
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
    CT and RescaleType says HU, US or nothing. Stored values that stand for pixels outside of what
    was measured (PixelPaddingValue) become NaN. MONOCHROME1 is turned, so that a large value is
    always bright, but for Hounsfield units, whose meaning does not depend on how they are shown.

    Args:
        found: The file.
        tags: Keywords of attributes to read as well, for instance ``PatientAge``.

    Raises:
        RefusedError: Damaged, truncated, too large, in colour, without an image, or compressed in
            a way that cannot be decoded.
        UsageError: ``tags`` holds a word that is not a keyword.
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
    layout = read_layout(parsed)
    modality = values.text("Modality")
    suv, no_suv = suv_factor(values) if modality == "PT" else (None, "")
    texts = {key: text for key in tags if (text := _tag_text(values, key))}
    groups = FunctionalGroups(values, layout.frames)
    unit = _unit(modality, groups)
    frames = _frames(found, layout, groups, _Fixed(unit != "HU", suv, texts))
    return Header(
        file=found,
        series=values.text("SeriesInstanceUID"),
        patient=_patient(values),
        sop_class=values.text("SOPClassUID"),
        modality=modality,
        acquisition=values.text("AcquisitionNumber"),
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
class _Fixed:
    """What all frames of a file have in common: see Frame."""

    may_turn: bool
    suv: float | None
    tags: Mapping[str, str]


def _frames(
    found: FoundImage, layout: Layout, groups: FunctionalGroups, fixed: _Fixed
) -> tuple[Frame, ...]:
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
            padding=layout.padding,
        )
        frames.append(frame)
    return tuple(frames)


def _rescale(values: Elements, keyword: str, default: float) -> float:
    if not values.text(keyword):
        return default
    found = values.number(keyword)
    if found is None or (found == 0 and keyword == "RescaleSlope"):
        raise ImageError(f"{keyword} is not a usable number")
    return found


def _patient(values: Elements) -> str:
    known = values.text("PatientID")
    return known or f"{values.text('PatientName')}\n{values.text('PatientBirthDate')}".strip()


def _unit(modality: str, groups: FunctionalGroups) -> str:
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
        raise ImageError("its rescale slope and intercept give values that are not finite")
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
