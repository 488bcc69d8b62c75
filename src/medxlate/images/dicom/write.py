"""Writing single-frame DICOM files: explicit VR little endian, one grey image each.

``image_attributes`` says what the image modules of a SOP class demand (PS3.3 A.3 CT, A.4 MR,
A.8.1 Secondary Capture, A.21 PET) of an image about whose acquisition nothing is known: type 2
attributes are empty, type 1 attributes have the value that claims least.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from medxlate.images.dicom.tags import new_uid

SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

# Type 2 of PS3.3 C.7.1.1 and C.7.2.1: present in every file, empty where not kept.
PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
# With those of PS3.3 C.7.3.1 and C.7.5.1, series and equipment.
EMPTY = (*PATIENT_AND_STUDY, "SeriesNumber", "InstanceNumber", "Manufacturer")
# PS3.3 C.7.6.1.1.2 and its specialisations: what value 3 of Image Type is.
IMAGE_TYPE_3 = {"CT": ["AXIAL"], "MR": ["OTHER"]}
CT_IMAGE = {"KVP": None, "AcquisitionNumber": None}
MR_IMAGE = {
    "ScanningSequence": "RM",  # research mode
    "SequenceVariant": "NONE",
    "ScanOptions": None,
    "MRAcquisitionType": None,
    "RepetitionTime": None,
    "EchoTime": None,
    "EchoTrainLength": None,
}
PET_IMAGE = {
    "Units": "NONE",
    "CountsSource": "EMISSION",
    "SeriesType": ["STATIC", "IMAGE"],
    "NumberOfSlices": 1,
    "CorrectedImage": None,
    "DecayCorrection": "NONE",
    "CollimatorType": None,
    "RadiopharmaceuticalInformationSequence": [],
    "PatientOrientationCodeSequence": [],
    "PatientGantryRelationshipCodeSequence": [],
    "AcquisitionDate": None,
    "AcquisitionTime": None,
    "ActualFrameDuration": None,
    "FrameReferenceTime": 0,
    "ImageIndex": 1,
    "RescaleSlope": 1,
    "RescaleIntercept": 0,
}
IMAGE_MODULES: dict[str, Mapping[str, Any]] = {"CT": CT_IMAGE, "MR": MR_IMAGE, "PT": PET_IMAGE}
NO_DATE = {"SeriesDate": "19000101", "SeriesTime": "000000"}  # type 1 in PET (C.8.9.1)


def image_attributes(sop_class: str) -> dict[str, Any]:
    """Return by keyword what a SOP class demands of an image of unknown acquisition.

    Args:
        sop_class: UID of CT, MR, PET or Secondary Capture Image Storage.
    """
    if sop_class == SECONDARY_CAPTURE:
        return {"ConversionType": "SYN"}  # synthetic image
    code = next(code for code, uid in SOP_CLASSES.items() if uid == sop_class)
    return dict(IMAGE_MODULES[code])


def set_attributes(header: Dataset, attributes: Mapping[str, Any]) -> None:
    """Set attributes by keyword; numbers become decimal strings of at most 16 characters."""
    for keyword, value in attributes.items():
        several = isinstance(value, list | tuple)
        parts = list(value) if several else [value]
        if dictionary_VR(keyword) == "DS":
            parts = [
                DSfloat(part, auto_format=True) if isinstance(part, float) else part
                for part in parts
            ]
        setattr(header, keyword, parts if several else parts[0])


def set_pixels(header: Dataset, stored: npt.NDArray[Any]) -> None:
    """Set the Image Pixel module (PS3.3 C.7.6.3) from int16 or uint16 [rows, columns]."""
    if stored.dtype not in (np.int16, np.uint16) or stored.ndim != 2:
        raise ValueError(f"pixels must be int16 or uint16 [H, W], not {stored.dtype}{stored.shape}")
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = stored.shape
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = int(stored.dtype.kind == "i")
    header.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()


def save(header: Dataset, path: Path) -> None:
    """Write a data set as a DICOM file (PS3.10) in explicit VR little endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)


def write_dicom(
    path: Path, stored: np.ndarray[Any, Any], *, modality: str, attributes: Mapping[str, Any]
) -> None:
    """Write a grey single-frame image of a new patient as explicit little endian DICOM.

    Whatever the standard demands beyond the given attributes is filled in: empty where it may
    be, and study and frame of reference follow from the SeriesInstanceUID, so that the files of
    one series agree.

    Args:
        path: The file to write.
        stored: int16 or uint16 [H, W], the values as stored.
        modality: CT, MR or PT.
        attributes: Further attributes by keyword (RescaleSlope, PatientAge...), sequences as
            lists of mappings; None: leave out what would be filled in.
    """
    header = Dataset()
    header.SOPClassUID = UID(SOP_CLASSES[modality])
    header.SOPInstanceUID = new_uid()
    header.Modality = modality
    if "BodyPartExamined" not in attributes:
        header.Laterality = None  # type 2C: required where the part may be one of a pair
    header.ImageType = ["ORIGINAL", "PRIMARY", *IMAGE_TYPE_3.get(modality, [])]
    set_attributes(header, dict.fromkeys(EMPTY))
    set_attributes(header, _identity(str(attributes.get("SeriesInstanceUID", ""))))
    set_attributes(header, {"PositionReferenceIndicator": None, "SliceThickness": None})
    set_attributes(header, image_attributes(SOP_CLASSES[modality]))
    if modality != "PT":
        header.PatientPosition = None
    else:
        set_attributes(header, NO_DATE | {"ImageIndex": attributes.get("InstanceNumber", 1)})
        if attributes.get("DecayCorrection", "NONE") != "NONE":
            header.DecayFactor = 1
    given = {key: _items(value) for key, value in attributes.items() if value is not None}
    set_attributes(header, given)
    for keyword in [key for key, value in attributes.items() if value is None and key in header]:
        delattr(header, keyword)
    set_pixels(header, stored)
    save(header, path)


def _items(value: Any) -> Any:
    """Return a value; the items of a sequence, given as mappings, become data sets."""
    if not (isinstance(value, list) and value and isinstance(value[0], Mapping)):
        return value
    items = [Dataset() for _ in value]
    for item, attributes in zip(items, value, strict=True):
        set_attributes(item, attributes)
    return items


def _identity(series: str) -> dict[str, Any]:
    """Return UIDs of a series, its study and its frame of reference; random without a series."""
    series = series or new_uid()
    return {
        "SeriesInstanceUID": series,
        "StudyInstanceUID": new_uid("study", series),
        "FrameOfReferenceUID": new_uid("frame of reference", series),
    }
