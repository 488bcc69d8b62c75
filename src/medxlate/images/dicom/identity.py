"""The values of a DICOM header that identify a person, a place, an order or a device."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

from pydicom._dicom_dict import DicomDictionary

from medxlate.images.dicom.parse import Elements
from medxlate.images.dicom.tags import tag_of
from medxlate.images.texts import spellings

# PS3.15 Table E.1-1 (Basic Application Level Confidentiality Profile): the attributes that name
# a person, a place, an order or a device. All attributes of the VR PN, DA and DT come on top.
# Free text (descriptions, comments) and sequences but those in ID_SEQUENCES are not covered, nor
# are private attributes.
ID_TEXTS = (
    "PatientID",
    "IssuerOfPatientID",
    "OtherPatientIDs",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientTelecomInformation",
    "MedicalRecordLocator",
    "InsurancePlanIdentification",
    "ResponsibleOrganization",
    "AccessionNumber",
    "StudyID",
    "AdmissionID",
    "ServiceEpisodeID",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "ScheduledProcedureStepID",
    "PerformedProcedureStepID",
    "ReferringPhysicianAddress",
    "ReferringPhysicianTelephoneNumbers",
    "PersonAddress",
    "PersonTelephoneNumbers",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "PerformedStationName",
    "ScheduledStationName",
    "DeviceSerialNumber",
    "GantryID",
    "GeneratorID",
    "DetectorID",
    "PlateID",
    "CassetteID",
)
ID_UIDS = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "SynchronizationFrameOfReferenceUID",
    "IrradiationEventUID",
    "DeviceUID",
    "ConcatenationUID",
    "StorageMediaFileSetUID",
)
ID_SEQUENCES = ("OtherPatientIDsSequence", "RequestAttributesSequence")
PATIENT_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName")


@lru_cache(maxsize=1)
def identifying_tags() -> dict[int, str]:
    """Return the tags of identifying attributes, with their kind: PN, DA, DT or "" for others."""
    kinds = {
        tag: entry[0] for tag, entry in DicomDictionary.items() if entry[0] in ("PN", "DA", "DT")
    }
    return kinds | {tag_of(keyword): "" for keyword in (*ID_TEXTS, *ID_UIDS)}


def identifiers(values: Elements) -> frozenset[str]:
    """Return the values of identifying attributes in the forms in which they may turn up elsewhere.

    Dates also as YYYY-MM-DD, names of patients also part by part. Empty values and what cannot be
    read are left out.
    """
    kinds, names = identifying_tags(), {tag_of(keyword) for keyword in PATIENT_NAMES}
    found: set[str] = set()
    for tag in values.found.keys() & kinds.keys():
        with suppress(Exception):  # a damaged value can break pydicom's conversions in many ways
            for part in values.text_at(tag).split("\\"):
                found |= spellings(part.strip(), kinds[tag], by_part=tag in names)
    for keyword in ID_SEQUENCES:
        with suppress(Exception):
            for item in values.items(keyword):
                found |= identifiers(item)
    return frozenset(found - {""})
