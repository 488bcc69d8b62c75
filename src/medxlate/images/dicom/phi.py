"""What a derived series says about the patient.

A derived data set is built from nothing: only attributes named here or in ``derive`` are taken
from the source, so private attributes, overlays, comments and whatever else is not named never
get through. Of the patient and the study there are three policies:

- ``keep``: identity, study, physician, dates and body measures as they are.
- ``pseudonymise``: the Basic Application Level Confidentiality Profile of DICOM PS3.15 Annex E
  with its options Retain Patient Characteristics (sex, age, size, weight) and Retain UIDs (study,
  frame of reference and references to the source, so that the series lies on its source in a
  viewer or planner). Whoever holds the source can therefore find the patient.
- ``remove``: the Basic Profile alone; study and frame of reference get new UIDs and nothing refers
  to the source.

Pixels are not looked at: a face can be reconstructed from slices of a head, and text burnt into
a source image may still be read in its translation.
"""

from __future__ import annotations

import math
import re
import unicodedata
import uuid
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.valuerep import DSfloat, validate_value

from medxlate.images.dicom.write import PATIENT_AND_STUDY
from medxlate.images.pseudonym import Phi, keyed_hash, pseudonym
from medxlate.images.quiet import without_warnings

ANONYMOUS = "SYNTHETIC"  # PatientID and PatientName under ``remove``

CHARACTERISTICS = ("PatientSex", "PatientAge", "PatientSize", "PatientWeight")
KEPT_IF_PRESENT = (
    *CHARACTERISTICS,
    "IssuerOfPatientID",
    "StudyDescription",
    "AcquisitionDate",
    "AcquisitionTime",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "LongitudinalTemporalInformationModified",
)
# The values of the coded strings that are copied: a CS may hold any word of capitals.
TERMS = {
    "PatientSex": frozenset({"M", "F", "O"}),  # PS3.3 C.7.1.1
    "LossyImageCompressionMethod": frozenset(  # PS3.3 C.7.6.1.1.5.1
        {
            *("ISO_10918_1", "ISO_14495_1", "ISO_15444_1", "ISO_15444_15", "ISO_18181_1"),
            *("ISO_13818_2", "ISO_14496_10", "ISO_23008_2"),
        }
    ),
}
CODED = "DeidentificationMethodCodeSequence"
PHI_TAGS = (*PATIENT_AND_STUDY, *KEPT_IF_PRESENT, CODED, "StudyInstanceUID", "FrameOfReferenceUID")

# PS3.16 CID 7050.
BASIC_PROFILE = ("113100", "Basic Application Confidentiality Profile")
RETAIN_CHARACTERISTICS = ("113108", "Retain Patient Characteristics Option")
RETAIN_UIDS = ("113110", "Retain UIDs Option")
METHODS = {
    "pseudonymise": (BASIC_PROFILE, RETAIN_CHARACTERISTICS, RETAIN_UIDS),
    "remove": (BASIC_PROFILE,),
}


def set_patient(header: Dataset, source: Dataset, phi: Phi, key: bytes) -> None:
    """Fill in the patient and study modules of a derived data set, UIDs included.

    Args:
        header: The derived data set.
        source: The source's header.
        phi: The policy.
        key: The secret of pseudonyms and replaced UIDs.
    """
    for keyword in PATIENT_AND_STUDY:
        setattr(header, keyword, None)
    header.StudyInstanceUID = study_uid(source, phi, key)
    header.FrameOfReferenceUID = frame_of_reference_uid(source, phi, key)
    if phi == "keep":
        for keyword in dict.fromkeys(PATIENT_AND_STUDY + KEPT_IF_PRESENT):
            copy(header, source, keyword)
        _copy_codes(header, source)
        return
    if phi == "pseudonymise":
        header.PatientID = header.PatientName = pseudonym(patient_of(source), key)
        for keyword in CHARACTERISTICS:
            copy(header, source, keyword)
    else:
        header.PatientID = header.PatientName = ANONYMOUS
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethodCodeSequence = [code(*method) for method in METHODS[phi]]
    header.LongitudinalTemporalInformationModified = "REMOVED"


def patient_of(source: Dataset) -> str:
    """Return what identifies the patient: PatientID or, without one, the study, series or file."""
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if found := str(value_of(source, keyword) or "").strip():
            return found
    return ""


def study_uid(source: Dataset, phi: Phi, key: bytes) -> str:
    """Return the StudyInstanceUID of what is derived from a source."""
    return _uid(source, "StudyInstanceUID", phi, key)


def frame_of_reference_uid(source: Dataset, phi: Phi, key: bytes) -> str:
    """Return the FrameOfReferenceUID of what is derived from a source."""
    return _uid(source, "FrameOfReferenceUID", phi, key)


def _uid(source: Dataset, keyword: str, phi: Phi, key: bytes) -> str:
    """Return the source's UID, or one made of it (PS3.5 B.2): the same for the same and key."""
    found = str(value_of(source, keyword) or "")
    if phi != "remove" and is_uid(found):
        return found
    text = f"{keyword} {found or value_of(source, 'SeriesInstanceUID') or patient_of(source)}"
    return f"2.25.{uuid.UUID(bytes=keyed_hash(text, key)[:16], version=5).int}"


def is_uid(text: str) -> bool:
    """Whether a text consists of numbers and dots as a UID does (PS3.5 9.1)."""
    return len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None


def copy(header: Dataset, source: Dataset, keyword: str) -> None:
    """Take an attribute over where its value has the form that its VR demands (PS3.5 6.2).

    Of the attributes in TERMS only the terms that the standard defines.
    """
    value = value_of(source, keyword)
    if value is None or (isinstance(value, str) and not value.strip()):
        return
    vr = dictionary_VR(keyword)
    parts = list(value) if isinstance(value, MultiValue) else [value]
    if vr == "DS":
        try:
            numbers = [float(part) for part in parts]
        except (TypeError, ValueError, OverflowError):
            return
        if not all(map(math.isfinite, numbers)):
            return
        parts = [DSfloat(number, auto_format=True) for number in numbers]
    elif not all(_is_allowed(keyword, vr, str(part)) for part in parts):
        return
    setattr(header, keyword, parts if len(parts) > 1 else parts[0])


def value_of(source: Dataset, keyword: str) -> Any:
    """Return an attribute's value; None where it is absent or cannot be read."""
    with without_warnings():  # pydicom warns of values that break the standard's form
        try:
            return source.get(keyword)
        except Exception:  # raw values are decoded when they are asked for
            return None


def number_of(source: Dataset, keyword: str, default: int) -> int:
    """Return an attribute's value as an integer; the default where it has none."""
    try:
        return int(value_of(source, keyword))
    except (TypeError, ValueError):
        return default


def code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    """Return an item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _copy_codes(header: Dataset, source: Dataset) -> None:
    items = value_of(source, CODED)
    if not isinstance(items, Sequence) or not items:
        return
    found = [
        code(item.CodeValue, item.CodeMeaning, item.CodingSchemeDesignator)
        for item in items
        if all(key in item for key in ("CodeValue", "CodeMeaning", "CodingSchemeDesignator"))
    ]
    setattr(header, CODED, found)


def _is_allowed(keyword: str, vr: str, text: str) -> bool:
    if keyword in TERMS:
        return text in TERMS[keyword]
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        return False
    try:
        validate_value(vr, text, config.RAISE)
    except Exception:
        return False
    return True
