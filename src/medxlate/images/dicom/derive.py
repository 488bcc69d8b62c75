"""Translated slices as a DICOM series derived from the one they were translated from.

Each source frame gives one single-frame instance: CT, MR or PET Image Storage by the target's
modality, and Secondary Capture Image Storage for other targets and for sources without a place in
space. Derivation and references follow PS3.3 C.7.6.1 (General Image), C.12.4 (General Reference)
and C.12.1 (SOP Common); codes are from PS3.16 CID 7202, 7005 and 7050. CID 7203
has no code for images made by a generator, so there is no Derivation Code Sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy.typing as npt
from pydicom.dataset import Dataset

from medxlate._version import __version__
from medxlate.images.dicom import phi as privacy
from medxlate.images.dicom.rescale import decimals
from medxlate.images.dicom.source import (
    pixel_measures,
    read_source,
    set_body,
    set_directions,
    set_history,
    set_position,
)
from medxlate.images.dicom.tags import new_uid
from medxlate.images.dicom.write import (
    IMAGE_TYPE_3,
    NO_DATE,
    SECONDARY_CAPTURE,
    SOP_CLASSES,
    image_attributes,
    save,
    set_attributes,
    set_pixels,
)
from medxlate.images.modality import dicom_modality
from medxlate.images.pseudonym import Phi, keyed_hash
from medxlate.images.quiet import without_warnings
from medxlate.images.scan import Frame, Scan

PET_UNITS = {"SUVbw": "GML", "BQML": "BQML"}  # PS3.3 C.8.9.1.1.3
SERIES_OFFSET = 1000
LONGEST = 64  # characters of a value of LO


@dataclass(frozen=True)
class Derivation:
    """How a series was made, and what it may say of the patient.

    Attributes:
        target: Name of the modality it was translated to, such as ``ct``.
        source: Name of the modality it was translated from.
        generator: Hash of the generator's weights.
        phi: Policy for the patient's attributes.
        key: The secret of pseudonyms and replaced UIDs.
        software: Name and version of the program.
        run: What distinguishes this derivation from others: UIDs are the same for the same run,
            key and source.
        when: When it was begun.
    """

    target: str
    source: str
    generator: str
    phi: Phi
    key: bytes
    software: str = f"medxlate {__version__}"
    run: str = field(default_factory=new_uid)
    when: datetime = field(default_factory=datetime.now)


class SeriesWriter:
    """Write the slices translated from one scan as one derived series.

    Args:
        scan: The source, a DICOM scan; its frames are the slices.
        derivation: How the slices were made.

    Attributes:
        modality: The DICOM Modality of what is written.
        sop_class: Its SOP class UID.
        series: Its new SeriesInstanceUID.
    """

    def __init__(self, scan: Scan, derivation: Derivation) -> None:
        self._frames = scan.frames
        self._derivation = derivation
        self._header: tuple[Path, Dataset] | None = None
        self.modality = dicom_modality(derivation.target)
        self._in_space = all(
            None not in (frame.orientation, frame.position, frame.spacing) for frame in scan.frames
        )
        known = self._in_space and self.modality in SOP_CLASSES
        self.sop_class = SOP_CLASSES[self.modality] if known else SECONDARY_CAPTURE
        self._name = f"{scan.name} {scan.files[0].relative}"
        self.series = self._uid("series")

    def write_slice(
        self,
        path: Path,
        n: int,
        stored: npt.NDArray[Any],
        *,
        slope: float = 1.0,
        intercept: float = 0.0,
        unit: str = "",
        window: tuple[float, float] | None = None,
    ) -> None:
        """Write one slice.

        Args:
            path: The file to write.
            n: Which slice of the scan, from 0.
            stored: int16 or uint16, with rows and columns of the source frame.
            slope: From stored to physical values.
            intercept: From stored to physical values; 0 in PET.
            unit: "HU", "SUVbw", "BQML" or "".
            window: Centre and width with which viewers show it first, in physical values.

        Raises:
            ImageError: The source's header cannot be read any more.
        """
        frame = self._frames[n]
        if stored.shape != (frame.rows, frame.columns):
            raise ValueError(f"slice {n} is {stored.shape}, not {(frame.rows, frame.columns)}")
        source = self._source(frame)
        with without_warnings():  # of UIDs that are kept though their form is not right
            header = self._derive(source, n, stored, slope, intercept, unit, window)
            save(header, path)

    def _derive(
        self,
        source: Dataset,
        n: int,
        stored: npt.NDArray[Any],
        slope: float,
        intercept: float,
        unit: str,
        window: tuple[float, float] | None,
    ) -> Dataset:
        frame = self._frames[n]
        header = Dataset()
        header.SOPClassUID, header.SOPInstanceUID = self.sop_class, self._uid("instance", n)
        privacy.set_patient(header, source, self._derivation.phi, self._derivation.key)
        self._set_series(header, source)
        self._set_dates(header)
        self._set_image(header, n)
        self._set_geometry(header, source, frame)
        self._set_values(header, slope, intercept, unit, window)
        self._set_origin(header, source, frame)
        set_history(header, source, frame.file.path)
        set_pixels(header, stored)
        if any(not text.isascii() for text in _texts(header)):
            header.SpecificCharacterSet = "ISO_IR 192"
        return header

    def _uid(self, kind: str, n: int = 0) -> str:
        """Return a UID that a continued translation makes again; nobody can guess its source."""
        instance = self._frames[n].instance
        text = f"{kind} {n} {instance} {self._name} {self._derivation.run}"
        return new_uid(keyed_hash(text, self._derivation.key).hex())

    def _source(self, frame: Frame) -> Dataset:
        """Return the header of a frame's file, read once for all its frames."""
        path = frame.file.path
        if self._header is None or self._header[0] != path:
            self._header = path, read_source(path)
        return self._header[1]

    def _set_series(self, header: Dataset, source: Dataset) -> None:
        """Fill in series and equipment (PS3.3 C.7.3.1, C.7.5.1)."""
        names = f"{self._derivation.target} from {self._derivation.source}"
        number = 0
        if self._derivation.phi != "remove":
            number = privacy.number_of(source, "SeriesNumber", 0)
        header.Modality = self.modality
        header.SeriesInstanceUID = self.series
        header.SeriesNumber = SERIES_OFFSET + max(0, min(number, 10**9))
        header.SeriesDescription = _long_string(f"SYNTHETIC {names}")
        header.Manufacturer = header.ManufacturerModelName = "medxlate"
        header.SoftwareVersions = _long_string(self._derivation.software)
        set_body(header, source)

    def _set_dates(self, header: Dataset) -> None:
        """Say when it was made; without dates of the patient that would be the scan's day."""
        if self._derivation.phi == "keep":
            made = self._derivation.when
            date, time = made.strftime("%Y%m%d"), made.strftime("%H%M%S")
            for event in ("InstanceCreation", "Series", "Content"):
                setattr(header, f"{event}Date", date)
                setattr(header, f"{event}Time", time)
        elif self.sop_class == SOP_CLASSES["PT"]:
            set_attributes(header, NO_DATE)

    def _set_image(self, header: Dataset, n: int) -> None:
        """Fill in General Image (PS3.3 C.7.6.1) and the modality's own image module."""
        for keyword, value in image_attributes(self.sop_class).items():
            if keyword not in header:
                setattr(header, keyword, value)
        is_pet = self.sop_class == SOP_CLASSES["PT"]
        header.ImageType = ["DERIVED", "PRIMARY" if is_pet else "SECONDARY"]  # C.8.9.4.1.1
        if self.sop_class != SECONDARY_CAPTURE:
            header.ImageType += IMAGE_TYPE_3.get(self.modality, [])
        header.InstanceNumber = n + 1
        if is_pet:
            header.NumberOfSlices, header.ImageIndex = len(self._frames), n + 1

    def _set_geometry(self, header: Dataset, source: Dataset, frame: Frame) -> None:
        """Keep the place in space (PS3.3 C.7.6.2, C.7.4.1) or, without one, the pixel spacing."""
        if self.sop_class == SECONDARY_CAPTURE:
            set_directions(header, source)
        if not (self._in_space and frame.position and frame.orientation and frame.spacing):
            del header.FrameOfReferenceUID
            for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
                privacy.copy(header, source, keyword)
            return
        header.PositionReferenceIndicator = None
        set_position(header, source, coded=self.sop_class == SOP_CLASSES["PT"])
        header.ImagePositionPatient = decimals(frame.position)
        header.ImageOrientationPatient = decimals(frame.orientation)
        header.PixelSpacing = decimals(frame.spacing)
        measures = pixel_measures(source, frame.number)
        header.SliceThickness = None
        privacy.copy(header, measures, "SliceThickness")
        privacy.copy(header, measures, "SpacingBetweenSlices")
        if self.modality == "CT":
            privacy.copy(header, source, "GantryDetectorTilt")

    def _set_values(
        self,
        header: Dataset,
        slope: float,
        intercept: float,
        unit: str,
        window: tuple[float, float] | None,
    ) -> None:
        """Say what the stored values mean (PS3.3 C.11.1, C.11.2, C.8.9.1)."""
        is_pet = self.sop_class == SOP_CLASSES["PT"]
        if is_pet and intercept != 0:
            raise ValueError("PET images have no rescale intercept (PS3.3 C.8.9.4)")
        if is_pet:
            header.Units = PET_UNITS.get(unit, "NONE")
            if unit == "SUVbw":
                header.SUVType = "BW"
        if self.sop_class != SOP_CLASSES["MR"] or (slope, intercept) != (1.0, 0.0):
            header.RescaleIntercept, header.RescaleSlope = decimals((intercept, slope))
            if not is_pet:
                header.RescaleType = "HU" if unit == "HU" else "US"
        if window is not None:
            header.WindowCenter, header.WindowWidth = decimals(window)

    def _set_origin(self, header: Dataset, source: Dataset, frame: Frame) -> None:
        """Say that it is synthetic, by what it was made, and from what."""
        made = self._derivation
        text = (
            f"Synthetic image, not acquired: translated from {made.source} to {made.target} by "
            f"{made.software}, generator {made.generator}. For research only."
        )
        header.ContentQualification = "RESEARCH"
        header.DerivationDescription = text[:1024]
        header.ContributingEquipmentSequence = [
            self._equipment(privacy.code("109100", "Synthesizing Equipment"), text)
        ]
        if made.phi != "keep":
            header.ContributingEquipmentSequence.append(
                self._equipment(privacy.code("109104", "De-identifying Equipment"), "")
            )
        named = (privacy.value_of(source, key) for key in ("SOPClassUID", "SOPInstanceUID"))
        if made.phi != "remove" and all(privacy.is_uid(str(uid or "")) for uid in named):
            header.SourceImageSequence = [_reference(source, frame, in_space=self._in_space)]

    def _equipment(self, purpose: Dataset, description: str) -> Dataset:
        item = Dataset()
        item.PurposeOfReferenceCodeSequence = [purpose]
        item.Manufacturer = item.ManufacturerModelName = "medxlate"
        item.SoftwareVersions = _long_string(self._derivation.software)
        if description:
            item.ContributionDescription = description[:1024]
        return item


def _reference(source: Dataset, frame: Frame, *, in_space: bool) -> Dataset:
    """Return the reference to the frame that a slice was translated from."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if privacy.number_of(source, "NumberOfFrames", 1) > 1:
        item.ReferencedFrameNumber = frame.number + 1
    if in_space:
        item.SpatialLocationsPreserved = "YES"
    purpose = privacy.code("121322", "Source image for image processing operation")
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def _long_string(text: str) -> str:
    """Return a text as a value of LO: at most 64 characters, no backslash."""
    return text.replace("\\", "/")[:LONGEST]


def _texts(header: Dataset) -> Iterator[str]:
    """Yield every text of a data set."""
    for element in header.iterall():
        if element.VR in ("LO", "PN", "SH", "ST"):
            yield str(element.value)
