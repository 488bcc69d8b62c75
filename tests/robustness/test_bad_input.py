"""Bad input from end to end: it is listed with its reason, and what lies beside it is unharmed."""

from __future__ import annotations

import errno
import gzip
import inspect
import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import nibabel.testing
import numpy as np
import pydicom
import pytest
from torch import nn
from typer.testing import CliRunner

import preparing
import tiny
from conftest import Array, noise, save_dicom, save_raster, save_tiff, truncate
from medxlate.base.errors import ImageError
from medxlate.cli.app import app
from medxlate.dataset import plan
from medxlate.dataset import prepare as prepare_module
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.images.find import find_images
from medxlate.images.orientation import Geometry
from medxlate.images.recipes import Recipe
from medxlate.images.volumes import write_volume
from medxlate.inference import inputs
from medxlate.inference import translator as translator_module
from medxlate.inference.engine import Engine
from medxlate.inference.translate import translate
from preparing import save_nifti, tissue, write_series, write_table

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs odd names, FIFOs and links")

NAME = "ct-low"  # of the modality: CT, like the files
MR = Recipe(kind="mr", percentiles=(0.5, 99.5))
PLACE = {
    "SeriesInstanceUID": "1.2.3",
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "ImagePositionPatient": [0, 0, 0],
    "PixelSpacing": [1, 1],
}
SLICE = noise(40, 40, dtype=np.int16)
VOLUME = tissue(40, 40).astype(np.int16)
GOOD = {"good.png", "good.dcm", "good.nii"}
NOT_REGULAR = "not a regular file|cannot be opened"
Write = Callable[[Path], object]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail where the block takes longer, as if nobody would ever end it."""

    def ring(*_: object) -> None:
        pytest.fail(f"it hangs: not done within {seconds:g} s")

    usual = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    return tiny.write_tiny_model(root, source_recipe=MR, sources=(NAME,))


@pytest.fixture(scope="module")
def as_is_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_model(
        tmp_path_factory.mktemp("as-is"), source_recipe=tiny.AS_IS_16, sources=(NAME,)
    )


def write_good(folder: Path) -> Path:
    save_raster(folder / "good.png", noise(40, 40, seed=101, dtype=np.uint16))
    pixels = noise(40, 40, seed=102, dtype=np.int16)
    save_dicom(folder / "good.dcm", pixels, **{**PLACE, "SeriesInstanceUID": "1.2.9"})
    save_nifti(folder / "good.nii", tissue(30, 30, seed=103)[:, :, :3].astype(np.int16))
    return folder


@dataclass(frozen=True)
class Outcome:
    """What became of a folder in ``prepare`` and in ``translate``."""

    data: Path
    out: Path
    skipped: dict[str, str]
    notes: dict[str, str]
    failed: dict[str, str]
    written: dict[str, list[str]]

    @property
    def used(self) -> set[str]:
        return set(preparing.by_file(self.data, "file", modality=NAME)) - GOOD

    @property
    def translated(self) -> set[str]:
        return set(self.written) - GOOD


Through = Callable[..., Outcome]


def prepared(raw: Path, data: Path, **changes: Any) -> Any:
    known = {
        "label": r"regex:([^/])[^/]*$", "patient": "file", "task": "classification", "workers": 1,
        "recipe": "mr",
    }  # fmt: skip
    options = PrepareOptions(**{**known, **changes})
    return prepare(raw, modality=NAME, data=data, size=32, options=options)


def translated(raw: Path, out: Path, model: Path) -> Any:
    return translate(raw, out=out, model=model, device="cpu", batch_size=1)


def good_pixels(outcome: Outcome) -> dict[str, Any]:
    """Return the good files as they were stored and as they were translated."""
    table = preparing.slices(outcome.data, NAME)
    table = table[table["file"].isin(GOOD)]
    stored = table.groupby("file")["pixel_hash"].apply(list).to_dict()
    with_header = pydicom.dcmread(outcome.out / "good.dcm")
    return {
        **stored,
        "out.png": (outcome.out / "good.png").read_bytes(),
        "out.nii": (outcome.out / "good.nii").read_bytes(),
        "out.dcm": with_header.PixelData,
    }


def run_both(raw: Path, folder: Path, model: Path, seconds: float = 30) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    data, out = folder / "data", folder / "out"
    with within(seconds):
        first = prepared(raw, data)
    with within(seconds):
        second = translated(raw, out, model)
    kept = preparing.record(data, NAME)
    report = json.loads((out / "translation.json").read_text(encoding="utf-8"))
    assert kept["skipped"] == first.skipped
    assert len(report["failed"]) == len(second.failed)
    written: dict[str, list[str]] = {}
    for item in report["files"]:
        written.setdefault(item["input"], []).append(item["output"])
    names = [name for names in written.values() for name in names]
    assert len(set(names)) == len(names) == second.files
    assert all((out / name).is_file() for name in names)
    return Outcome(data, out, first.skipped, kept["notes"], second.failed, written)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, Any]:
    """What the good files become without bad ones beside them."""
    root = tmp_path_factory.mktemp("untouched")
    return good_pixels(run_both(write_good(root / "raw"), root / "made", model))


@pytest.fixture
def through(
    tmp_path: Path, model: Path, untouched: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> Through:
    """Give a function that brings bad files through both commands beside good ones."""

    def bring(write: Write, *, seconds: float = 30) -> Outcome:
        raw = write_good(tmp_path / "raw")
        write(raw)
        capfd.readouterr()
        outcome = run_both(raw, tmp_path / "made", model, seconds)
        assert capfd.readouterr() == ("", "")
        assert good_pixels(outcome) == untouched
        for reason in (*outcome.skipped.values(), *outcome.failed.values()):
            assert str(tmp_path) not in reason
        return outcome

    return bring


# ---- files that are refused


def nifti(
    path: Path,
    voxels: Array | None,
    *,
    shape: tuple[int, ...] = (),
    code: int = 4,
    slope: float = 0,
    spacing: tuple[float, ...] = (1, 1, 1),
    sform: Any = None,
) -> Path:
    """Write a NIfTI-1 file by hand; without voxels the header only claims them."""
    shape = shape or (() if voxels is None else voxels.shape)
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into("<2h", head, 70, code, 16)
    struct.pack_into("<8f", head, 76, 1, *spacing, 1, 1, 1, 1)
    struct.pack_into("<3f", head, 108, 352, slope, 0)
    if sform is not None:
        struct.pack_into("<2h", head, 252, 0, 1)
        struct.pack_into("<12f", head, 280, *np.ravel(sform))
    head[344:348] = b"n+1\0"
    content = bytes(head) + (b"" if voxels is None else voxels.tobytes(order="F"))
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def png(path: Path, width: int, height: int, *, bits: int = 8) -> None:
    """Write a PNG whose header is in order and which holds no pixel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + rest)


def tiff(path: Path, width: int, height: int, *, bits: int = 16, **further: int) -> None:
    """Write a TIFF whose header claims pixels and which holds 100 bytes."""
    names = {"samples": 277, "kind": 339, "depth": 32997}
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: 100} | {names[name]: value for name, value in further.items()}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = b"II*\0" + struct.pack("<I", 108) + bytes(100) + struct.pack("<H", len(tags))
    path.write_bytes(head + body + bytes(4))


def packed(path: Path) -> Path:
    """Write a volume in the format of its suffix."""
    size = (VOLUME.shape[2], VOLUME.shape[1], VOLUME.shape[0])
    directions = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    geometry = Geometry(size, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), directions)
    write_volume(path, VOLUME, geometry, facts={})
    return path


def ct(path: Path, stored: Array = SLICE, **changes: Any) -> Path:
    """Write a DICOM slice; a change to None leaves an attribute out."""
    attributes = {**PLACE, **changes}
    absent = [key for key in PLACE if attributes[key] is None]
    return save_dicom(path, stored, **{k: v for k, v in attributes.items() if k not in absent})


def edited(path: Path, **changes: Any) -> Path:
    values = pydicom.dcmread(path)
    for key, value in changes.items():
        setattr(values, key, value)
    values.save_as(path)
    return path


def coloured(path: Path) -> Path:
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    return edited(ct(path), **colour, **bits, PixelData=bytes(4800))


def mhd(path: Path, data: str) -> None:
    lines = ("ObjectType = Image", "NDims = 3", "DimSize = 8 8 9", "ElementType = MET_UCHAR")
    path.write_text("\n".join((*lines, f"ElementDataFile = {data}\n")))


def with_value(voxels: Array, value: float) -> Array:
    changed = voxels.astype(np.float32)
    changed[..., 5] = value
    return changed


def bomb(path: Path) -> None:
    """Write a .nii.gz of 10x10x10 voxels after which 64 MiB of zeros follow."""
    head = nifti(path.with_name("x"), noise(10, 10, 10, dtype=np.int16)).read_bytes()
    path.with_name("x").unlink()
    packer = zlib.compressobj(1, wbits=31)
    pieces = [packer.compress(head)]
    pieces += [packer.compress(bytes(1 << 20)) for _ in range(64)]
    path.write_bytes(b"".join([*pieces, packer.flush()]))


def nan_text(path: Path) -> Path:
    """Write a NIfTI of which every voxel is NaN."""
    return save_nifti(path, np.full((40, 40, 9), np.nan, np.float32))


F32 = noise(40, 40).astype(np.float32)
SHEAR = [[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
AWAY = [[1, 0, 0, 0], [0, 1, 0, 2e7], [0, 0, 1, 0]]
OUTSIDE = "outside its own folder"
CLAIMS = "claims|too large"
REFUSED: list[tuple[str, Write, str]] = [
    # truncated
    ("a.dcm", lambda p: truncate(ct(p)), "truncated"),
    ("a.nii", lambda p: truncate(save_nifti(p, VOLUME)), "truncated"),
    ("a.nii.gz", lambda p: truncate(save_nifti(p, VOLUME)), "truncated"),
    ("crc.nii.gz", lambda p: truncate(save_nifti(p, VOLUME), 0.999), "truncated"),
    ("a.nrrd", lambda p: truncate(packed(p)), "truncated"),
    ("a.mha", lambda p: truncate(packed(p)), "truncated"),
    ("a.png", lambda p: truncate(save_raster(p, noise(40, 40))), "damaged"),
    ("a.jpg", lambda p: truncate(save_raster(p, noise(40, 40))), "damaged"),
    ("a.webp", lambda p: truncate(save_raster(p, noise(40, 40), "WEBP")), "damaged"),
    ("tail.jpg", lambda p: truncate(save_raster(p, noise(40, 40)), 0.97), "damaged"),
    ("a.tif", lambda p: truncate(save_tiff(p, noise(40, 40, dtype=np.uint16))), "damaged"),
    ("float.tif", lambda p: truncate(save_tiff(p, F32)), "damaged"),
    (
        "rgb.tif",
        lambda p: truncate(save_tiff(p, noise(40, 40, 3, dtype=np.uint16), photometric="rgb")),
        "damaged",
    ),
    # what the header lacks or contradicts
    ("rows.dcm", lambda p: ct(p, Rows=None), "Rows is missing"),
    ("signs.dcm", lambda p: ct(p, PixelRepresentation=None), "PixelRepresentation is missing"),
    ("colour.dcm", coloured, "colour"),
    ("slope.dcm", lambda p: ct(p, RescaleSlope="0"), "RescaleSlope"),
    ("sheared.nii", lambda p: nifti(p, VOLUME, sform=SHEAR), "sheared"),
    # limits, checked before anything is allocated
    ("big.dcm", lambda p: edited(ct(p), Rows=65535, Columns=65535), CLAIMS),
    ("big.nii.gz", lambda p: nifti(p, None, shape=(2500, 2500, 2500)), CLAIMS),
    ("big.png", lambda p: png(p, 100_000, 100_000), CLAIMS),
    ("most.png", lambda p: png(p, 2**31 - 1, 2**31 - 1), CLAIMS),
    ("big.tif", lambda p: tiff(p, 100_000, 100_000), CLAIMS),
    ("big64.tif", lambda p: tiff(p, 100_000, 100_000, bits=64, kind=3), CLAIMS),
    ("samples.tif", lambda p: tiff(p, 10_000, 9_000, samples=200), CLAIMS),
    ("depth.tif", lambda p: tiff(p, 1000, 900, kind=3, depth=10_000), CLAIMS),
    ("planes.tif", lambda p: tiff(p, 10, 10, kind=3, depth=3), "3 planes"),
    ("zero.png", lambda p: png(p, 0, 10), "."),
    # values
    ("huge.nii", lambda p: save_nifti(p, VOLUME * 1e300), "not finite"),
    ("nan.nii", nan_text, "not finite"),
    ("nan.tif", lambda p: save_tiff(p, np.full((40, 40), np.nan, np.float32)), "not finite"),
    ("inf.tif", lambda p: save_tiff(p, with_value(F32, np.inf)), "not finite"),
    ("flat.nii", lambda p: save_nifti(p, np.full((40, 40, 9), 7, np.int16)), "empty"),
    ("flat.dcm", lambda p: ct(p, np.full((40, 40), 7, np.int16)), "empty"),
    ("flat.png", lambda p: save_raster(p, np.full((40, 40), 7, np.uint8)), "empty"),
    ("seven.nii", lambda p: save_nifti(p, VOLUME[:, :7]), "at least 8x8"),
    ("seven.dcm", lambda p: ct(p, noise(7, 40, dtype=np.int16)), "at least 8x8"),
    # geometry beyond every number
    ("far.nii", lambda p: nifti(p, VOLUME, spacing=(3e38, 3e38, 3e38)), "spacing"),
    ("near.nii", lambda p: nifti(p, VOLUME, spacing=(1, 1, 1e-9)), "spacing"),
    ("away.nii", lambda p: nifti(p, VOLUME, sform=AWAY), "origin"),
    # data files of detached headers
    ("up.mhd", lambda p: mhd(p, "../../../../../../../../../etc/passwd"), OUTSIDE),
    ("root.mhd", lambda p: mhd(p, "/etc/passwd"), OUTSIDE),
    ("none.mhd", lambda p: mhd(p, "nowhere.raw"), "is missing"),
    ("null.mhd", lambda p: mhd(p, "a\0b"), "is missing"),
    ("long.mhd", lambda p: mhd(p, "x" * 5000), "opened"),
]
WRONGLY_READ: list[Any] = [
    pytest.param(
        "photometric.dcm",
        lambda p: ct(p, PhotometricInterpretation=None),
        "PhotometricInterpretation is missing",
    ),
    pytest.param(
        "tiny.tif",
        lambda p: save_tiff(p, (F32 * 1e-45).astype(np.float32)),
        "range|empty|distinguished",
    ),
    pytest.param(
        "tiny.nii",
        lambda p: nifti(p, VOLUME, slope=1e-42),
        "range|empty|distinguished",
    ),
    pytest.param(
        "own.mhd",
        lambda p: mhd(p, "own.mhd" + "\nComment = " + "x" * 600),
        "data file",
    ),
]


def test_files_that_cannot_be_used_are_named(through: Through) -> None:
    def write(raw: Path) -> None:
        for name, make, _ in REFUSED:
            make(raw / name)

    outcome = through(write)
    assert set(outcome.skipped) == set(outcome.failed) == {name for name, *_ in REFUSED}
    for name, _, reason in REFUSED:
        assert re.search(reason, outcome.skipped[name]), name
        assert re.search(reason, outcome.failed[name]), name
    assert not outcome.used
    assert not outcome.translated


@pytest.mark.parametrize(("name", "write", "reason"), WRONGLY_READ)
def test_a_file_that_cannot_be_used_is_named(
    through: Through, name: str, write: Write, reason: str
) -> None:
    outcome = through(lambda raw: write(raw / name))
    assert list(outcome.skipped) == list(outcome.failed) == [name]
    assert re.search(reason, outcome.skipped[name])
    assert re.search(reason, outcome.failed[name])


def test_empty_files_and_lying_suffixes(through: Through) -> None:
    names = {f"empty{end}" for end in (".png", ".jpg", ".tif", ".dcm", ".nii", ".nii.gz", ".nrrd")}
    names |= {f"empty{end}" for end in (".mha", ".mhd", ".nhdr", ".hdr", ".ima")}
    texts = {"text.png", "text.dcm", "text.nii.gz"}

    def write(raw: Path) -> None:
        for name in names:
            (raw / name).write_bytes(b"")
        for name in texts:
            (raw / name).write_text("nothing of the kind\n" * 40)
        save_raster(raw / "lies.nii", noise(40, 40), "PNG")

    outcome = through(write)
    assert set(outcome.skipped) == set(outcome.failed) == names | texts
    assert set(outcome.skipped.values()) == {"not an image despite its suffix"}
    assert outcome.used == outcome.translated == {"lies.nii"}
    assert outcome.notes == {"lies.nii": "is png"}


def test_a_gzip_bomb_is_not_unpacked(through: Through) -> None:
    tracemalloc.start()
    try:
        outcome = through(lambda raw: bomb(raw / "bomb.nii.gz"))
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()
    assert outcome.translated == outcome.used == {"bomb.nii.gz"}
    image = nibabel.load(outcome.out / "bomb.nii.gz")
    assert image.shape == (10, 10, 10)


def test_a_header_that_claims_much_takes_no_memory(through: Through) -> None:
    def write(raw: Path) -> None:
        png(raw / "a.png", 100_000, 100_000)
        tiff(raw / "a.tif", 100_000, 100_000)
        nifti(raw / "a.nii.gz", None, shape=(2500, 2500, 2500))
        edited(ct(raw / "a.dcm"), Rows=65535, Columns=65535)

    tracemalloc.start()
    try:
        outcome = through(write)
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()
    assert set(outcome.skipped) == set(outcome.failed) == {"a.png", "a.tif", "a.nii.gz", "a.dcm"}


@pytest.mark.filterwarnings("default")
def test_nothing_is_printed_of_large_images(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    save_raster(tmp_path / "raw" / "good.png", noise(40, 40))
    png(tmp_path / "raw" / "large.png", 10_000, 9_500)  # below the limit, above pillow's
    assert list(prepared(tmp_path / "raw", tmp_path / "data").skipped) == ["large.png"]
    assert list(recwarn) == []


def test_some_voxels_that_are_not_finite(through: Through) -> None:
    def write(raw: Path) -> None:
        for name, value in (("nan.nii", np.nan), ("inf.nii", np.inf), ("less.nii", -np.inf)):
            save_nifti(raw / name, with_value(VOLUME, value))

    outcome = through(write)
    assert set(outcome.skipped) == {f"{name}.nii, slice 6" for name in ("nan", "inf", "less")}
    assert outcome.used == {"nan.nii", "inf.nii", "less.nii"}  # their other slices
    assert set(outcome.failed) == {"nan.nii", "inf.nii", "less.nii"}
    assert not outcome.translated


# ---- what is read in spite of something odd


def test_pixels_longer_than_declared(through: Through) -> None:
    def write(raw: Path) -> None:
        ct(raw / "plain.dcm")
        longer = ct(raw / "longer.dcm", SeriesInstanceUID="1.2.4")
        edited(longer, PixelData=SLICE.tobytes() + b"\x55" * 5000)
        tail = ct(raw / "tail.dcm", SeriesInstanceUID="1.2.5")
        tail.write_bytes(tail.read_bytes() + b"\xff" * 999)

    outcome = through(write)
    assert not outcome.skipped
    assert not outcome.failed
    hashes = preparing.by_file(outcome.data, "pixel_hash", modality=NAME)
    assert hashes["plain.dcm"] == hashes["longer.dcm"] == hashes["tail.dcm"]
    made = {name: pydicom.dcmread(outcome.out / name) for name in outcome.translated}
    assert len({header.PixelData for header in made.values()}) == 1


ODD: dict[str, dict[str, Any]] = {
    "spacing": {"PixelSpacing": None},
    "orientation": {"ImageOrientationPatient": None},
    "position": {"ImagePositionPatient": None},
    "nowhere": {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
    "sheared": {"ImageOrientationPatient": [1, 0, 0, 0.4, 0.9165, 0]},
    "zero": {"PixelSpacing": [0, 0]},
    "huge": {"PixelSpacing": ["1e308", "1e308"]},
    "tiny": {"PixelSpacing": ["1e-320", "1e-320"]},
    "away": {"ImagePositionPatient": ["0", "1.1e7", "0"]},
    "modality": {"Modality": None},
    "class": {"SOPClassUID": None},
}


def test_slices_that_lack_something_are_read_as_what_they_are(through: Through) -> None:
    def write(raw: Path) -> None:
        for series, (folder, changes) in enumerate(ODD.items()):
            for number in range(2):
                pixels = noise(40, 40, seed=9 * series + number, dtype=np.int16)
                place = {"ImagePositionPatient": [0, 0, number]}
                path = ct(raw / folder / f"{number}.dcm", pixels, **place)
                values = pydicom.dcmread(path)
                values.SeriesInstanceUID = f"1.2.3.{series}"
                for key, value in changes.items():
                    delattr(values, key) if value is None else setattr(values, key, value)
                values.save_as(path)

    outcome = through(write)
    assert not outcome.skipped
    assert not outcome.failed
    names = {f"{folder}/{number}.dcm" for folder in ODD for number in range(2)}
    assert outcome.used == outcome.translated == names
    table = preparing.slices(outcome.data, NAME).set_index("file")
    for folder, changes in ODD.items():
        made = [pydicom.dcmread(outcome.out / folder / f"{number}.dcm") for number in range(2)]
        placed = not changes.keys() & PLACE.keys()
        assert all(("ImagePositionPatient" in header) == placed for header in made), folder
        series = {table.loc[f"{folder}/{number}.dcm", "series"] for number in range(2)}
        assert len(series) == (1 if placed else 2), folder


@pytest.mark.parametrize("explicit", [True, False])
def test_dicom_without_preamble_that_begins_with_its_class(tmp_path: Path, explicit: bool) -> None:
    values = pydicom.dcmread(ct(tmp_path / "a.dcm"))
    for tag in [tag for tag in values.keys() if tag < 0x00080016]:  # noqa: SIM118
        del values[tag]
    pydicom.dcmwrite(
        tmp_path / "bare", pydicom.Dataset(values), implicit_vr=not explicit, little_endian=True
    )
    assert (tmp_path / "bare").read_bytes()[:4] == b"\x08\0\x16\0"
    assert [image.format for image in find_images(tmp_path / "bare").images] == ["dicom"]


def test_two_series_in_one_folder(through: Through) -> None:
    def write(raw: Path) -> None:
        for which in "ab":
            for number in range(3):
                ct(
                    raw / "mixed" / f"{which}{number}.dcm",
                    noise(40, 40, seed=ord(which) + 9 * number, dtype=np.int16),
                    SeriesInstanceUID=f"1.2.{ord(which)}",
                    ImagePositionPatient=[0, 0, number],
                )

    outcome = through(write)
    assert not outcome.skipped
    table = preparing.slices(outcome.data, NAME).set_index("file")
    assert len({table.loc[f"mixed/a{n}.dcm", "series"] for n in range(3)}) == 1
    assert table.loc["mixed/a0.dcm", "series"] != table.loc["mixed/b0.dcm", "series"]
    made = {name: pydicom.dcmread(outcome.out / name) for name in outcome.translated}
    assert len(made) == 6
    assert len({header.SeriesInstanceUID for header in made.values()}) == 2


def test_a_series_with_a_missing_slice(through: Through) -> None:
    def write(raw: Path) -> None:
        for which, turn in (("axial", [1, 0, 0, 0, 1, 0]), ("sagittal", [0, 1, 0, 0, 0, -1])):
            for number in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10):
                place = [0, 0, number] if which == "axial" else [number, 0, 0]
                ct(
                    raw / which / f"{number:02d}.dcm",
                    noise(40, 40, seed=number, dtype=np.int16),
                    SeriesInstanceUID=f"1.2.{len(which)}",
                    ImageOrientationPatient=turn,
                    ImagePositionPatient=place,
                )

    outcome = through(write)
    before = ("axial/02.dcm", "sagittal/04.dcm")  # sagittal ones are ordered along -x
    assert outcome.notes == dict.fromkeys(before, "a slice is missing after it")
    assert list(outcome.skipped) == list(outcome.failed) == ["sagittal"]
    assert "missing" in outcome.skipped["sagittal"]
    assert len(outcome.used) == len(outcome.translated) == 10


def test_one_instance_uid_in_several_files(through: Through) -> None:
    same = {"SOPInstanceUID": "1.2.3.4"}

    def write(raw: Path) -> None:
        for number in range(2):
            pixels = noise(40, 40, seed=number, dtype=np.int16)
            ct(raw / f"place{number}.dcm", pixels, ImagePositionPatient=[0, 0, number], **same)
        ct(raw / "x" / "copy0.dcm", SeriesInstanceUID="1.2.7", **same)
        ct(raw / "x" / "copy1.dcm", SeriesInstanceUID="1.2.7", **same)

    outcome = through(write)
    expected = {"x/copy1.dcm": "a copy of another file: x/copy0.dcm"}
    assert (outcome.skipped, outcome.failed) == (expected, {})
    assert outcome.used == outcome.translated == {"place0.dcm", "place1.dcm", "x/copy0.dcm"}
    made = [pydicom.dcmread(outcome.out / name) for name in outcome.translated]
    assert len({header.SOPInstanceUID for header in made}) == 3


def test_positions_beyond_every_number(through: Through) -> None:
    def write(raw: Path) -> None:
        for number, place in enumerate(("-1.7e308", "0", "1.7e308")):
            pixels = noise(40, 40, seed=number, dtype=np.int16)
            ct(raw / f"{number}.dcm", pixels, ImagePositionPatient=["1e308", "0", place])

    outcome = through(write)
    assert outcome.used == outcome.translated == {"0.dcm", "1.dcm", "2.dcm"}


def test_values_that_span_more_than_single_precision(through: Through) -> None:
    span = ((noise(40, 40) / 127.5 - 1) * 3.4e38).astype(np.float32)
    through(lambda raw: save_tiff(raw / "span.tif", span))


@pytest.mark.parametrize("depth", [1, 2])
def test_volumes_of_few_slices(through: Through, depth: int) -> None:
    outcome = through(lambda raw: save_nifti(raw / "few.nii", VOLUME[:, :, :depth]))
    assert not outcome.skipped
    assert not outcome.failed
    assert nibabel.load(outcome.out / "few.nii").shape == (24 + 16, 40, depth)


# ---- recipe as-is, which needs the range that a file's type can hold


def test_dicom_is_prepared_as_is(tmp_path: Path) -> None:
    ct(tmp_path / "raw" / "a.dcm")
    assert prepared(tmp_path / "raw", tmp_path / "data", recipe="as-is").images == 1


def test_dicom_is_translated_as_is(tmp_path: Path, as_is_model: Path) -> None:
    ct(tmp_path / "raw" / "a.dcm")
    assert translated(tmp_path / "raw", tmp_path / "out", as_is_model).slices == 1


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_float_volumes_are_refused_or_shown_as_is(
    tmp_path: Path, as_is_model: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setattr(
        translator_module, "load_generator", lambda *_: (NAME, nn.Identity().eval())
    )
    save_nifti(tmp_path / "raw" / "a.nii", VOLUME.astype(kind))
    with suppress(ImageError):
        translated(tmp_path / "raw", tmp_path / "out", as_is_model)
        shown = np.asarray(nibabel.load(tmp_path / "out" / "a.nii").dataobj)
        assert np.isfinite(shown).all()
        assert shown.std() > 0


# ---- sidecars and label tables


SIDECARS = [
    "{", "[1]", "[" * 100_000, "", "\0\xff", '{"A": 1e999}', '{"PatientAge": NaN}',
    '{"PatientID": "\\ud800", "\\udfff": "\\u0000"}', '{"A": ' + "9" * 5000 + "}",
    '{"A": "' + "x" * (5 << 20) + '"}',
]  # fmt: skip


def test_sidecars_that_say_nothing(through: Through) -> None:
    def write(raw: Path) -> None:
        for number, text in enumerate(SIDECARS):
            save_nifti(raw / f"{number}.nii.gz", VOLUME[:, :, 3 * number : 3 * number + 3])
            (raw / f"{number}.json").write_bytes(text.encode("latin-1"))

    outcome = through(write)
    assert not outcome.skipped
    assert not outcome.failed
    assert len(outcome.used) == len(outcome.translated) == len(SIDECARS)


@pytest.mark.parametrize(
    "value",
    [
        "\\ud800",
        "\\u0000",
        "\\n\\r",
    ],
)
def test_patients_and_labels_of_odd_characters(tmp_path: Path, value: str) -> None:
    raw = tmp_path / "raw"
    save_nifti(raw / "a.nii", VOLUME, PatientID="Q", Group="g")
    save_nifti(raw / "b.nii", VOLUME)
    (raw / "b.json").write_text(f'{{"PatientID": "x{value}", "Group": "y{value}"}}')
    result = prepared(raw, tmp_path / "data", label="tag:Group", patient="tag:PatientID")
    assert set(preparing.by_file(tmp_path / "data", "file", modality=NAME)) | set(
        result.skipped
    ) == {"a.nii", "b.nii"}


def test_rows_of_files_that_do_not_exist(tmp_path: Path) -> None:
    raw = write_good(tmp_path / "raw")
    rows = [("good.png", "60", "A"), ("gone.png", "61", "B"), ("../../etc/passwd", "1", "C")]
    write_table(tmp_path / "t.csv", [*rows, ("", "5", "D"), ("good.nii", "zz", "E")])
    result = prepared(
        raw, tmp_path / "data", labels=tmp_path / "t.csv", label="age", file="file",
        patient="column:who", task="regression",
    )  # fmt: skip
    assert set(preparing.by_file(tmp_path / "data", "file", modality=NAME)) == {"good.png"}
    assert set(result.skipped) == {"good.dcm", "good.nii"}
    assert "no row" in result.skipped["good.dcm"]
    assert "number" in result.skipped["good.nii"]


# ---- names


def test_names_that_are_not_utf_8(through: Through) -> None:
    def write(raw: Path) -> None:
        save_raster(raw / os.fsdecode(b"a\xff.png"), noise(40, 40), "PNG")
        save_raster(raw / os.fsdecode(b"d\xfe") / "b.png", noise(40, 40, seed=1))
        ct(raw / os.fsdecode(b"d\xfe") / os.fsdecode(b"c\xfd.dcm"))
        save_nifti(raw / os.fsdecode(b"e\xfc.nii.gz"), VOLUME)
        packed(raw / "f.mha").rename(raw / os.fsdecode(b"f\xfb.mha"))
        truncate(save_raster(raw / os.fsdecode(b"t\xff.png"), noise(40, 40), "PNG"))
        truncate(save_tiff(raw / "t.tif", noise(40, 40))).rename(raw / os.fsdecode(b"t\xff.tif"))
        truncate(ct(raw / os.fsdecode(b"t\xff.dcm")))
        truncate(save_nifti(raw / os.fsdecode(b"t\xff.nii.gz"), VOLUME))

    outcome = through(write)
    good = {"a\\xff.png", "d\\xfe/b.png", "d\\xfe/c\\xfd.dcm", "e\\xfc.nii.gz", "f\\xfb.mha"}
    assert outcome.used == outcome.translated == good
    bad = {"t\\xff.png", "t\\xff.tif", "t\\xff.dcm", "t\\xff.nii.gz"}
    assert set(outcome.skipped) == set(outcome.failed) == bad


def test_names_that_look_like_escapes_stay_apart(through: Through) -> None:
    def write(raw: Path) -> None:
        save_raster(raw / os.fsdecode(b"a\xff.png"), noise(40, 40), "PNG")
        save_raster(raw / "a\\xff.png", noise(40, 40, seed=1))

    outcome = through(write)
    assert outcome.used == outcome.translated == {"a\\xff.png", "a\\x5cxff.png"}


def test_the_text_of_a_name_gives_back_its_bytes(tmp_path: Path) -> None:
    pieces = (b"\\", b"x", b"ff", b"5c", b"\xff", "\u00e9".encode())
    names = {b"".join(parts) for count in (1, 2, 3) for parts in product(pieces, repeat=count)}
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"\x89PNG\r\n\x1a\n")
    texts = {image.relative.encode() for image in find_images(tmp_path).images}

    def byte(escape: re.Match[bytes]) -> bytes:
        return bytes.fromhex(escape[1].decode())

    assert {re.sub(rb"\\x(..)", byte, text) for text in texts} == names
    assert len(texts) == len(names)


def test_odd_names(through: Through) -> None:
    names = {
        "a\n.png", "b\r\n/c\t.png", "[a].png", "*.png", "?.png", "[!b]/x.png", "**/y.png", "-r.png",
        "%s.png", "{}.png", "$HOME.png", "'q\".png", "~/z.png", "x lead.png", "\x1b[31mred.png",
        "a:b|c<d>.png", "e\u0301.png", "\u00e9.png", "\u202ertl.png", "CON.png",
    }  # fmt: skip

    def write(raw: Path) -> None:
        for seed, name in enumerate(sorted(names)):
            save_raster(raw / name, noise(40, 40, seed=seed))
        truncate(save_raster(raw / "bad\n[*].png", noise(40, 40)))

    outcome = through(write)
    assert list(outcome.skipped) == list(outcome.failed) == ["bad\n[*].png"]
    assert outcome.used == outcome.translated == names
    assert all(outcome.written[name] == [name] for name in names)


@pytest.mark.parametrize("pattern", ["[[]a].png", "*[*]*", "[!b]/*"])
def test_globs_of_names_with_globs(tmp_path: Path, pattern: str) -> None:
    raw = write_good(tmp_path / "raw")
    for seed, name in enumerate(("[a].png", "x*y.png", "q/z.png", "b/z.png")):
        save_raster(raw / name, noise(40, 40, seed=seed))
    prepared(raw, tmp_path / "data", exclude=(pattern,))
    gone = {"[[]a].png": "[a].png", "*[*]*": "x*y.png", "[!b]/*": "q/z.png"}[pattern]
    used = {"[a].png", "x*y.png", "q/z.png", "b/z.png"} - {gone}
    assert set(preparing.by_file(tmp_path / "data", "file", modality=NAME)) == used | GOOD


LONG = "n" * 251
BYTES = os.fsdecode(b"\xff" * 200)
LONG_NAMES: dict[str, tuple[str, Write]] = {
    "png": (f"{LONG}.png", lambda p: save_raster(p, noise(40, 40), "PNG")),
    "jpeg": (f"{LONG[1:]}.jpeg", lambda p: save_raster(p, noise(40, 40), "JPEG")),
    "tif": (f"{LONG}.tif", lambda p: save_tiff(p, noise(40, 40))),
    "dcm": (f"{LONG}.dcm", lambda p: ct(p, SeriesInstanceUID="1.2.4")),
    "bare-dcm": (f"{LONG}long", lambda p: ct(p, SeriesInstanceUID="1.2.5")),
    "nii.gz": (f"{LONG[3:]}.nii.gz", lambda p: save_nifti(p, VOLUME[:, :, :3])),
    "nii": (f"{LONG}.nii", lambda p: save_nifti(p, VOLUME[:, :, 3:6])),
    "bare-png": (f"{LONG}long", lambda p: save_raster(p, noise(40, 40, seed=1), "PNG")),
    "frames": (f"{LONG}.dcm", lambda p: save_dicom(p, noise(3, 40, 40, dtype=np.int16))),
    "bytes": (BYTES + ".png", lambda p: save_raster(p, noise(40, 40, seed=2), "PNG")),
    BYTES: ("in-bytes.png", lambda p: save_raster(p, noise(40, 40, seed=3))),
}


def test_long_names(through: Through) -> None:
    def write(raw: Path) -> None:
        for folder, (name, make) in LONG_NAMES.items():
            (raw / folder).mkdir()
            make(raw / folder / name)

    outcome = through(write)
    assert not outcome.skipped
    assert not outcome.failed
    assert len(outcome.used) == len(outcome.translated) == len(LONG_NAMES)
    for name, outputs in outcome.written.items():
        for output in outputs:
            assert Path(output).name[:50] == Path(name).name[:50]
            assert name.endswith(("long", Path(output).suffix, ".jpeg"))


def test_deep_folders(through: Through) -> None:
    deep = "/".join(["deep" * 4] * 150)
    outcome = through(lambda raw: save_raster(raw / deep / "a.png", noise(40, 40)))
    assert outcome.used == outcome.translated == {f"{deep}/a.png"}


def test_folders_deeper_than_calls_may_nest(tmp_path: Path) -> None:
    save_raster(tmp_path / "/".join("d" * 200) / "a.png", noise(40, 40))
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        found = find_images(tmp_path)
    finally:
        sys.setrecursionlimit(usual)
    assert found.images[0].relative == "d/" * 200 + "a.png"


# ---- links and files that are none


def test_links_that_lead_round_in_circles(through: Through) -> None:
    def write(raw: Path) -> None:
        save_raster(raw / "a" / "one.png", noise(40, 40))
        (raw / "a" / "up").symlink_to(raw)
        (raw / "a" / "here").symlink_to(".")
        (raw / "b").symlink_to("c")
        (raw / "c").symlink_to("b")
        (raw / "self").symlink_to("self")

    outcome = through(write, seconds=10)
    assert outcome.used == outcome.translated == {"a/one.png"}
    assert not outcome.skipped


def test_a_link_to_a_file_or_folder_elsewhere(through: Through, tmp_path: Path) -> None:
    def write(raw: Path) -> None:
        save_raster(tmp_path / "else" / "x.png", noise(40, 40))
        (raw / "file.png").symlink_to(tmp_path / "else" / "x.png")
        (raw / "folder").symlink_to(tmp_path / "else")

    outcome = through(write)
    assert outcome.used == outcome.translated == {"file.png", "folder/x.png"}


def bind(path: Path) -> None:
    """Make a socket; the path of one may be no longer than about 100 characters."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


SPECIAL: dict[str, Write] = {
    "fifo.png": os.mkfifo,
    "fifo.dcm": os.mkfifo,
    "fifo.nii.gz": os.mkfifo,
    "socket.png": bind,
    "zero.nii": lambda path: path.symlink_to("/dev/zero"),
    "broken.png": lambda path: path.symlink_to("nowhere"),
    "self.png": lambda path: path.symlink_to("self.png"),
}


def special(raw: Path) -> None:
    for name, write in SPECIAL.items():
        write(raw / name)


def test_what_is_no_regular_file_is_not_opened(through: Through) -> None:
    outcome = through(special, seconds=5)
    assert not outcome.used
    assert not outcome.translated


def test_what_is_no_regular_file_is_named(through: Through) -> None:
    outcome = through(special, seconds=5)
    assert set(outcome.skipped) == set(outcome.failed) == set(SPECIAL)
    assert all(re.search(NOT_REGULAR, reason) for reason in outcome.skipped.values())


def test_a_sidecar_that_is_a_fifo_is_not_opened(through: Through) -> None:
    def write(raw: Path) -> None:
        save_nifti(raw / "a.nii", VOLUME)
        os.mkfifo(raw / "a.json")

    assert through(write, seconds=1).used == {"a.nii"}


@pytest.mark.parametrize("use", [prepared, translated], ids=["prepare", "translate"])
def test_an_input_that_is_a_fifo_is_not_opened(tmp_path: Path, model: Path, use: Any) -> None:
    os.mkfifo(tmp_path / "a.png")
    args = (model,) if use is translated else ()
    with within(1), pytest.raises(ImageError):
        use(tmp_path / "a.png", tmp_path / "out", *args)


def test_a_data_file_that_is_a_fifo_is_not_opened(through: Through) -> None:
    def write(raw: Path) -> None:
        mhd(raw / "a.mhd", "a.raw")
        os.mkfifo(raw / "a.raw")
        head = bytearray(nifti(raw / "b.hdr", VOLUME).read_bytes()[:352])
        struct.pack_into("<f", head, 108, 0)
        head[344:348] = b"ni1\0"
        (raw / "b.hdr").write_bytes(head)
        os.mkfifo(raw / "b.img")

    outcome = through(write, seconds=5)
    assert set(outcome.skipped) == set(outcome.failed) == {"a.mhd", "b.hdr"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("mode", [0o000, 0o444], ids=oct)
def test_a_folder_without_permission_is_named(through: Through, tmp_path: Path, mode: int) -> None:
    def write(raw: Path) -> None:
        save_raster(raw / "shut" / "a.png", noise(40, 40)).parent.chmod(mode)

    try:
        outcome = through(write)
    finally:
        (tmp_path / "raw" / "shut").chmod(0o755)
    assert any(name.startswith("shut") for name in outcome.skipped)
    assert any(name.startswith("shut") for name in outcome.failed)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_without_permission_are_named_unless_excluded(tmp_path: Path) -> None:
    save_raster(tmp_path / "good.png", noise(40, 40))
    for name in ("a/one", "a/two", "b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "b").chmod(0)
    (tmp_path / "a").chmod(0o444)
    try:
        found = [find_images(tmp_path, exclude=drop) for drop in ((), ("a/**",), ("b", "*/one"))]
        (tmp_path).chmod(0)
        with pytest.raises(ImageError, match="Permission denied"):
            find_images(tmp_path)
    finally:
        for name in (".", "a", "b"):
            (tmp_path / name).chmod(0o755)
    assert [list(search.not_images) for search in found] == [
        ["a/one", "a/two", "b"], ["b"], ["a/two"],
    ]  # fmt: skip
    assert set(found[0].not_images.values()) == {
        f"the folder cannot be opened: {os.strerror(errno.EACCES)}"
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(through: Through) -> None:
    outcome = through(lambda raw: save_raster(raw / "shut.png", noise(40, 40)).chmod(0))
    assert list(outcome.skipped) == list(outcome.failed) == ["shut.png"]
    assert "Permission" in outcome.skipped["shut.png"]


# ---- files that go while they are read

KINDS: dict[str, Write] = {
    "gone.png": lambda path: save_raster(path, noise(40, 40)),
    "gone.dcm": ct,
    "gone.nii": lambda path: save_nifti(path, VOLUME),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("when", ["found", "header"])
def test_prepare_names_a_file_that_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, name: str
) -> None:
    raw = write_good(tmp_path / "raw")
    KINDS[name](raw / name)
    module, step = (prepare_module, "find_images") if when == "found" else (plan, "find_scans")
    remove_after(monkeypatch, module, step, raw / name)
    result = prepared(raw, tmp_path / "data")
    assert list(result.skipped) == [name]
    assert set(preparing.by_file(tmp_path / "data", "file", modality=NAME)) == GOOD


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("step", ["find_images", "find_scans"])
def test_translate_names_a_file_that_went(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, step: str, name: str
) -> None:
    raw = write_good(tmp_path / "raw")
    KINDS[name](raw / name)
    remove_after(monkeypatch, inputs, step, raw / name)
    result = translated(raw, tmp_path / "out", model)
    assert list(result.failed) == [name]
    assert str(tmp_path) not in result.failed[name]
    assert result.files == 3


def test_translate_names_a_file_that_went_before_its_output(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_good(tmp_path / "raw")
    ct(raw / "gone.dcm")
    usual = Engine.start

    def computed(self: Any, batch: Any) -> Any:
        (raw / "gone.dcm").unlink(missing_ok=True)
        return usual(self, batch)

    monkeypatch.setattr(Engine, "start", computed)
    result = translated(raw, tmp_path / "out", model)
    assert list(result.failed) == ["gone.dcm"]


def remove_after(monkeypatch: pytest.MonkeyPatch, module: Any, step: str, path: Path) -> None:
    usual = getattr(module, step)

    def then_remove(*args: Any, **options: Any) -> Any:
        result = usual(*args, **options)
        path.unlink()
        return result

    monkeypatch.setattr(module, step, then_remove)


# ---- the command line


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.dcm", lambda path: truncate(ct(path))),
        ("a.png", lambda path: png(path, 100_000, 100_000)),
        ("a.nii.gz", lambda path: nifti(path, None, shape=(2500, 2500, 2500))),
        ("a.mhd", lambda path: mhd(path, "/etc/passwd")),
        ("a\n.nii", nan_text),
        (os.fsdecode(b"a\xff.jpg"), lambda path: path.write_bytes(b"")),
    ],
    ids=["truncated", "claims", "30-GiB", "outside", "nan", "bytes"],
)
def test_strict_refuses(tmp_path: Path, name: str, write: Write) -> None:
    raw = write_good(tmp_path / "raw")
    write(raw / name)
    command = [
        "prepare", str(raw), "--modality", NAME, "--data", str(tmp_path / "data"),
        "--label", "regex:(.)[^/]*$", "--patient", "file", "--task", "classification",
        "--recipe", "mr", "--workers", "1", "--size", "32",
    ]  # fmt: skip
    for strict in (True, False):
        result = CliRunner().invoke(app, [*command, *["--strict"] * strict])
        assert result.exit_code == int(strict), result.output
        assert isinstance(result.exception, SystemExit | None)
        assert "Traceback" not in result.output
        if strict:
            assert "--strict" in result.output
            assert not (tmp_path / "data" / NAME).exists()
    assert set(preparing.by_file(tmp_path / "data", "file", modality=NAME)) == GOOD


# ---- other projects' test files


@pytest.mark.filterwarnings("default")
def test_the_files_of_pydicom_and_nibabel(through: Through) -> None:
    files = Path(pydicom.__file__).parent / "data"
    own = {"pydicom": files / "test_files", "charset": files / "charset_files"}
    own["nibabel"] = Path(nibabel.testing.data_path)
    named: dict[str, int] = {}

    def write(raw: Path) -> None:
        for name, source in own.items():
            shutil.copytree(
                source, raw / name, ignore=shutil.ignore_patterns("*.py", "__pycache__")
            )
            named[name] = sum(path.is_file() for path in (raw / name).rglob("*"))

    outcome = through(write, seconds=60)
    assert named["pydicom"] > 150
    assert named["nibabel"] > 30
    assert len(outcome.translated) > 10  # of CT, and what says nothing of itself
    assert outcome.translated.isdisjoint(outcome.failed)
    # paths with an id in them are told apart by number only: they differ in the report
    assert len(outcome.used - outcome.failed.keys()) <= len(outcome.translated)
    assert not any(re.search(r"Traceback|Error\(", text) for text in outcome.failed.values())


def test_series_stay_apart_from_what_is_odd_beside_them(through: Through) -> None:
    def write(raw: Path) -> None:
        write_series(raw / "s", tissue(4, 40), patient="P1", uid="1.2.77")
        truncate(ct(raw / "s" / "cut.dcm", SeriesInstanceUID="1.2.77"))
        coloured(raw / "s" / "rgb.dcm")
        ct(raw / "s" / "small.dcm", noise(20, 20, dtype=np.int16), SeriesInstanceUID="1.2.77")
        (raw / "s" / "notes.txt").write_text("nothing")

    outcome = through(write)
    assert set(outcome.skipped) == {"s/cut.dcm", "s/rgb.dcm", "s/small.dcm"}
    assert set(outcome.failed) == set(outcome.skipped)
    assert len(outcome.used) == len(outcome.translated) == 4


def test_reasons_name_no_patient(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "raw" / "Zebrowski"
    same = {"SOPInstanceUID": "1.2.3.4", "PatientName": "Zebrowski", "PatientID": "Zebrowski"}
    ct(folder / "a.dcm", **same)
    ct(folder / "b.dcm", **same)
    ct(folder / "scout.dcm", **{**same, "SOPInstanceUID": "1.2.3.5"}, ImageType=["A", "B", "SCOUT"])
    truncate(ct(folder / "cut.dcm", **same))
    assert len(translated(tmp_path / "raw", tmp_path / "out", model).failed) == 1
    assert "Zebrowski" not in (tmp_path / "out" / "translation.json").read_text()
