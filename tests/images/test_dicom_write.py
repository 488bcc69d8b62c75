"""Derived DICOM series: valid, in place, and silent about the patient where they should be."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit

from medxlate.base.errors import ImageError
from medxlate.dataset.identifiers import Identifiers
from medxlate.images.dicom.derive import Derivation, SeriesWriter
from medxlate.images.dicom.header import read_header
from medxlate.images.dicom.rescale import Rescale, rescale_for
from medxlate.images.dicom.write import SECONDARY_CAPTURE, SOP_CLASSES, write_dicom
from medxlate.images.modality import dicom_modality
from medxlate.images.pseudonym import PHI, Phi, clean_path, keyed_hash, pseudonym
from medxlate.images.scan import FoundImage, Frame, Scan
from medxlate.scrub.scrub import scrub

KEY = b"a secret"
TILT = np.deg2rad(20)
PLANES = {
    "axial": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    "oblique": (float(np.cos(TILT)), 0.0, float(-np.sin(TILT)), 0.0, 1.0, 0.0),
}
TARGETS = {"ct": "HU", "mri": "", "pet": "SUVbw", "xray": ""}
UID_FORM = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")

NAME = "Lüdenscheidt^Jörgen"
PLANTED: dict[str, Any] = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": NAME,
    "PatientID": "ID-77123456",
    "PatientBirthDate": "19431107",
    "PatientBirthTime": "034512",
    "PatientSex": "M",
    "PatientAge": "068Y",
    "PatientSize": "1.83",
    "PatientWeight": "81.25",
    "IssuerOfPatientID": "Klinikum Nordstadt",
    "StudyDate": "20111213",
    "SeriesDate": "20111214",
    "AcquisitionDate": "20111215",
    "ContentDate": "20111216",
    "StudyTime": "141516.171819",
    "AcquisitionTime": "151617.181920",
    "StudyID": "STUDY4711",
    "AccessionNumber": "ACC0815999",
    "ReferringPhysicianName": "Referrer^Regine",
    "PerformingPhysicianName": "Performer^Paula",
    "OperatorsName": "Operator^Otto",
    "InstitutionName": "Institut Nordstadt",
    "InstitutionAddress": "Hauptgasse 12",
    "StationName": "STATIONXYZ",
    "DeviceSerialNumber": "SERIAL998877",
    "StudyDescription": "Verlauf bei Jörgen",
    "SeriesDescription": "Serie fuer Jörgen",
    "ProtocolName": "Protokoll Regine",
    "PatientComments": "lives in Hauptgasse",
    "ImageComments": "seen by Referrer",
    "DerivationDescription": "derived by Otto",
    "AdditionalPatientHistory": "fell off a horse",
    "BodyPartExamined": "JOERGENSHEAD",
    "PatientPosition": "HFS",
    "RequestedProcedureDescription": "asked for by Regine",
    "SeriesNumber": "7",
}


@dataclass(frozen=True)
class Source:
    """A phantom series."""

    scan: Scan
    folder: Path
    hu: np.ndarray[Any, Any]


def frame_of(path: Path, number: int = 0, **changes: Any) -> Frame:
    """Describe a frame as the reader does."""
    header = pydicom.dcmread(path, stop_before_pixels=True)

    def values(keyword: str) -> Any:
        return tuple(float(value) for value in header[keyword].value) if keyword in header else None

    found = {
        "orientation": values("ImageOrientationPatient"),
        "position": values("ImagePositionPatient"),
        "spacing": values("PixelSpacing"),
    }
    return Frame(
        file=FoundImage(path, path.name, "dicom", False),
        number=number,
        rows=int(header.Rows),
        columns=int(header.Columns),
        instance=str(header.SOPInstanceUID),
        order=(int(header.get("InstanceNumber") or 0), number),
        offset=-1,
        stored="<i2",
        bits=16,
        slope=1.0,
        intercept=0.0,
        inverted=False,
        suv=None,
        tags={},
        **found | changes,
    )


def make_series(
    folder: Path, plane: str, modality: str = "CT", count: int = 4, **attributes: Any
) -> Source:
    """Write a series of [9, 12] slices 2.5 mm apart, with different row and column spacing."""
    direction = np.reshape(PLANES[plane], (2, 3))
    normal = np.cross(direction[0], direction[1])
    random = np.random.default_rng(3)
    hu = random.integers(-1024, 3000, (count, 9, 12)).astype(np.int16)
    frames = []
    for n in range(count):
        position = np.array([-31.25, 17.5, -120.75]) + n * 2.5 * normal
        given: dict[str, Any] = {
            "PatientID": "P1",
            "PatientName": "Phantom^One",
            "SeriesInstanceUID": "1.2.3.77777.1",
            "InstanceNumber": n + 1,
            "PixelSpacing": [0.9, 0.7],
            "SliceThickness": 2,
            "ImageOrientationPatient": list(PLANES[plane]),
            "ImagePositionPatient": [f"{value:.8f}" for value in position],
        }
        if modality != "PT":
            given["PatientPosition"] = "HFS"
        if modality == "CT":
            given |= {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
        path = folder / f"{n}.dcm"
        stored = (hu[n] + 1024).astype(np.uint16)
        write_dicom(path, stored, modality=modality, attributes=given | attributes)
        frames.append(frame_of(path))
    files = tuple(frame.file for frame in frames)
    return Source(Scan("series", "dicom", files, frames=tuple(frames)), folder, hu)


def plant(source: Source) -> None:
    """Put identifying values into every file of a series, wherever there is room for them."""
    for file in source.scan.files:
        header = pydicom.dcmread(file.path)
        for keyword, value in PLANTED.items():
            setattr(header, keyword, value)
        header.add_new((0x0009, 0x0010), "LO", "HIDDEN STORE")
        header.add_new((0x0009, 0x1001), "LO", "Lüdenscheidt private")
        header.add_new((0x6000, 0x0022), "LO", "overlay of Joergen")
        header.add_new((0x6000, 0x3000), "OW", b"overlaybits!")
        request = Dataset()
        request.RequestedProcedureID = "REQ556677"
        request.ReasonForTheRequestedProcedure = "pain of Jörgen"
        header.RequestAttributesSequence = [request]
        header.file_meta.SourceApplicationEntityTitle = "AENORDSTADT"
        header.save_as(file.path)


def derive(
    source: Scan,
    folder: Path,
    target: str = "ct",
    phi: Phi = "pseudonymise",
    values: np.ndarray[Any, Any] | None = None,
) -> list[Path]:
    """Write all slices of a scan; random values where none are given."""
    made = Derivation(target=target, source="mri", generator="ab" * 32, phi=phi, key=KEY)
    writer = SeriesWriter(source, made)
    if values is None:
        shape = (len(source.frames), source.frames[0].rows, source.frames[0].columns)
        values = np.random.default_rng(1).uniform(0, 300, shape)
    rescale = rescale_for(writer.modality, TARGETS[target], 0, 300)
    paths = []
    for n, values_n in enumerate(values):
        path = folder / f"{n:03d}.dcm"
        writer.write_slice(
            path,
            n,
            rescale.store(values_n.astype(np.float32)),
            slope=rescale.slope,
            intercept=rescale.intercept,
            unit=TARGETS[target],
            window=(150, 300),
        )
        paths.append(path)
    return paths


def check_valid(paths: list[Path]) -> None:
    """Let dciodvfy judge every file."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    for path in paths:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        errors = [line for line in done.stderr.splitlines() if "Error" in line]
        assert not errors
        assert "Image" in done.stderr  # it recognised the IOD


def to_nifti(folder: Path, out: Path) -> Any:
    """Let dcm2niix convert a folder that holds one series."""
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    out.mkdir()
    command = ["dcm2niix", "-b", "n", "-z", "n", "-f", "image", "-o", out, folder]
    subprocess.run(command, capture_output=True, check=True)
    (found,) = out.glob("*.nii")
    return nibabel.load(found)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("phi", PHI)
def test_phantom_series_are_valid(target: str, phi: Phi, tmp_path: Path) -> None:
    for plane, modality in (("axial", "CT"), ("oblique", "MR")):
        source = make_series(tmp_path / plane, plane, modality, count=2)
        check_valid(derive(source.scan, tmp_path / "out" / plane, target, phi))
    plant(source)
    check_valid(derive(source.scan, tmp_path / "planted", target, phi))


@pytest.mark.parametrize("target", TARGETS)
def test_real_slices_are_valid(
    target: str, real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    paths = sorted((real_data("chest-ct") / "dicom_dir").glob("*.dcm"))[::20]
    for path in paths:
        frame = frame_of(path)
        scan = Scan(path.name, "dicom", (frame.file,), frames=(frame,))
        header = pydicom.dcmread(path, stop_before_pixels=True)
        keys = ("PatientID", "AccessionNumber", "StudyDate", "StudyTime", "SeriesInstanceUID")
        for phi in PHI:
            written = derive(scan, tmp_path / path.stem / phi, target, phi)
            check_valid(written)
            content = written[0].read_bytes()
            found = [key for key in keys if str(header[key].value).encode() in content]
            assert not found or phi == "keep"


@pytest.mark.parametrize("modality", SOP_CLASSES)
def test_phantoms_themselves_are_valid(modality: str, tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "oblique", modality, count=2)
    check_valid([file.path for file in source.scan.files])
    studies = {pydicom.dcmread(file.path).StudyInstanceUID for file in source.scan.files}
    assert len(studies) == 1


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("target", ["ct", "mri", "pet"])
def test_dcm2niix_sees_the_same_geometry(plane: str, target: str, tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", plane)
    derive(source.scan, tmp_path / "out", target, values=source.hu)
    before = to_nifti(source.folder, tmp_path / "before")
    after = to_nifti(tmp_path / "out", tmp_path / "after")
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-4)
    assert after.shape == before.shape
    if target == "ct":
        np.testing.assert_array_equal(after.get_fdata(), before.get_fdata())


def test_dcm2niix_sees_the_real_geometry(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    for path in sorted((real_data("chest-ct") / "dicom_dir").glob("*.dcm"))[::40]:
        folder = tmp_path / path.stem
        (folder / "source").mkdir(parents=True)
        shutil.copy(path, folder / "source")
        frame = frame_of(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path)
        hu = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
        scan = Scan("one", "dicom", (frame.file,), frames=(frame,))
        derive(scan, folder / "out", values=hu[None])
        before = to_nifti(folder / "source", folder / "before")
        after = to_nifti(folder / "out", folder / "after")
        np.testing.assert_allclose(after.affine, before.affine, atol=1e-4)
        np.testing.assert_array_equal(after.get_fdata(), before.get_fdata())


def test_stored_values_are_hu(tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial")
    for path, expected in zip(
        derive(source.scan, tmp_path / "out", values=source.hu), source.hu, strict=True
    ):
        header = pydicom.dcmread(path)
        np.testing.assert_array_equal(header.pixel_array, expected)
        assert (header.RescaleSlope, header.RescaleIntercept, header.RescaleType) == (1, 0, "HU")
        assert header.Modality == "CT"
        assert header.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert header.SeriesDescription.startswith("SYNTHETIC")
        assert header.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_a_slice_says_from_what_it_was_made(tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "oblique", SpacingBetweenSlices=2.5)
    for n, path in enumerate(derive(source.scan, tmp_path / "out")):
        header = pydicom.dcmread(path)
        original = pydicom.dcmread(source.scan.files[n].path)
        (item,) = header.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == original.SOPInstanceUID
        assert item.ReferencedSOPClassUID == original.SOPClassUID
        assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        assert "ab" * 32 in header.DerivationDescription
        assert header.ContributingEquipmentSequence[0].Manufacturer == "medxlate"
        assert header.InstanceNumber == n + 1
        assert header.SeriesNumber != original.SeriesNumber
        for keyword in (
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "SliceThickness",
            "SpacingBetweenSlices",
            "PatientPosition",
            "FrameOfReferenceUID",
            "StudyInstanceUID",
        ):
            assert header[keyword].value == original[keyword].value


def test_uids_are_new_valid_and_unique(tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial")
    seen: set[str] = set()
    series = set()
    for run, phi in enumerate((*PHI, "keep")):
        for path in derive(source.scan, tmp_path / str(run), phi=phi):  # type: ignore[arg-type]
            header = pydicom.dcmread(path)
            assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
            assert header.SOPInstanceUID not in seen
            seen.add(header.SOPInstanceUID)
            series.add(header.SeriesInstanceUID)
            for element in header.iterall():
                if element.VR == "UI":
                    assert UID_FORM.fullmatch(element.value)
                    assert len(element.value) <= 64
    originals = {pydicom.dcmread(file.path).SOPInstanceUID for file in source.scan.files}
    assert not seen & originals
    assert len(series) == 4


def traces(header: Dataset, allowed: set[str]) -> Iterator[bytes]:
    """Yield what a header says in words, dates and UIDs, as bytes in both encodings."""
    for element in header.iterall():
        if element.VR not in ("LO", "SH", "PN", "LT", "ST", "UT", "DA", "TM", "UI", "AE", "OW"):
            continue
        if element.tag == 0x7FE00010:
            continue
        values = element.value if isinstance(element.value, list) else [element.value]
        for value in values:
            if isinstance(value, bytes):
                yield value
                continue
            for part in {str(value), *re.split(r"[\^ ]", str(value))}:
                if len(part) >= 4 and part not in allowed:
                    yield part.encode("latin-1")
                    yield part.encode()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("phi", ["pseudonymise", "remove"])
def test_nothing_that_identifies_gets_through(target: str, phi: Phi, tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial", "MR", count=2)
    plant(source)
    paths = derive(source.scan, tmp_path / "out", target, phi)
    for file, path in zip(source.scan.files, paths, strict=True):
        original = pydicom.dcmread(file.path)
        allowed = {original.SOPClassUID, "from", "derived"}
        if phi == "pseudonymise":
            allowed |= {
                original.SOPInstanceUID,
                original.StudyInstanceUID,
                original.FrameOfReferenceUID,
            }
        content = path.read_bytes()
        found = [trace for trace in traces(original, allowed) if trace in content]
        assert not found
        assert b"AENORDSTADT" not in content
        assert b"JOERGENSHEAD" not in content
        header = pydicom.dcmread(path)
        assert not [element for element in header.iterall() if element.tag.is_private]
        assert not header.group_dataset(0x6000)


def test_pseudonymise(tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial", count=1)
    plant(source)
    (path,) = derive(source.scan, tmp_path / "out", phi="pseudonymise")
    header = pydicom.dcmread(path)
    assert header.PatientID == header.PatientName == pseudonym("ID-77123456", KEY)
    assert (header.PatientSex, header.PatientAge) == ("M", "068Y")
    assert header.PatientIdentityRemoved == "YES"
    codes = [item.CodeValue for item in header.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113108", "113110"]
    dates = [element for element in header.iterall() if element.VR in ("DA", "TM", "DT")]
    assert not [element for element in dates if element.value]


def test_remove(tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial", count=2)
    plant(source)
    headers = [
        pydicom.dcmread(path) for path in derive(source.scan, tmp_path / "out", phi="remove")
    ]
    original = pydicom.dcmread(source.scan.files[0].path)
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert headers[0][keyword].value == headers[1][keyword].value
        assert headers[0][keyword].value != original[keyword].value
    assert headers[0].StudyInstanceUID != headers[0].FrameOfReferenceUID
    for header in headers:
        assert header.PatientID == header.PatientName == "SYNTHETIC"
        assert not header.PatientSex
        assert "PatientAge" not in header
        assert "SourceImageSequence" not in header


def test_keep(tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial", count=1)
    plant(source)
    (path,) = derive(source.scan, tmp_path / "out", phi="keep")
    header = pydicom.dcmread(path)
    assert header.PatientName == NAME
    assert header.SpecificCharacterSet == "ISO_IR 192"
    for keyword in (
        *("PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight"),
        *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
        *("StudyDescription", "AcquisitionDate"),
    ):
        assert header[keyword].value == PLANTED[keyword] or str(header[keyword].value) == str(
            PLANTED[keyword]
        )
    assert header.SeriesNumber == 1007
    assert "PatientIdentityRemoved" not in header
    assert "PatientComments" not in header


def test_keep_leaves_values_of_a_wrong_form_out(tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial", count=1)
    header = pydicom.dcmread(source.scan.files[0].path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header.PatientAge = "68"
        header.StudyDate = "2011-12-13"
        header.PatientID = "P1\x01"
        header.save_as(source.scan.files[0].path)
    (path,) = derive(source.scan, tmp_path / "out", phi="keep")
    check_valid([path])
    derived = pydicom.dcmread(path)
    assert "PatientAge" not in derived
    assert not derived.StudyDate
    assert not derived.PatientID


def test_patients_without_id_differ(tmp_path: Path) -> None:
    names = set()
    for patient in ("1.2.3.1", "1.2.3.2"):
        folder = tmp_path / patient
        source = make_series(
            folder / "image", "axial", count=1, PatientID=None, SeriesInstanceUID=patient
        )
        (path,) = derive(source.scan, folder / "out")
        names.add(str(pydicom.dcmread(path).PatientID))
    assert len(names) == 2


def test_multiframe_becomes_single_frames(tmp_path: Path) -> None:
    path = tmp_path / "enhanced.dcm"
    save_enhanced(path, thickness=(1.5, 3.5))
    frames = tuple(
        frame_of(
            path,
            number,
            orientation=PLANES["axial"],
            position=(1.0, 2.0, 10.0 * number),
            spacing=(0.5, 0.25),
        )
        for number in (0, 1)
    )
    scan = Scan("enhanced", "dicom", (frames[0].file,), frames=frames)
    written = derive(scan, tmp_path / "out", "mri")
    check_valid(written)
    for number, one in enumerate(written):
        header = pydicom.dcmread(one)
        assert header.SOPClassUID == SOP_CLASSES["MR"]
        assert header.ImagePositionPatient == [1, 2, 10 * number]
        assert header.PixelSpacing == [0.5, 0.25]
        assert header.SliceThickness == (1.5, 3.5)[number]
        assert "NumberOfFrames" not in header
        assert header.SourceImageSequence[0].ReferencedFrameNumber == number + 1


def save_enhanced(path: Path, thickness: tuple[float, float]) -> None:
    """Write a multi-frame file with functional groups; only its header matters."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.4.1")
    header.SOPInstanceUID = UID("1.2.3.4.5")
    header.PatientID = "P1"
    header.Rows, header.Columns, header.NumberOfFrames = 4, 5, 2
    groups = []
    for value in thickness:
        measures, group = Dataset(), Dataset()
        measures.SliceThickness, measures.PixelSpacing = value, [0.5, 0.25]
        group.PixelMeasuresSequence = [measures]
        groups.append(group)
    header.PerFrameFunctionalGroupsSequence = groups
    header.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("target", TARGETS)
def test_without_geometry_it_is_a_secondary_capture(target: str, tmp_path: Path) -> None:
    path = tmp_path / "cr.dcm"
    attributes = {
        "ImagerPixelSpacing": [0.2, 0.2],
        "PatientOrientation": ["L", "F"],
        "BodyPartExamined": "CHEST",
        "BurnedInAnnotation": "YES",
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "12.5",
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    write_dicom(path, np.zeros((6, 7), np.uint16), modality="CT", attributes=attributes)
    frame = frame_of(path, spacing=(0.2, 0.2))
    written = derive(Scan("cr", "dicom", (frame.file,), frames=(frame,)), tmp_path / "out", target)
    check_valid(written)
    header = pydicom.dcmread(written[0])
    assert header.SOPClassUID == SECONDARY_CAPTURE
    assert header.Modality == {"ct": "CT", "mri": "MR", "pet": "PT", "xray": "DX"}[target]
    assert header.PatientOrientation == ["L", "F"]
    assert header.ImagerPixelSpacing == [0.2, 0.2]
    assert header.BurnedInAnnotation == "YES"
    assert (header.LossyImageCompression, header.LossyImageCompressionRatio) == ("01", 12.5)


def test_lossy_compression_is_not_forgotten(tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial", count=1)
    path = source.scan.files[0].path
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    header.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    header["PixelData"].is_undefined_length = True
    header.save_as(path)
    (derived,) = derive(source.scan, tmp_path / "out")
    check_valid([derived])
    found = pydicom.dcmread(derived)
    assert (found.LossyImageCompression, found.LossyImageCompressionMethod) == (
        "01",
        "ISO_10918_1",
    )


@pytest.mark.parametrize("phi", PHI)
def test_coded_strings_are_no_way_for_words(phi: Phi, tmp_path: Path) -> None:
    planted = {
        "PatientSex": "JANE DOE",
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": ["12.5", "2"],
        "LossyImageCompressionMethod": ["ISO_15444_1", "WARD_3"],
        "PatientPosition": "DOE",
    }
    source = make_series(tmp_path / "image", "axial", count=1)
    path = source.scan.files[0].path
    header = pydicom.dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in planted.items():
            setattr(header, keyword, value)
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "DOE JANE"
        header.StudyInstanceUID = "DOE JANE"
        header.save_as(path, enforce_file_format=False)
    (written,) = derive(source.scan, tmp_path / "out", phi=phi)
    content = written.read_bytes()
    assert not [word for word in (b"DOE", b"JANE", b"WARD") if word in content]
    derived = pydicom.dcmread(written)
    assert not derived.PatientSex
    assert derived.LossyImageCompression == "01"
    assert "LossyImageCompressionMethod" not in derived
    assert "SourceImageSequence" not in derived


@pytest.mark.parametrize(
    ("phi", "kinds"),
    [
        ("keep", {"a UID", "an ID or name", "a date"}),
        ("pseudonymise", {"a UID"}),
        ("remove", set()),
    ],
)
def test_what_scrub_says_of_a_derived_series(phi: Phi, kinds: set[str], tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial", count=2)
    plant(source)
    values = [read_header(file).identifiers for file in source.scan.files]
    (tmp_path / "data" / "ct").mkdir(parents=True)
    (tmp_path / "data" / "ct" / "modality.json").write_text("{}")
    Identifiers(frozenset().union(*values)).save(tmp_path / "data" / "ct")
    derive(source.scan, tmp_path / "out", phi=phi)
    result = scrub(tmp_path / "out", data=tmp_path / "data")
    assert result.values > 20
    assert {finding.kind for finding in result.found} == kinds


@pytest.mark.parametrize("value", ["M", "F", "O"])
def test_every_term_of_sex_is_kept(value: str, tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial", count=1, PatientSex=value)
    (path,) = derive(source.scan, tmp_path / "out")
    assert pydicom.dcmread(path).PatientSex == value


def test_pet_keeps_the_position_as_codes(tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial", count=2)
    for n, path in enumerate(derive(source.scan, tmp_path / "out", "pet")):
        header = pydicom.dcmread(path)
        (lying,) = header.PatientOrientationCodeSequence
        assert lying.PatientOrientationModifierCodeSequence[0].CodeMeaning == "supine"
        assert header.PatientGantryRelationshipCodeSequence[0].CodeMeaning == "headfirst"
        assert (header.Units, header.SUVType) == ("GML", "BW")
        assert (header.NumberOfSlices, header.ImageIndex) == (2, n + 1)


def test_misuse_is_refused(tmp_path: Path) -> None:
    source = make_series(tmp_path / "image", "axial", count=1)
    writer = SeriesWriter(source.scan, Derivation("pet", "ct", "0", "keep", KEY))
    out = tmp_path / "out.dcm"
    with pytest.raises(ValueError, match="intercept"):
        writer.write_slice(out, 0, source.hu[0], intercept=-1.0)
    with pytest.raises(ValueError, match="slice 0"):
        writer.write_slice(out, 0, source.hu[0, :5])
    with pytest.raises(ValueError, match="int16"):
        writer.write_slice(out, 0, source.hu[0].astype(np.float32))
    source.scan.files[0].path.write_bytes(b"no image")
    writer = SeriesWriter(source.scan, Derivation("pet", "ct", "0", "keep", KEY))
    with pytest.raises(ImageError, match="header") as caught:
        writer.write_slice(out, 0, source.hu[0])
    assert str(tmp_path) not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        *(("ct", "CT"), ("CT", "CT"), ("cbct", "CT"), ("mri", "MR"), ("mr", "MR"), ("T1w", "MR")),
        *(("t2-flair", "MR"), ("flair", "MR"), ("brain_mri", "MR"), ("pet", "PT"), ("pt", "PT")),
        *(("xray", "DX"), ("X-ray", "DX"), ("cr", "CR"), ("dx", "DX"), ("us", "US")),
        *(("contrast", "OT"), ("histology", "OT"), ("", "OT")),
    ],
)
def test_dicom_modality(name: str, modality: str) -> None:
    assert dicom_modality(name) == modality


def test_rescale() -> None:
    assert rescale_for("CT", "HU", -160, 240) == Rescale(1, 0, np.int16)
    assert rescale_for("MR", "", 0, 2000) == Rescale(1, 0, np.int16)
    pet = rescale_for("PT", "SUVbw", 0, 32767 / 4)
    assert pet == Rescale(0.25, 0, np.int16)
    assert pet.store(np.array([0.5, 1.1, 1e9])).tolist() == [2, 4, 32767]
    other = rescale_for("MR", "", -1, 1)
    values = np.linspace(-1, 1, 101)
    back = other.store(values) * other.slope + other.intercept
    np.testing.assert_allclose(back, values, atol=other.slope / 2 * 1.001)
    assert rescale_for("OT", "", 3, 3).store(np.array([3.0])).tolist() == [0]


def test_pseudonym_is_hmac_sha256() -> None:
    digest = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"  # RFC 4231, 4.3
    assert keyed_hash("what do ya want for nothing?", b"Jefe").hex() == digest
    assert pseudonym("what do ya want for nothing?", b"Jefe") == "p5bdcc146bf60754e"


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("TCGA-17-Z059/ct/001.dcm", "P/ct/001.dcm"),
        ("tcga_17_z059/ct/001.dcm", "P/ct/001.dcm"),
        ("a/TCGA17Z059_CT.dcm", "a/P_CT.dcm"),
        ("doe jonathan/b.dcm", "P/b.dcm"),
        ("scans of Jonathan/1986-08-16/b.dcm", "scans of P/P/b.dcm"),
        ("19860816.dcm", "P.dcm"),
        ("mu\u0308ller/001.dcm", "P/001.dcm"),
        ("Doe/001.dcm", "P/001.dcm"),
        ("scan_doe-1/Wu.dcm", "scan_P-1/P.dcm"),
        ("doer/slices/Wux.dcm", "doer/slices/Wux.dcm"),
        ("ct/001.dcm", "ct/001.dcm"),
    ],
)
def test_clean_path(path: str, cleaned: str) -> None:
    identifiers = frozenset(
        {"TCGA-17-Z059", "Doe^Jonathan", "19860816", "Müller", "001", "Wu", "CT", ""}
    )
    assert clean_path(path, identifiers, "P", "pseudonymise") == cleaned
    assert clean_path(path, identifiers, "P", "keep") == path
    assert clean_path(path, identifiers, "x1", "remove") == cleaned.replace("P", "x1")
    assert clean_path(path, frozenset(), "P", "remove") == path
