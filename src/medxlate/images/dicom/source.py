"""What a derived instance takes over from the header of its source, beside the patient."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from medxlate.base.errors import ImageError
from medxlate.images.dicom import phi as privacy
from medxlate.images.quiet import without_warnings

POSITIONS = re.compile(r"(HF|FF|LF|RF|AF|PF)(P|S|DR|DL|R|L)")  # PS3.3 C.7.3.1.1.2
GANTRY = {  # PS3.16 CID 21
    "HF": ("102540008", "headfirst"),
    "FF": ("102541007", "feet-first"),
}
LYING = {  # PS3.16 CID 20
    "S": ("40199007", "supine"),
    "P": ("1240000", "prone"),
    "DL": ("102536004", "left lateral decubitus"),
    "DR": ("102535000", "right lateral decubitus"),
}
DIRECTIONS = re.compile(r"(?!.*(.).*\1)[ALRPHF]{1,3}")  # PS3.3 C.7.6.1.1.1
BODY_PARTS = frozenset(  # PS3.16 Annex L, the common ones: free text must not get through
    {
        *("ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BRAIN", "BREAST", "CHEST", "CHESTABDOMEN"),
        *("CHESTABDPELVIS", "CSPINE", "ELBOW", "EXTREMITY", "EYE", "FEMUR", "FINGER", "FOOT"),
        *("HAND", "HEAD", "HEADNECK", "HEART", "HIP", "HUMERUS", "IAC", "JAW", "KIDNEY", "KNEE"),
        *("LEG", "LIVER", "LSPINE", "LUNG", "NECK", "ORBIT", "PANCREAS", "PELVIS", "PROSTATE"),
        *("RIB", "SHOULDER", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM"),
        *("TSPINE", "THIGH", "WHOLEBODY", "WRIST"),
    }
)
PAIRED = frozenset(
    {
        *("ANKLE", "ARM", "BREAST", "ELBOW", "EXTREMITY", "EYE", "FEMUR", "FINGER", "FOOT", "HAND"),
        *("HIP", "HUMERUS", "IAC", "KIDNEY", "KNEE", "LEG", "LUNG", "ORBIT", "RIB", "SHOULDER"),
        *("THIGH", "WRIST"),
    }
)
LOSSY = {  # transfer syntaxes that always lose something: Lossy Image Compression Method
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
}
TAGS = (
    *privacy.PHI_TAGS,
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "Modality",
    "NumberOfFrames",
    "BodyPartExamined",
    "Laterality",
    "PatientPosition",
    "PatientOrientation",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "GantryDetectorTilt",
    "BurnedInAnnotation",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "Rows",
    "Columns",
    "BitsAllocated",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)


def read_source(path: Path) -> Dataset:
    """Read the attributes of a source file that a derived instance may need.

    Raises:
        ImageError: It cannot be read.
    """
    with without_warnings():
        try:
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        except Exception as problem:  # a damaged file can break pydicom's parser in many ways
            name = type(problem).__name__
            raise ImageError(f"the DICOM header cannot be read ({name})") from None


def set_body(header: Dataset, source: Dataset) -> None:
    """Take over body part and side where they are terms, not text."""
    part = str(privacy.value_of(source, "BodyPartExamined") or "").strip()
    if part in BODY_PARTS:
        header.BodyPartExamined = part
    if part in BODY_PARTS - PAIRED:
        return
    side = str(privacy.value_of(source, "Laterality") or "").strip()
    header.Laterality = side if side in ("L", "R") else None  # type 2C where there are two


def set_position(header: Dataset, source: Dataset, *, coded: bool) -> None:
    """Take over how the patient lay in the scanner.

    Args:
        header: The derived data set.
        source: The source's header.
        coded: Whether to write codes (PET: PS3.3 C.8.4.6), not the Patient Position.
    """
    position = str(privacy.value_of(source, "PatientPosition") or "")
    found = POSITIONS.fullmatch(position)
    if not coded:
        header.PatientPosition = position if found else None
        return
    header.PatientOrientationCodeSequence = []
    header.PatientGantryRelationshipCodeSequence = []
    if found and found[1] in GANTRY and found[2] in LYING:
        lying = privacy.code("102538003", "recumbent", "SCT")
        lying.PatientOrientationModifierCodeSequence = [privacy.code(*LYING[found[2]], "SCT")]
        header.PatientOrientationCodeSequence = [lying]
        gantry = privacy.code(*GANTRY[found[1]], "SCT")
        header.PatientGantryRelationshipCodeSequence = [gantry]


def set_directions(header: Dataset, source: Dataset) -> None:
    """Take over where the rows and columns of a radiograph point to."""
    directions = privacy.value_of(source, "PatientOrientation") or ()
    legal = len(directions) == 2 and all(DIRECTIONS.fullmatch(value) for value in directions)
    header.PatientOrientation = list(directions) if legal else None


def set_history(header: Dataset, source: Dataset, path: Path) -> None:
    """Take over what lasts: burnt-in text and lossy compression (PS3.3 C.7.6.1.1.5).

    Args:
        header: The derived data set.
        source: The source's header.
        path: Its file, from whose size a ratio that is not given is estimated.
    """
    burned = str(privacy.value_of(source, "BurnedInAnnotation") or "")
    if burned in ("YES", "NO"):
        header.BurnedInAnnotation = burned
    method = LOSSY.get(str(source.file_meta.get("TransferSyntaxUID", "")))
    if method is None and privacy.value_of(source, "LossyImageCompression") != "01":
        return
    header.LossyImageCompression = "01"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        privacy.copy(header, source, keyword)
    if "LossyImageCompressionRatio" not in header:
        sizes = ("Rows", "Columns", "BitsAllocated", "NumberOfFrames")
        bits = math.prod(privacy.number_of(source, size, 1) for size in sizes)
        ratio = max(bits / 8 / path.stat().st_size, 1.0)
        header.LossyImageCompressionRatio = f"{ratio:.2f}"
    if "LossyImageCompressionMethod" not in header and method is not None:
        header.LossyImageCompressionMethod = method


def pixel_measures(source: Dataset, number: int) -> Dataset:
    """Return where a frame's slice thickness and distance stand: the functional group or the top.

    Args:
        source: The source's header.
        number: Which frame, from 0.
    """
    for keyword, item in (
        ("PerFrameFunctionalGroupsSequence", number),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        groups = privacy.value_of(source, keyword)
        if groups and item < len(groups):
            measures = privacy.value_of(groups[item], "PixelMeasuresSequence")
            if measures:
                found: Dataset = measures[0]
                return found
    return source
