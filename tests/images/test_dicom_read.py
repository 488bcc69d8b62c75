"""DICOM headers, pixels and series against pydicom itself and against grids built here."""

from __future__ import annotations

import contextlib
import pickle
import random
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_modality_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

import crashing
from conftest import noise, save_dicom, truncate
from medxlate.base.errors import ImageError, UsageError
from medxlate.images.dicom import decoder, parse
from medxlate.images.dicom.header import Header, RefusedError, read_header
from medxlate.images.dicom.pixels import Codestream, read_codestream, read_frame
from medxlate.images.dicom.series import Grouped, group_series
from medxlate.images.dicom.tags import check_keyword, new_uid
from medxlate.images.scan import FoundImage
from medxlate.images.stack import FloatArray

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
SUITES = sorted(path for path in SAMPLES.rglob("*") if path.is_file())
Array = np.ndarray[Any, Any]


def found(path: Path, relative: str = "") -> FoundImage:
    return FoundImage(path, relative or path.name, "dicom", False)


def header(path: Path, *tags: str) -> Header:
    return read_header(found(path), tags)


def frames(path: Path) -> list[FloatArray]:
    return [read_frame(frame) for frame in header(path).frames]


def refusal(path: Path) -> str:
    """Read everything; return why that fails, without the file's name or values."""
    with pytest.raises(ImageError) as problem:
        frames(path)
    text = str(problem.value)
    assert str(path) not in text
    assert "P1" not in text
    return text


def edit(path: Path, change: Callable[[Dataset], None]) -> Path:
    values = pydicom.dcmread(path)
    change(values)
    values.save_as(path, enforce_file_format=True)
    return path


def by_pydicom(path: Path) -> list[Array]:
    """Return the physical values of each frame; NaN where the header says that it is padding."""
    values = pydicom.dcmread(path, force=True)
    pixels = apply_modality_lut(values.pixel_array, values)
    if "PixelPaddingValue" in values:
        pixels = np.where(values.pixel_array == values.PixelPaddingValue, np.nan, pixels)
    return list(pixels if pixels.ndim == 3 else pixels[None])


# ---- pydicom's own test files


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.relative_to(SAMPLES).as_posix())
def test_every_file_of_pydicom_is_read_as_pydicom_does_or_refused(path: Path) -> None:
    try:
        head = header(path)
        pixels = [read_frame(frame) for frame in head.frames]
    except ImageError:
        assert path.name not in refusal(path)
        return
    expected = by_pydicom(path)
    assert len(pixels) == len(expected)
    for frame, got, truth in zip(head.frames, pixels, expected, strict=True):
        assert got.dtype == np.float32
        if frame.inverted:
            truth = sum(head.full_range) - truth
        np.testing.assert_allclose(got, truth, rtol=1e-6)


def test_how_many_of_pydicoms_files_are_images() -> None:
    read = 0
    for path in SUITES:
        with contextlib.suppress(ImageError):
            header(path)
            read += 1
    assert read >= 55  # so that the test above does not pass by refusing everything


# ---- stored values


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int8, np.uint8])
@pytest.mark.parametrize("implicit", [False, True])
def test_plain_pixels_of_every_type(tmp_path: Path, kind: Any, implicit: bool) -> None:
    stored = noise(9, 13, dtype=kind)
    path = save_dicom(tmp_path / "a.dcm", stored, RescaleSlope="2.5", RescaleIntercept="-3.5")
    if implicit:
        values = pydicom.dcmread(path)
        values["PixelData"].VR = "OW"
        values.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        values.save_as(path, implicit_vr=True, little_endian=True)
    head = header(path)
    assert head.frames[0].offset > 0
    np.testing.assert_array_equal(read_frame(head.frames[0]), stored * 2.5 - 3.5)
    info = np.iinfo(kind)
    assert head.full_range == (info.min * 2.5 - 3.5, info.max * 2.5 - 3.5)


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_bits_above_those_stored_are_ignored(tmp_path: Path, kind: Any) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16, dtype=kind), BitsStored=12, HighBit=11)
    (pixels,) = frames(path)
    np.testing.assert_array_equal(pixels, by_pydicom(path)[0])
    low, high = header(path).full_range
    assert low <= pixels.min() < pixels.max() <= high
    assert high - low == 4095


def test_a_high_bit_elsewhere_is_refused(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16, dtype=np.uint16), BitsStored=12, HighBit=15)
    assert "HighBit" in refusal(path)


def test_hounsfield_units(tmp_path: Path) -> None:
    stored = noise(8, 8, dtype=np.int16)
    assert header(save_dicom(tmp_path / "a.dcm", stored)).unit == "HU"
    assert header(save_dicom(tmp_path / "b.dcm", stored, RescaleType="HU")).unit == "HU"
    assert header(save_dicom(tmp_path / "c.dcm", stored, RescaleType="OD")).unit == ""
    assert header(save_dicom(tmp_path / "d.dcm", stored, Modality="MR")).unit == ""
    assert header(save_dicom(tmp_path / "e.dcm", stored, RescaleIntercept=None)).unit == ""


def test_monochrome1_is_turned_but_for_hounsfield_units(tmp_path: Path) -> None:
    stored = noise(8, 8, dtype=np.uint16)
    turned = {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": "0"}
    (pixels,) = frames(save_dicom(tmp_path / "a.dcm", stored, Modality="CR", **turned))
    np.testing.assert_array_equal(pixels, 65535 - stored.astype(np.float32))
    (pixels,) = frames(save_dicom(tmp_path / "b.dcm", stored, **turned))
    np.testing.assert_array_equal(pixels, stored)


@pytest.mark.parametrize("slope", ["0", "nan", "1e400", "2,5"])
@pytest.mark.filterwarnings("ignore")
def test_a_slope_that_scales_nothing_is_refused(tmp_path: Path, slope: str) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(8, 8, dtype=np.int16), RescaleSlope="7.75")
    path.write_bytes(path.read_bytes().replace(b"7.75", slope.ljust(4)[:4].encode()))
    if slope == "1e400":
        path = save_dicom(tmp_path / "b.dcm", noise(8, 8, dtype=np.int16), RescaleSlope="1e38")
        assert "finite" in refusal(path)
    else:
        assert "RescaleSlope" in refusal(path)


def test_modality_lut(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = [int(value) ** 2 for value in range(256)]
    table.ModalityLUTType = "US"
    for name in ("LUTDescriptor", "LUTData"):
        table[name].VR = "US"
    changes = {"ModalityLUTSequence": Sequence([table]), "RescaleSlope": None}
    stored = noise(8, 8)
    path = save_dicom(tmp_path / "a.dcm", stored, RescaleIntercept=None, **changes)
    np.testing.assert_array_equal(frames(path)[0], stored.astype(np.float32) ** 2)
    assert header(path).full_range == (0, 65535)
    assert header(path).unit == ""


# ---- transfer syntaxes


def encode(path: Path, syntax: str) -> Path:
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    return path


def smooth(*shape: int, dtype: Any, top: int) -> Array:
    rows, columns = np.mgrid[: shape[-2], : shape[-1]]
    picture = (np.sin(rows / 9) * np.cos(columns / 7) + 1) / 2 * top
    return np.broadcast_to(picture, shape).astype(dtype).copy()


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("kind", [np.uint16, np.uint8])
def test_lossless_compression(tmp_path: Path, syntax: str, kind: Any) -> None:
    stored = smooth(40, 24, dtype=kind, top=np.iinfo(kind).max)
    path = encode(save_dicom(tmp_path / "a.dcm", stored, RescaleIntercept="0"), syntax)
    assert header(path).frames[0].offset == -1
    np.testing.assert_array_equal(frames(path)[0], stored)


def test_jpeg_baseline(tmp_path: Path) -> None:
    stored = smooth(40, 24, dtype=np.uint8, top=255)
    path = encode(save_dicom(tmp_path / "a.dcm", stored, RescaleIntercept="0"), JPEGBaseline8Bit)
    np.testing.assert_allclose(frames(path)[0], stored, atol=4)


def test_run_lengths_of_several_frames(tmp_path: Path) -> None:
    stored = (
        smooth(5, 16, 24, dtype=np.int16, top=900) + np.arange(5, dtype=np.int16)[:, None, None]
    )
    path = save_dicom(tmp_path / "a.dcm", stored, RescaleIntercept="0")
    edit(path, lambda values: values.compress(RLELossless))
    np.testing.assert_array_equal(frames(path), stored)


def test_big_endian_and_deflated(tmp_path: Path) -> None:
    stored = noise(12, 8, dtype=np.int16)
    path = save_dicom(tmp_path / "a.dcm", stored, RescaleIntercept="0")
    values = pydicom.dcmread(path)
    values.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    values.save_as(tmp_path / "deflated.dcm", enforce_file_format=True)
    values = pydicom.dcmread(path)
    values.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    values.PixelData = stored.byteswap().tobytes()
    pydicom.dcmwrite(
        tmp_path / "big.dcm",
        values,
        implicit_vr=False,
        little_endian=False,
        enforce_file_format=True,
    )
    for name in ("deflated.dcm", "big.dcm"):
        head = header(tmp_path / name)
        assert head.frames[0].offset == -1
        np.testing.assert_array_equal(read_frame(head.frames[0]), stored)


@pytest.mark.parametrize("implicit", [False, True])
def test_without_preamble_and_meta_information(tmp_path: Path, implicit: bool) -> None:
    stored = noise(12, 8, dtype=np.int16)
    values = pydicom.dcmread(save_dicom(tmp_path / "a.dcm", stored, RescaleIntercept="0"))
    bare = Dataset()
    bare.update({element.tag: element for element in values})
    bare["PixelData"].VR = "OW"
    bare.save_as(tmp_path / "b.dcm", implicit_vr=implicit, little_endian=True)
    np.testing.assert_array_equal(frames(tmp_path / "b.dcm")[0], stored)


def test_a_header_longer_than_what_is_read_at_first(tmp_path: Path) -> None:
    stored = noise(12, 8, dtype=np.int16)
    path = save_dicom(tmp_path / "a.dcm", stored, RescaleIntercept="0")

    def lengthen(values: Dataset) -> None:
        values.add_new(0x00091001, "OB", bytes(3 * parse.HEAD))

    head = header(edit(path, lengthen), "PatientAge")
    assert head.frames[0].offset > 3 * parse.HEAD
    assert head.frames[0].tags == {"PatientAge": "060Y"}
    np.testing.assert_array_equal(read_frame(head.frames[0]), stored)


# ---- damage


def test_truncated_pixels(tmp_path: Path) -> None:
    path = truncate(save_dicom(tmp_path / "a.dcm", noise(64, 64, dtype=np.int16)))
    with pytest.raises(ImageError, match="truncated"):
        header(path)


def test_pixels_shorter_than_rows_and_columns(tmp_path: Path) -> None:
    path = edit(
        save_dicom(tmp_path / "a.dcm", noise(16, 16, dtype=np.int16)),
        lambda values: setattr(values, "Rows", 17),
    )
    assert "truncated" in refusal(path)


def test_pixels_longer_than_declared_are_read(tmp_path: Path) -> None:
    stored = noise(16, 16, dtype=np.int16)
    path = save_dicom(tmp_path / "a.dcm", stored, RescaleIntercept="0")
    edit(path, lambda values: setattr(values, "PixelData", stored.tobytes() + bytes(999) + b"\1"))
    np.testing.assert_array_equal(frames(path)[0], stored)


def test_truncated_after_the_header_was_read(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(64, 64, dtype=np.int16))
    frame = header(path).frames[0]
    truncate(path)
    with pytest.raises(ImageError, match="truncated"):
        read_frame(frame)
    path.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        read_frame(frame)


@pytest.mark.parametrize("sides", [(65535, 65535), (100, 65535), (3, 100), (0, 0)])
def test_sizes_that_are_not_read(tmp_path: Path, sides: tuple[int, int]) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16, dtype=np.int16))
    edit(path, lambda values: values.update({"Rows": sides[0], "Columns": sides[1]}))
    assert "pixels" in refusal(path)


@pytest.mark.parametrize("count", ["2000000000", "40000", "-3"])
def test_numbers_of_frames_that_are_not_there(tmp_path: Path, count: str) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16, dtype=np.int16), NumberOfFrames=count)
    if count == "-3":
        assert len(frames(path)) == 1
    else:
        assert "frames" in refusal(path)


def test_a_volume_larger_than_the_limit(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16, dtype=np.int16), NumberOfFrames="30000")
    edit(path, lambda values: values.update({"Rows": 512, "Columns": 512}))
    path.write_bytes(path.read_bytes() + bytes(30000))
    assert "GiB" in refusal(path)


def test_a_deflate_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16, dtype=np.int16))
    values = pydicom.dcmread(path)
    values.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    values.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    meta = 132 + 12 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    path.write_bytes(content[:meta] + bomb)
    assert len(bomb) < 1 << 20
    monkeypatch.setattr(zlib, "decompress", lambda *_: pytest.fail("the bomb went off"))
    assert "256 MiB" in refusal(path)


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated", "PixelRepresentation"])
def test_indispensable_attributes(tmp_path: Path, keyword: str) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16, dtype=np.int16))
    assert keyword in refusal(edit(path, lambda values: delattr(values, keyword)))


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16, dtype=np.int16), PixelSpacing=[1, 1])
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(8):
        content[chance.randrange(132, len(content) - 512)] = chance.randrange(256)
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        frames(path)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_pixels_of_another_size(tmp_path: Path, syntax: str) -> None:
    stored = smooth(40, 24, dtype=np.uint16, top=4000)
    path = encode(save_dicom(tmp_path / "a.dcm", stored), syntax)
    edit(path, lambda values: values.update({"Rows": 24, "Columns": 24}))
    assert "24x40" in refusal(path)


def test_run_lengths_that_do_not_fill_the_image(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16, dtype=np.int16))
    edit(path, lambda values: values.compress(RLELossless))
    edit(path, lambda values: setattr(values, "Rows", 17))
    assert refusal(path)


def test_a_depth_at_which_the_decoder_would_end_the_process(tmp_path: Path) -> None:
    stored = smooth(40, 24, dtype=np.uint16, top=4000)
    path = encode(save_dicom(tmp_path / "a.dcm", stored), JPEGLSLossless)
    content = path.read_bytes()
    at = content.index(b"\xff\xf7\0\x0b") + 4
    path.write_bytes(content[:at] + b"\xa3" + content[at + 1 :])
    assert "163 bits" in refusal(path)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless])
def test_damaged_compressed_pixels(tmp_path: Path, syntax: str) -> None:
    stored = smooth(40, 24, dtype=np.uint16, top=4000)
    path = encode(save_dicom(tmp_path / "a.dcm", stored), syntax)
    edit(path, lambda values: setattr(values, "PixelData", encapsulate([bytes(100)])))
    assert refusal(path)


def test_damage_that_ends_the_decoder(tmp_path: Path) -> None:
    stored = smooth(40, 24, dtype=np.uint16, top=4000)
    good = encode(save_dicom(tmp_path / "a.dcm", stored), JPEGLosslessSV1)
    content = good.read_bytes()
    start = content.index(b"\xff\xd8")
    chance = random.Random(0)
    for number in range(60):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[chance.randrange(start + 20, start + 120)] = chance.randrange(256)
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(damaged)
        with contextlib.suppress(ImageError):
            frames(path)
    np.testing.assert_array_equal(frames(good)[0], stored - 1024.0)


@pytest.mark.parametrize("behaviour", [crashing.abort, crashing.hang])
def test_a_decoder_that_ends_or_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: Callable[..., None]
) -> None:
    stored = smooth(40, 24, dtype=np.uint16, top=4000)
    path = encode(save_dicom(tmp_path / "a.dcm", stored), JPEGLSLossless)
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_decode", behaviour)
        patch.setattr(decoder, "TIME_LIMIT", 5)
        assert "decoded" in refusal(path)
    np.testing.assert_array_equal(frames(path)[0], stored - 1024.0)


def test_headers_of_codestreams() -> None:
    jpeg = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc3\0\x0b\x0c\x01\x02\x03\x04\x01\1\x11\0"
    assert read_codestream(jpeg, jpeg2000=False) == Codestream(0x102, 0x304, 1, 12)
    for stream in (b"", b"\xff\xd8", jpeg[:12], bytes(50)):
        for jpeg2000 in (False, True):
            with pytest.raises(ImageError, match="no header"):
                read_codestream(stream, jpeg2000=jpeg2000)


# ---- what a header says


def test_absent_and_malformed_geometry_counts_as_absent(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16, dtype=np.int16))
    frame = header(path).frames[0]
    assert (frame.orientation, frame.position, frame.spacing) == (None, None, None)
    assert read_frame(frame).shape == (16, 16)
    place = {
        "ImageOrientationPatient": [1, 0, 0, 0.7, 1, 0],
        "ImagePositionPatient": [0, 0],
        "PixelSpacing": [0, 1],
        "SliceThickness": "",
    }
    frame = header(save_dicom(tmp_path / "b.dcm", noise(16, 16), **place)).frames[0]
    assert (frame.orientation, frame.position, frame.spacing) == (None, None, None)


def test_spacing_at_the_detector(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16), ImagerPixelSpacing=[0.2, 0.1])
    assert header(path).frames[0].spacing == (0.2, 0.1)


def test_tags_as_text(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16), PatientWeight="70.50")
    tags = header(path, "PatientAge", "PatientWeight", "Rows", "StudyTime").frames[0].tags
    assert tags == {"PatientAge": "060Y", "PatientWeight": "70.50", "Rows": "16"}
    with pytest.raises(UsageError, match="PatentAge"):
        header(path, "PatentAge")


def test_keywords_and_uids() -> None:
    check_keyword("PatientAge")
    with pytest.raises(UsageError):
        check_keyword("Age")
    assert new_uid("a") == new_uid("a") != new_uid("b")
    assert new_uid() != new_uid()


def test_identifiers(tmp_path: Path) -> None:
    other = Dataset()
    other.PatientID = "OTHER-9"
    path = save_dicom(
        tmp_path / "a.dcm",
        noise(16, 16),
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Müller^Jo^Anna",
        PatientID="ID-77 ",
        PatientBirthDate="19610203",
        AcquisitionDateTime="20240510120000.5",
        AccessionNumber="",
        ReferringPhysicianName="House^Gregory",
        StationName="CT-LEFT",
        StudyInstanceUID="1.2.3",
        FrameOfReferenceUID="1.2.4",
        OtherPatientIDsSequence=Sequence([other]),
        StudyDescription="Thorax",
        PatientAge="061Y",
    )
    expected = {
        "Müller^Jo^Anna",
        "Müller",
        "Anna",
        "ID-77",
        "19610203",
        "1961-02-03",
        "20240510120000.5",
        "20240510",
        "2024-05-10",
        "House^Gregory",
        "CT-LEFT",
        "1.2.3",
        "1.2.4",
        "OTHER-9",
        str(pydicom.dcmread(path).SOPInstanceUID),
    }
    assert header(path).identifiers == expected


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PhotometricInterpretation", "RGB"),
        ("Rows", 17),
        ("BitsStored", 40),
        ("RescaleSlope", "0"),
        ("NumberOfFrames", "99999"),
        ("PixelData", None),
    ],
)
def test_a_refused_file_still_tells_whom_it_is_of(
    tmp_path: Path, keyword: str, value: object
) -> None:
    path = save_dicom(
        tmp_path / "a.dcm",
        noise(16, 16, dtype=np.int16),
        PatientName="Doe^Jane",
        PatientID="ID-77",
        StudyInstanceUID="1.2.3",
    )
    expected = header(path).identifiers
    assert {"Doe^Jane", "Jane", "ID-77", "1.2.3"} <= expected

    def spoil(values: Dataset) -> None:
        if value is None:
            del values[keyword]
        else:
            setattr(values, keyword, value)

    with pytest.raises(RefusedError) as problem:
        header(edit(path, spoil))
    assert problem.value.identifiers == expected
    again = pickle.loads(pickle.dumps(problem.value))  # it comes from another process
    assert (str(again), again.identifiers) == (str(problem.value), expected)


def test_a_file_truncated_within_its_header_tells_what_came_before(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16), PatientID="ID-77", StudyID="S-4711")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"S-4711")])
    with pytest.raises(RefusedError) as problem:
        header(path)
    assert "ID-77" in problem.value.identifiers


def test_colour_and_nothing_to_see(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16), PhotometricInterpretation="PALETTE COLOR")
    assert "colour" in refusal(path)
    path = edit(
        save_dicom(tmp_path / "b.dcm", noise(16, 16)), lambda values: values.pop(0x7FE00010)
    )
    assert "contains no image" in refusal(path)
    (tmp_path / "c.dcm").write_bytes(b"")
    assert "contains no image" in refusal(tmp_path / "c.dcm")


def test_pet_carries_the_factor_or_the_reason(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(16, 16), Modality="PT", Units="GML")
    assert header(path).frames[0].suv == 1.0
    path = save_dicom(tmp_path / "b.dcm", noise(16, 16), Modality="PT", Units="BQML")
    assert header(path).frames[0].suv is None
    assert header(path).no_suv == "CorrectedImage lacks DECY"


# ---- multi-frame


def test_classic_frames_have_no_place(tmp_path: Path) -> None:
    stored = noise(3, 16, 12, dtype=np.uint16)
    path = save_dicom(tmp_path / "a.dcm", stored, RescaleIntercept="0", PixelSpacing=[2, 1])
    np.testing.assert_array_equal(frames(path), stored)
    (scan,) = group_series([header(path)]).scans
    assert scan.geometry is None
    assert [frame.number for frame in scan.frames] == [0, 1, 2]
    assert scan.frames[0].spacing == (2, 1)
    assert scan.name == "a.dcm"


def save_enhanced(path: Path, stored: Array, heights: list[float]) -> Path:
    """Write frames with functional groups: slope 2 for all, an intercept for each."""
    shared = Dataset()
    measures, direction = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.25], "3"
    direction.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [direction]
    each = []
    for index, height in enumerate(heights):
        place, values, item = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-1, -2, height]
        values.RescaleSlope, values.RescaleIntercept = "2", str(-1000 * index)
        values.RescaleType = "HU"
        item.PlanePositionSequence = [place]
        item.PixelValueTransformationSequence = [values]
        each.append(item)
    return save_dicom(
        path,
        stored,
        RescaleSlope=None,
        RescaleIntercept=None,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=each,
        SeriesInstanceUID="1.2.3",
    )


def test_enhanced_frames(tmp_path: Path) -> None:
    stored = noise(4, 16, 12, dtype=np.int16)
    path = save_enhanced(tmp_path / "a.dcm", stored, [30.0, 10.0, 0.0, 20.0])
    head = header(path)
    assert head.unit == "HU"
    assert head.full_range == (-32768 * 2 - 3000, 32767 * 2)
    (scan,) = group_series([head]).scans
    assert [frame.number for frame in scan.frames] == [2, 1, 3, 0]
    assert scan.geometry is not None
    assert scan.geometry.spacing == (0.25, 0.5, 10.0)
    assert scan.geometry.origin == (-1, -2, 0)
    assert scan.geometry.size == (12, 16, 4)
    for frame in scan.frames:
        expected = stored[frame.number] * 2.0 - 1000 * frame.number
        np.testing.assert_array_equal(read_frame(frame), expected)


def test_enhanced_frames_at_one_place_are_told_of(tmp_path: Path) -> None:
    stored = noise(4, 16, 12, dtype=np.int16)
    head = header(save_enhanced(tmp_path / "a.dcm", stored, [0.0, 10.0, 0.0, 10.0]))
    grouped = group_series([head])
    assert [frame.number for frame in grouped.scans[0].frames] == [0, 1]
    assert grouped.skipped == {}
    assert grouped.notes == {
        "a.dcm": "2 of its frames were left out: at the position of another slice: a.dcm"
    }


def test_frames_that_are_not_described(tmp_path: Path) -> None:
    path = save_enhanced(tmp_path / "a.dcm", noise(4, 16, 12, dtype=np.int16), [0.0, 1.0])
    assert "only 2 of its 4 frames" in refusal(path)


# ---- series

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


class Folder:
    """Writes slices, and groups what it wrote in any order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.headers: list[Header] = []

    def add(self, name: str, position: Iterable[float], number: int, **changes: Any) -> Header:
        values: dict[str, Any] = {
            "SeriesInstanceUID": "1.2.3",
            "ImageOrientationPatient": list(AXIAL),
            "ImagePositionPatient": list(position),
            "PixelSpacing": [0.5, 0.25],
            "SliceThickness": "7",
            "InstanceNumber": number,
        }
        size = changes.pop("size", (8, 9))
        values |= changes
        values = {key: value for key, value in values.items() if value is not None}
        path = save_dicom(self.path / name, noise(*size, seed=number), **values)
        self.headers.append(read_header(found(path, name)))
        return self.headers[-1]

    def group(self, seed: int = 0) -> Grouped:
        shuffled = list(self.headers)
        random.Random(seed).shuffle(shuffled)
        return group_series(shuffled)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def names(grouped: Grouped, scan: int = 0) -> list[str]:
    return [frame.file.relative for frame in grouped.scans[scan].frames]


def test_slices_lie_in_order_of_position_whatever_their_numbers(folder: Folder) -> None:
    for index in range(6):
        folder.add(f"s/{index}.dcm", (-3, -4, 2.5 * index), 100 - index)
    results = [folder.group(seed) for seed in range(5)]
    assert all(result == results[0] for result in results)
    assert names(results[0]) == [f"s/{index}.dcm" for index in range(6)]
    (scan,) = results[0].scans
    assert scan.name == "s"
    assert scan.not_a_volume == ""
    assert scan.geometry is not None
    assert scan.geometry.size == (9, 8, 6)
    assert scan.geometry.spacing == (0.25, 0.5, 2.5)
    assert scan.geometry.origin == (-3, -4, 0)
    np.testing.assert_array_equal(scan.geometry.axes(), np.eye(3))
    assert results[0].skipped == results[0].notes == {}


def test_an_oblique_series(folder: Folder) -> None:
    turn = np.radians(25)
    row = np.array([np.cos(turn), np.sin(turn), 0])
    column = np.array([0.0, 0.0, -1.0])
    normal = np.cross(row, column)
    start = np.array([5.0, -7.0, 11.0])
    for index in (3, 0, 2, 1):
        folder.add(
            f"{index}.dcm",
            (round(float(value), 6) for value in start + 1.25 * index * normal),
            index,
            ImageOrientationPatient=[round(float(value), 9) for value in (*row, *column)],
        )
    (scan,) = folder.group().scans
    assert names(folder.group()) == ["0.dcm", "1.dcm", "2.dcm", "3.dcm"]
    assert scan.name == "0.dcm"  # the folder that was searched has no name
    assert scan.not_a_volume == ""
    assert scan.geometry is not None
    scan.geometry.check()
    np.testing.assert_allclose(scan.geometry.axes(), np.stack([row, column, normal], 1), atol=1e-8)
    assert scan.geometry.spacing[2] == pytest.approx(1.25, abs=1e-6)
    assert scan.geometry.origin == pytest.approx(tuple(start))


def test_a_single_slice_is_as_thick_as_it_says(folder: Folder) -> None:
    folder.add("s/1.dcm", (0, 0, 0), 1)
    (scan,) = folder.group().scans
    assert scan.name == "s/1.dcm"
    assert scan.geometry is not None
    assert scan.geometry.spacing == (0.25, 0.5, 7.0)


def test_a_missing_slice(folder: Folder) -> None:
    for index in (0, 1, 2, 3, 5, 6, 9):
        folder.add(f"s/{index}.dcm", (0, 0, 3 * index), index)
    grouped = folder.group()
    assert grouped.notes == {
        "s/3.dcm": "a slice is missing after it",
        "s/6.dcm": "2 slices are missing after it",
    }
    (scan,) = grouped.scans
    assert scan.not_a_volume == "3 slices are missing, the first after s/3.dcm"
    assert len(scan.frames) == 7
    assert scan.geometry is not None
    assert scan.geometry.spacing[2] == 3


def test_uneven_distances_and_a_tilted_gantry(folder: Folder) -> None:
    for index, height in enumerate((0, 2, 4.5, 6.5)):
        folder.add(f"a/{index}.dcm", (0, 0, height), index)
    for index in range(4):
        place = (0, 0.3 * index, 2 * index)
        folder.add(f"b/{index}.dcm", place, index, SeriesInstanceUID="1.2.4")
    one, other = folder.group().scans
    assert one.not_a_volume == "its slices are 2 to 2.5 mm apart"
    assert "sideways by 0.9 mm" in other.not_a_volume


def test_positions_with_two_digits_are_even(folder: Folder) -> None:
    for index in range(10):
        folder.add(f"a/{index}.dcm", (0, 0, round(index * 2 / 3, 2)), index)
    (scan,) = folder.group().scans
    assert scan.not_a_volume == ""
    assert scan.geometry is not None
    assert scan.geometry.spacing[2] == pytest.approx(6 / 9)


def test_copies_and_localizers(folder: Folder) -> None:
    for index in range(3):
        folder.add(f"s/{index}.dcm", (0, 0, index), index)
    original = folder.path / "s/1.dcm"
    for name in ("s/z.dcm", "b/1.dcm"):
        copy = folder.path / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(original.read_bytes())
        folder.headers.append(read_header(found(copy, name)))
    kind = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    folder.add("s/scout.dcm", (0, 0, 0), 0, ImageType=kind, size=(16, 16))
    grouped = folder.group()
    assert names(grouped) == ["s/0.dcm", "b/1.dcm", "s/2.dcm"]
    assert grouped.skipped == {
        "s/1.dcm": "a copy of another file: b/1.dcm",
        "s/scout.dcm": "a localizer",
        "s/z.dcm": "a copy of another file: b/1.dcm",
    }


def test_two_slices_at_one_position(folder: Folder) -> None:
    for index in range(3):
        folder.add(f"s/b{index}.dcm", (0, 0, 4 * index), index + 1)
        folder.add(f"s/a{index}.dcm", (0, 0, 4 * index), index + 11)
    grouped = folder.group()
    assert names(grouped) == ["s/b0.dcm", "s/b1.dcm", "s/b2.dcm"]
    assert grouped.skipped["s/a1.dcm"] == "at the position of another slice: s/b1.dcm"


def test_slices_unlike_the_others(folder: Folder) -> None:
    for index in range(4):
        folder.add(f"s/{index}.dcm", (0, 0, index), index + 10)
    folder.add("s/c.dcm", (0, 0, 0), 1, ImageOrientationPatient=list(CORONAL))
    folder.add("s/large.dcm", (0, 0, 9), 2, size=(12, 10))
    folder.add("s/wide.dcm", (0, 0, 9), 3, PixelSpacing=[0.75, 0.75])
    folder.add("s/tilt.dcm", (0, 0, 9), 3, ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6])
    grouped = folder.group()
    assert len(names(grouped)) == 4
    assert grouped.skipped == {
        "s/c.dcm": "coronal, the series is axial",
        "s/large.dcm": "10x12, the series is 9x8",
        "s/tilt.dcm": "axial in another direction than the series",
        "s/wide.dcm": "pixel spacing 0.75x0.75 mm, the series has 0.5x0.25 mm",
    }


def test_of_two_equal_groups_the_first_acquired_stays(folder: Folder) -> None:
    for index in range(2):
        folder.add(f"s/a{index}.dcm", (0, 0, index), index + 10)
        folder.add(f"s/b{index}.dcm", (0, index, 0), index, ImageOrientationPatient=list(CORONAL))
    assert set(names(folder.group())) == {"s/b0.dcm", "s/b1.dcm"}


def test_two_series_in_one_folder(folder: Folder) -> None:
    for index in range(3):
        folder.add(f"s/x{index}.dcm", (0, 0, index), index)
        folder.add(f"s/y{index}.dcm", (0, 0, 5 * index), index, SeriesInstanceUID="1.2.4")
    grouped = folder.group()
    assert [scan.name for scan in grouped.scans] == ["s/x0.dcm", "s/y0.dcm"]
    assert [scan.geometry.spacing[2] for scan in grouped.scans if scan.geometry] == [1, 5]


def test_a_series_in_several_folders(folder: Folder) -> None:
    for index in range(4):
        folder.add(f"p/{'ab'[index % 2]}/{index}.dcm", (0, 0, index), index)
    (scan,) = folder.group().scans
    assert scan.name == "p"
    assert len(scan.files) == 4


def test_without_series_or_place_each_file_is_a_scan(folder: Folder) -> None:
    folder.add("s/a.dcm", (0, 0, 0), 1, SeriesInstanceUID=None)
    folder.add("s/b.dcm", (0, 0, 1), 2, SeriesInstanceUID=None)
    folder.add("s/c.dcm", (0, 0, 2), 3, ImagePositionPatient=None)
    folder.add("s/d.dcm", (0, 0, 3), 4, ImagePositionPatient=None)
    grouped = folder.group()
    assert [scan.name for scan in grouped.scans] == ["s/a.dcm", "s/b.dcm", "s/c.dcm", "s/d.dcm"]
    assert [scan.geometry is None for scan in grouped.scans] == [False, False, True, True]


def test_one_uid_for_different_slices_makes_no_copies(folder: Folder) -> None:
    for index in range(3):
        folder.add(f"s/{index}.dcm", (0, 0, index), index, SOPInstanceUID="1.2.9")
    assert len(names(folder.group())) == 3


def test_one_suv_factor_for_a_series(folder: Folder) -> None:
    drug = Dataset()
    drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = "350000000", "3600"
    drug.RadiopharmaceuticalStartTime = "110000"
    common: dict[str, Any] = {
        "Modality": "PT",
        "Units": "BQML",
        "CorrectedImage": ["DECY", "ATTN"],
        "DecayCorrection": "START",
        "PatientWeight": "70",
        "RadiopharmaceuticalInformationSequence": [drug],
        "SeriesDate": "20240510",
        "AcquisitionDate": "20240510",
        "SeriesTime": "120000",
        "AcquisitionTime": "121000",
    }
    folder.add("s/0.dcm", (0, 0, 0), 1, **common)
    folder.add(
        "s/1.dcm", (0, 0, 1), 2, **common | {"SeriesTime": "130000", "AcquisitionTime": "131000"}
    )
    (scan,) = folder.group().scans
    assert [frame.suv for frame in scan.frames] == [pytest.approx(4e-4)] * 2
    assert scan.no_suv == ""
    folder.add("s/2.dcm", (0, 0, 2), 3, **common | {"PatientWeight": ""})
    (scan,) = folder.group().scans
    assert scan.no_suv == "PatientWeight is missing"
    assert [frame.suv for frame in scan.frames] == [None] * 3


# ---- real images


def test_real_chest_ct(real_data: Callable[[str], Path]) -> None:
    paths = sorted((real_data("chest-ct") / "dicom_dir").glob("*.dcm"))
    headers = [header(path, "PatientAge") for path in paths]
    assert all(head.unit == "HU" and head.frames[0].offset > 0 for head in headers)
    for path, head in list(zip(paths, headers, strict=True))[::6]:
        (truth,) = by_pydicom(path)
        np.testing.assert_array_equal(read_frame(head.frames[0]), truth.astype(np.float32))
        values = pydicom.dcmread(path)
        assert str(values.PatientID) in head.identifiers
        assert str(values.SeriesInstanceUID) in head.identifiers
    grouped = group_series(headers)
    assert len(grouped.scans) + len(grouped.skipped) == len(paths)
    assert all(scan.geometry is not None for scan in grouped.scans)
