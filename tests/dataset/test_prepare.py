from __future__ import annotations

import csv
import hashlib
import hmac
import json
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile

import medxlate.dataset.assemble
from conftest import Array, noise, save_dicom, save_raster, tree, truncate
from medxlate.base.errors import DataError, ImageError, OutputError, UsageError
from medxlate.base.events import Event, Progress, Warned
from medxlate.dataset.index import Dataset
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.shards import ShardWriter
from medxlate.images.find import find_images
from preparing import (
    ROWS,
    SIZE,
    TAGS,
    by_file,
    public,
    record,
    run,
    save_nifti,
    slices,
    tissue,
    write_raw,
    write_series,
    write_table,
)


@pytest.fixture
def raw(tmp_path):
    """Four images of three patients, and their table."""
    return write_raw(tmp_path / "raw")


# --- what is written -------------------------------------------------------------------------


def test_the_folder_holds_what_is_documented(raw, tmp_path):
    result = run(raw, tmp_path / "data")
    data = tmp_path / "data"
    assert set(tree(data)) == {
        "dataset.json",
        "mri/modality.json",
        "pseudonym.key",
        "mri/",
        "mri/prepare.json",
        "mri/identifiers.json",
        "mri/links.json",
        "mri/slices.parquet",
        "mri/shards/",
        "mri/shards/00000.npy",
    }
    info = json.loads((data / "dataset.json").read_text())
    assert info["image_size"] == SIZE
    assert info["task"] == {"kind": "regression", "name": "age", "unit": "years", "classes": []}
    mri = info["modalities"]["mri"]
    assert (mri["images"], mri["series"], mri["patients"]) == (4, 4, 3)
    assert (mri["widths"], mri["heights"]) == ([40, 40], [40, 40])
    assert mri["labels"] == {"min": 60, "max": 63}
    assert result.dataset == Dataset(data).info
    assert result.skipped == result.notes == result.left_out == {}
    assert (result.state, result.images, result.scans, result.patients) == ("prepared", 4, 4, 3)
    assert (data / "mri" / "identifiers.json").stat().st_mode & 0o777 == 0o600
    assert record(data)["other_files"] == 1
    assert by_file(data, "label") == {"a.png": 60, "b.png": 61, "c.png": 62, "d.png": 63}


def test_stored_pixels_are_those_of_the_files(raw, tmp_path):
    for i, (name, *_) in enumerate(ROWS):
        save_raster(raw / name, noise(SIZE, SIZE, seed=i))
    run(raw, tmp_path / "data", recipe="as-is")
    mri = Dataset(tmp_path / "data").modality("mri")
    for row, name in enumerate(mri.column("file")):
        truth = noise(SIZE, SIZE, seed=[r[0] for r in ROWS].index(name))
        np.testing.assert_array_equal(mri.pixels(row), truth)
        digest = hashlib.sha256(truth.tobytes()).hexdigest()
        assert mri.column("pixel_hash")[row] == digest[:32]


def test_shards_are_closed_when_full_and_every_row_finds_its_pixels(raw, tmp_path, monkeypatch):
    small = partial(ShardWriter, shard_bytes=3 * SIZE * SIZE)
    monkeypatch.setattr(medxlate.dataset.assemble, "ShardWriter", small)
    run(raw, tmp_path / "data", recipe="as-is")
    mri = Dataset(tmp_path / "data").modality("mri")
    assert [len(np.load(shard)) for shard in mri.shards] == [3, 1]
    hashes = [hashlib.sha256(mri.pixels(i).tobytes()).hexdigest()[:32] for i in range(4)]
    assert hashes == mri.column("pixel_hash")
    assert len(set(hashes)) == 4


def test_16_bit_images_keep_their_depth(raw, tmp_path):
    pixels = noise(SIZE, SIZE, dtype=np.uint16)
    save_raster(raw / "a.png", pixels)
    run(raw, tmp_path / "data", recipe="as-is")
    mri = Dataset(tmp_path / "data").modality("mri")
    assert mri.info.recipe.bits == 16
    np.testing.assert_array_equal(mri.pixels(mri.column("file").index("a.png")), pixels)


def test_wide_images_keep_their_aspect_ratio(raw, tmp_path):
    save_raster(raw / "a.png", noise(20, 80))
    run(raw, tmp_path / "data")
    mri = Dataset(tmp_path / "data").modality("mri")
    stored = mri.pixels(mri.column("file").index("a.png"))
    assert (stored != 0).any(1).sum() == SIZE / 4
    assert (stored != 0).any(0).sum() == SIZE
    assert (mri.info.widths, mri.info.heights) == ((40, 80), (20, 40))


def test_kept_columns_stand_in_the_index(raw, tmp_path):
    write_table(raw / "t.csv", [(*row, "F") for row in ROWS], ("file", "age", "who", "sex"))
    run(raw, tmp_path / "data", keep=("sex",))
    assert set(slices(tmp_path / "data")["sex"]) == {"F"}


def test_progress_is_told_and_what_was_skipped_is_warned_of(raw, tmp_path):
    truncate(raw / "a.png")
    heard: list[Event] = []
    run(raw, tmp_path / "data", listener=heard.append)
    done = [event.done for event in heard if isinstance(event, Progress)]
    assert done == [0, 1, 2, 3, 4]
    warned = [event.text for event in heard if isinstance(event, Warned)]
    assert len(warned) == 1
    assert re.search(r"1 file left out; see .*prepare\.json for the reasons", warned[0])


# --- bad input -------------------------------------------------------------------------------


def spoil_text(raw: Path) -> None:
    (raw / "a.png").write_text("no image")


def spoil_truncated(raw: Path) -> None:
    truncate(raw / "a.png")


def spoil_dicom(raw: Path) -> None:
    (raw / "a.png").unlink()
    truncate(save_dicom(raw / "a.dcm", noise(40, 40, dtype=np.int16)))
    write_table(raw / "t.csv", [("a.dcm", "60", "Ann"), *ROWS[1:]])


def spoil_value(raw: Path) -> None:
    save_raster(raw / "a.png", np.full((40, 40), 7, np.uint8))


def spoil_size(raw: Path) -> None:
    save_raster(raw / "a.png", noise(1, 1))


def spoil_row(raw: Path) -> None:
    write_table(raw / "t.csv", ROWS[1:])


def spoil_contradiction(raw: Path) -> None:
    write_table(raw / "t.csv", [*ROWS, ("a.png", "61", "Ann")])


def spoil_missing_age(raw: Path) -> None:
    write_table(raw / "t.csv", [("a.png", "", "Ann"), *ROWS[1:]])


def spoil_age(raw: Path) -> None:
    write_table(raw / "t.csv", [("a.png", "about 60", "Ann"), *ROWS[1:]])


def spoil_patient(raw: Path) -> None:
    write_table(raw / "t.csv", [("a.png", "60", ""), *ROWS[1:]])


SPOILED = [
    (spoil_text, "not an image despite its suffix"),
    (spoil_truncated, "damaged"),
    (spoil_dicom, "truncated: it has 1674 of 3200 bytes"),
    (spoil_value, "all pixels are 7"),
    (spoil_size, "1x1 pixels"),
    (spoil_row, r"has no row in column .*: 'a\.png'"),
    (spoil_contradiction, r"contradictory rows: 2 rows for 'a\.png'"),
    (spoil_missing_age, "label is missing"),
    (spoil_age, "is not a number: 'about 60'"),
    (spoil_patient, "patient is unknown"),
]


@pytest.mark.parametrize(("spoil", "reason"), SPOILED)
def test_an_unusable_file_is_skipped_and_listed_with_its_reason(raw, tmp_path, spoil, reason):
    spoil(raw)
    result = run(raw, tmp_path / "data")
    skipped = record(tmp_path / "data")["skipped"]
    assert list(skipped) == ["a.dcm" if spoil is spoil_dicom else "a.png"]
    assert re.search(reason, *skipped.values())
    assert str(tmp_path) not in str(skipped).replace(str(raw / "t.csv"), "")
    assert result.skipped == skipped
    assert sorted(slices(tmp_path / "data")["file"]) == ["b.png", "c.png", "d.png"]


@pytest.mark.parametrize(("spoil", "reason"), SPOILED)
def test_strict_refuses_an_unusable_file_and_leaves_nothing_on_disk(raw, tmp_path, spoil, reason):
    spoil(raw)
    before = tree(tmp_path)
    with pytest.raises(DataError, match=reason) as caught:
        run(raw, tmp_path / "new" / "data", strict=True)
    assert "--strict: 1 file cannot be used" in caught.value.message
    assert re.search(r"a\.(png|dcm)", caught.value.message)
    assert caught.value.exit_code == 1
    assert tree(tmp_path) == before


def test_strict_is_content_with_good_files(raw, tmp_path):
    assert run(raw, tmp_path / "data", strict=True).skipped == {}


def test_rows_that_agree_twice_are_fine(raw, tmp_path):
    write_table(raw / "t.csv", [*ROWS, *ROWS])
    assert run(raw, tmp_path / "data", strict=True).dataset.modalities["mri"].images == 4


def test_a_lying_suffix_is_read_and_noted(raw, tmp_path):
    (raw / "a.png").rename(raw / "a.jpg")
    write_table(raw / "t.csv", [("a.jpg", "60", "Ann"), *ROWS[1:]])
    run(raw, tmp_path / "data", strict=True)
    assert record(tmp_path / "data")["notes"] == {"a.jpg": "is png"}
    assert "a.jpg" in by_file(tmp_path / "data", "label")


def test_where_no_image_can_be_used_the_reason_is_told(raw, tmp_path):
    write_table(raw / "t.csv", [(name, "old", who) for name, _, who in ROWS])
    before = tree(tmp_path)
    with pytest.raises(
        DataError,
        match=r"4 files, such as a\.png: .* 'old'.*classification",
    ):
        run(raw, tmp_path / "data")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "kind", "reason"),
    [
        ({"label": "agee"}, UsageError, r"no column 'agee'.*'age'"),
        ({"modality": "../up"}, UsageError, r"'\.\./up' is not a valid modality name"),
        ({"modality": "MRI"}, UsageError, "'MRI' is not a valid modality name"),
        ({"size": 30}, UsageError, "--size 30 must be a multiple of 4"),
        ({"size": 0}, UsageError, "--size 0 must be"),
        ({"recipe": "ct"}, DataError, "needs Hounsfield units.*--recipe mr, xray or as-is"),
        ({"recipe": "pet"}, DataError, "needs standardised uptake values.*--recipe mr"),
        ({"recipe": "percentile"}, UsageError, "Unknown recipe 'percentile'"),
        ({"recipe": "as_is"}, UsageError, r"Unknown recipe 'as_is'.*'as-is'"),
        (
            {"window": (40, 400)},
            UsageError,
            "--window applies to the recipes ct and pet only; mri uses",
        ),
        (
            {"n4": True, "recipe": "xray"},
            UsageError,
            "--n4 applies only to dicom, meta, nifti, nrrd, and there are no such files",
        ),
        ({"channel": 1}, DataError, r"a\.png: the file has only one channel, so no channel 1"),
        ({"exclude": ("*.png",)}, ImageError, "4 excluded"),
        ({"labels": Path("none.csv")}, DataError, r"none\.csv does not exist"),
        ({"layout": "lgg"}, UsageError, "Unknown layout 'lgg'"),
    ],
)
def test_a_wrong_call_is_explained_and_leaves_nothing(raw, tmp_path, arguments, kind, reason):
    before = tree(tmp_path)
    with pytest.raises(kind, match=reason) as caught:
        run(raw, tmp_path / "data", **arguments)
    assert caught.value.exit_code == (2 if kind is UsageError else 1)
    assert tree(tmp_path) == before


def test_folders_that_cannot_be_used_are_named(raw, tmp_path):
    with pytest.raises(ImageError, match="nowhere does not exist"):
        run(raw.parent / "nowhere", tmp_path / "data", options=PrepareOptions(label="PatientAge"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file is a file"):
        run(raw, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"empty contains no .* \(nothing found\)"):
        run(tmp_path / "empty", tmp_path / "data", options=PrepareOptions(label="PatientAge"))


# --- labels and patients ---------------------------------------------------------------------


def test_semicolons_bring_decimal_commas(raw, tmp_path):
    rows = [(name, age + ",5", who) for name, age, who in ROWS]
    write_table(raw / "t.csv", rows, separator=";")
    run(raw, tmp_path / "data", strict=True)
    assert by_file(tmp_path / "data", "label")["a.png"] == 60.5


def test_labels_come_from_xlsx(raw, tmp_path):
    frame = pd.DataFrame(ROWS, columns=["file", "age", "who"]).astype({"age": int})
    frame.to_excel(raw / "t.xlsx", index=False)
    run(raw, tmp_path / "data", labels=raw / "t.xlsx", strict=True)
    assert by_file(tmp_path / "data", "label")["d.png"] == 63


def test_labels_come_from_a_sheet_of_a_workbook(raw, tmp_path):
    frame = pd.DataFrame(ROWS, columns=["file", "age", "who"]).astype({"age": int})
    with pd.ExcelWriter(raw / "t.xlsx") as book:
        frame.assign(age=frame["age"] + 10).to_excel(book, sheet_name="later", index=False)
        frame.to_excel(book, sheet_name="scan", index=False)
    run(raw, tmp_path / "data", labels=raw / "t.xlsx", sheet="scan", strict=True)
    assert by_file(tmp_path / "data", "label")["d.png"] == 63
    with pytest.raises(UsageError, match="--sheet needs a label table"):
        run(raw, tmp_path / "other", labels=None, label="PatientAge", sheet="scan")


def test_classes_are_kept_and_counted(raw, tmp_path):
    rows = [("a.png", "ill", "Ann"), ("b.png", "well", "Ann")]
    rows += [("c.png", "ill", "Bob"), ("d.png", "well", "Cem")]
    write_table(raw / "t.csv", rows)
    run(raw, tmp_path / "data", task="classification", label_name="finding")
    info = Dataset(tmp_path / "data").info
    assert info.task.model_dump() == {
        "kind": "classification",
        "name": "finding",
        "unit": "",
        "classes": ("ill", "well"),
    }
    assert info.modalities["mri"].labels == {"ill": 2, "well": 2}
    assert by_file(tmp_path / "data", "label")["b.png"] == "well"


def test_classes_of_a_second_modality_are_added(raw, tmp_path):
    run(raw, tmp_path / "data", task="classification", label_name="f")
    write_table(raw / "t.csv", [(name, "x", who) for name, _, who in ROWS])
    run(raw, tmp_path / "data", "ct", task="classification", label_name="f")
    assert Dataset(tmp_path / "data").info.task.classes == ("60", "61", "62", "63", "x")


def test_dicom_tags_give_ages_in_years_and_patients(tmp_path):
    ages = {"060Y": 60, "018M": 1.5, "012W": 84 / 365.25, "100D": 100 / 365.25}
    for i, age in enumerate(ages):
        pixels = 1024 + noise(40, 40, seed=i).astype(np.int16)
        save_dicom(tmp_path / "raw" / f"{age}.dcm", pixels, PatientAge=age, PatientID=f"P{i // 2}")
    missing = 1024 + noise(40, 40, seed=9).astype(np.int16)
    save_dicom(tmp_path / "raw" / "none.dcm", missing, PatientAge=None)
    data = tmp_path / "data"
    run(tmp_path / "raw", data, "ct", options=PrepareOptions(label="PatientAge"))
    truth = {f"{text}.dcm": years for text, years in ages.items()}
    assert by_file(data, "label", "ct") == pytest.approx(truth)
    patients = by_file(data, "patient", "ct")
    assert patients["060Y.dcm"] == patients["018M.dcm"] != patients["012W.dcm"]
    assert patients["012W.dcm"] == patients["100D.dcm"]
    assert record(data, "ct")["skipped"] == {"none.dcm": "the label is missing"}


@pytest.mark.parametrize(
    ("patient", "groups"),
    [
        ("who", [{"x/P1/a_1.png", "y/P1/b_1.png"}, {"x/P1/c_2.png"}, {"y/P2/d_2.png"}]),
        ("folder:1", [{"x/P1/a_1.png", "x/P1/c_2.png"}, {"y/P1/b_1.png", "y/P2/d_2.png"}]),
        ("folder:-1", [{"x/P1/a_1.png", "x/P1/c_2.png", "y/P1/b_1.png"}, {"y/P2/d_2.png"}]),
        (r"regex:_(\d)", [{"x/P1/a_1.png", "y/P1/b_1.png"}, {"x/P1/c_2.png", "y/P2/d_2.png"}]),
        ("file", [{"x/P1/a_1.png"}, {"x/P1/c_2.png"}, {"y/P1/b_1.png"}, {"y/P2/d_2.png"}]),
    ],
)
def test_patients_come_from_column_folder_pattern_or_file(tmp_path, patient, groups):
    files = {"x/P1/a_1.png": "Ann", "y/P1/b_1.png": "Ann", "x/P1/c_2.png": "B", "y/P2/d_2.png": "C"}
    for i, name in enumerate(files):
        save_raster(tmp_path / "raw" / name, noise(40, 40, seed=i))
    rows = [(name, str(60 + i), who) for i, (name, who) in enumerate(files.items())]
    write_table(tmp_path / "raw" / "t.csv", rows)
    run(tmp_path / "raw", tmp_path / "data", patient=patient)
    found: dict[str, set[str]] = {}
    for name, pseudonym in by_file(tmp_path / "data", "patient").items():
        found.setdefault(pseudonym, set()).add(name)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, groups))


def test_rows_are_matched_by_patient(tmp_path):
    for i, name in enumerate(["Ann/1.png", "Ann/2.png", "Bob/1.png"]):
        save_raster(tmp_path / "raw" / name, noise(40, 40, seed=i))
    write_table(tmp_path / "raw" / "t.csv", [("Ann", "60"), ("Bob", "70")], ("id", "age"))
    run(tmp_path / "raw", tmp_path / "data", file=None, patient="folder:1", patient_column="id")
    labels = by_file(tmp_path / "data", "label")
    assert labels == {"Ann/1.png": 60, "Ann/2.png": 60, "Bob/1.png": 70}


# --- Hounsfield units ------------------------------------------------------------------------


def test_hounsfield_units_come_back_from_the_dataset_within_one_step(tmp_path):
    truth = {}
    for i in range(3):
        hu = np.random.default_rng(i).integers(-160, 241, (SIZE, SIZE))
        truth[f"{i}.dcm"] = hu
        stored = ((hu + 1024) * 2).astype(np.uint16)
        save_dicom(
            tmp_path / "raw" / f"{i}.dcm", stored, RescaleSlope="0.5", RescaleIntercept="-1024"
        )
    run(tmp_path / "raw", tmp_path / "data", "ct", options=PrepareOptions(label="PatientAge"))
    ct = Dataset(tmp_path / "data").modality("ct")
    recipe = ct.info.recipe
    assert (recipe.kind, recipe.unit, recipe.output_range) == ("ct", "HU", (-160, 240))
    for row, name in enumerate(ct.column("file")):
        slope, intercept = recipe.rescale
        back = ct.pixels(row) * slope + intercept
        assert np.abs(back - truth[name]).max() <= 400 / 65535


# --- series and volumes ----------------------------------------------------------------------


def hounsfield(data: Path, row: int, modality: str = "ct") -> Array:
    """Return the stored slice in physical units."""
    ct = Dataset(data).modality(modality)
    slope, intercept = ct.info.recipe.rescale
    return ct.pixels(row) * slope + intercept


def test_slices_of_a_series_lie_in_order_from_the_feet_up(tmp_path):
    volume = tissue(9, side=SIZE)
    names = write_series(tmp_path / "raw" / "b" / "x", volume, patient="B", age=70)
    other = write_series(tmp_path / "raw" / "a" / "y", tissue(3, side=SIZE, seed=1), patient="A")
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=TAGS)
    assert (result.images, result.scans, result.patients) == (12, 2, 2)
    table = slices(tmp_path / "data", "ct")
    assert list(table["file"]) == [f"a/y/{name}" for name in other] + [
        f"b/x/{name}" for name in names
    ]
    assert list(table["series"]) == [0] * 3 + [1] * 9
    assert list(table["position"]) == [*range(3), *range(9)]
    assert list(table["label"]) == [60] * 3 + [70] * 9
    assert table.groupby("series")["patient"].nunique().tolist() == [1, 1]
    for number in range(9):
        back = hounsfield(tmp_path / "data", 3 + number)
        np.testing.assert_allclose(back, volume[number], atol=400 / 65535)


def test_a_series_whose_slices_run_downwards_is_turned(tmp_path):
    """Along the other direction of the normal the same slices are the same scan."""
    volume = tissue(4, side=SIZE)
    turned = [-1, 0, 0, 0, 1, 0]  # rows run to the right: the normal points to the feet
    write_series(tmp_path / "raw", volume, patient="A", ImageOrientationPatient=turned)
    run(tmp_path / "raw", tmp_path / "data", "ct", options=TAGS)
    assert list(slices(tmp_path / "data", "ct")["position"]) == [0, 1, 2, 3]
    for number in range(4):
        back = hounsfield(tmp_path / "data", number)
        np.testing.assert_allclose(back, volume[number][:, ::-1], atol=400 / 65535)


def test_slices_that_cannot_be_used_keep_their_place(tmp_path):
    names = write_series(tmp_path / "raw", tissue(5, side=SIZE), patient="A")
    save_dicom(
        tmp_path / "raw" / names[2],
        np.full((SIZE, SIZE), 24, np.int16),  # air
        PatientID="A",
        SeriesInstanceUID=pydicom.dcmread(tmp_path / "raw" / names[0]).SeriesInstanceUID,
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=[0, 0, -46],
        PixelSpacing=[1, 1],
    )
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=TAGS)
    assert list(result.skipped) == [names[2]]
    assert list(slices(tmp_path / "data", "ct")["position"]) == [0, 1, 3, 4]


def test_a_table_labels_series_by_patient(tmp_path):
    for name, patient in (("x", "A"), ("y", "B")):
        write_series(tmp_path / "raw" / name, tissue(3), patient=patient, PatientAge=None)
    table = write_table(tmp_path / "t.csv", [("A", "41"), ("B", "42")], ("id", "age"))
    known = PrepareOptions(label="age", labels=table, patient_column="id")
    run(tmp_path / "raw", tmp_path / "data", "ct", options=known, strict=True)
    assert list(slices(tmp_path / "data", "ct")["label"]) == [41, 41, 41, 42, 42, 42]


def test_only_the_asked_modality_of_an_archive_is_taken(tmp_path):
    write_series(tmp_path / "raw" / "ct", tissue(2), patient="A")
    write_series(tmp_path / "raw" / "pt", tissue(3, seed=1), patient="A", Modality="PT")
    known = replace(TAGS, dicom_modality="CT")
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=known, strict=True)
    assert result.images == 2
    assert result.left_out == {"DICOM modality PT": 3}
    assert record(tmp_path / "data", "ct")["left_out"] == result.left_out


def view(voxels: Array, plane: str, number: int) -> Array:
    """Return a slice of voxels [x to the right, y to the front, z to the head], by hand.

    Rows run from the front to the back or from head to feet; columns from the patient's right to
    the left, or from the front to the back. Slices run to the head, to the back, to the left.
    """
    if plane == "axial":
        return voxels[::-1, ::-1, number].T
    if plane == "coronal":
        return voxels[::-1, -1 - number, ::-1].T
    return voxels[-1 - number, ::-1, ::-1].T


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_volumes_are_cut_along_the_asked_plane(tmp_path, plane):
    voxels = noise(SIZE, SIZE, SIZE)
    save_nifti(tmp_path / "raw" / "a.nii.gz", voxels)
    write_table(tmp_path / "raw" / "t.csv", [("a.nii.gz", "60", "Ann")])
    result = run(tmp_path / "raw", tmp_path / "data", plane=plane, recipe="as-is", strict=True)
    assert (result.images, result.scans, result.patients) == (SIZE, 1, 1)
    mri = Dataset(tmp_path / "data").modality("mri")
    assert mri.info.recipe.plane == plane
    for number in (0, 1, 17, SIZE - 1):
        stored = mri.pixels(number)
        assert stored.dtype == np.uint16
        np.testing.assert_array_equal(stored, view(voxels, plane, number).astype(int) * 257)
    assert set(mri.column("file")) == {"a.nii.gz"}
    assert set(mri.column("label")) == {60}


def test_slices_across_thick_ones_keep_their_aspect_ratio(tmp_path):
    """16 slices 2 mm apart are as high as 32 pixels of 1 mm are wide."""
    voxels = noise(SIZE, SIZE, 16) // 2 + 100
    save_nifti(tmp_path / "raw" / "a.nii", voxels.astype(np.uint8), spacing=2)
    write_table(tmp_path / "raw" / "t.csv", [("a.nii", "60", "Ann")])
    run(tmp_path / "raw", tmp_path / "data", plane="coronal", recipe="as-is")
    mri = Dataset(tmp_path / "data").modality("mri")
    assert (mri.info.heights, mri.info.widths) == ((16, 16), (SIZE, SIZE))
    assert (mri.pixels(5) > 0).all()


def test_a_volume_of_a_4_d_file_is_chosen(tmp_path):
    voxels = noise(SIZE, SIZE, 8, 3)
    save_nifti(tmp_path / "raw" / "a.nii.gz", voxels)
    write_table(tmp_path / "raw" / "t.csv", [("a.nii.gz", "60", "Ann")])
    raw = tmp_path / "raw"
    for volume in (0, 2):
        run(raw, tmp_path / f"{volume}", recipe="as-is", volume=volume, strict=True)
        mri = Dataset(tmp_path / f"{volume}").modality("mri")
        truth = view(voxels[..., volume], "axial", 3).astype(int) * 257
        np.testing.assert_array_equal(mri.pixels(3), truth)
    for volume, reason in ((None, "a.nii.gz: .*--volume"), (3, "a.nii.gz: ")):
        with pytest.raises(DataError, match=reason):
            run(raw, tmp_path / "data", recipe="as-is", volume=volume)


def test_labels_and_patients_come_from_the_json_file_beside_a_volume(tmp_path):
    for i, name in enumerate(["x/a.nii.gz", "b.nii"]):
        save_nifti(
            tmp_path / "raw" / name, noise(SIZE, SIZE, 8, seed=i), PatientAge=40.5 + i, Who="Q"
        )
    known = PrepareOptions(label="tag:PatientAge", patient="tag:Who", recipe="as-is")
    result = run(tmp_path / "raw", tmp_path / "data", options=known, strict=True)
    assert (result.images, result.scans, result.patients) == (16, 2, 1)
    assert set(by_file(tmp_path / "data", "label").items()) == {
        ("b.nii", 41.5),
        ("x/a.nii.gz", 40.5),
    }


def test_ct_volume_files_are_in_hounsfield_units(tmp_path):
    voxels = tissue(SIZE, side=SIZE).astype(np.int16)
    save_nifti(tmp_path / "raw" / "a.nii.gz", voxels)
    write_table(tmp_path / "raw" / "t.csv", [("a.nii.gz", "60", "Ann")])
    run(tmp_path / "raw", tmp_path / "data", "ct")
    recipe = Dataset(tmp_path / "data").modality("ct").info.recipe
    assert (recipe.kind, recipe.unit, recipe.output_range) == ("ct", "HU", (-160, 240))
    back = hounsfield(tmp_path / "data", 4)
    np.testing.assert_allclose(back, view(voxels, "axial", 4), atol=400 / 65535)


@pytest.mark.parametrize(
    ("shown", "value", "kept"), [(10, 255, False), (11, 255, True), (SIZE**2, 12, False)]
)
def test_near_empty_slices_of_volumes_are_left_out_by_the_stated_rule(tmp_path, shown, value, kept):
    """Fewer than 1 % (of 1024 pixels: 10.24) above 5 % of the range (of 255: 12.75)."""
    voxels = noise(SIZE, SIZE, 3)
    dark = np.zeros(SIZE * SIZE, np.uint8)
    dark[:shown] = value
    dark[-1] = 1  # not all of one value
    voxels[:, :, 1] = dark.reshape(SIZE, SIZE)
    save_nifti(tmp_path / "raw" / "a.nii", voxels)
    write_table(tmp_path / "raw" / "t.csv", [("a.nii", "60", "Ann")])
    result = run(tmp_path / "raw", tmp_path / "data", recipe="as-is")
    assert list(slices(tmp_path / "data")["position"]) == ([0, 1, 2] if kept else [0, 2])
    assert list(result.skipped) == ([] if kept else ["a.nii, slice 2"])
    assert all(reason.startswith("near-empty") for reason in result.skipped.values())


def test_single_images_are_kept_however_little_they_show(raw, tmp_path):
    dark = np.zeros((40, 40), np.uint8)
    dark[3, 3] = 255
    save_raster(raw / "a.png", dark)
    run(raw, tmp_path / "data", recipe="as-is", strict=True)
    assert "a.png" in by_file(tmp_path / "data", "label")


def test_percentiles_are_those_of_the_whole_volume(tmp_path):
    """One slice is brighter than the others, and stays so."""
    voxels = noise(SIZE, SIZE, 8) // 4 + 20
    voxels[:, :, 5] *= 2
    save_nifti(tmp_path / "raw" / "a.nii", voxels.astype(np.uint8))
    write_table(tmp_path / "raw" / "t.csv", [("a.nii", "60", "Ann")])
    run(tmp_path / "raw", tmp_path / "data", percentiles=(1, 99))
    mri = Dataset(tmp_path / "data").modality("mri")
    low, high = np.percentile(voxels, (1, 99))
    assert mri.info.recipe.output_range == pytest.approx((low, high))
    means = [float(mri.pixels(row).mean()) for row in range(8)]
    assert means[5] > 1.5 * max(means[:5] + means[6:])


# --- patients across modalities --------------------------------------------------------------


def test_one_patient_has_one_pseudonym_in_both_modalities_and_no_real_id(raw, tmp_path):
    data = tmp_path / "data"
    names = ("Wolkenstein", "Zebrowski", "Quitterie")
    table = [(f, a, names[["Ann", "Bob", "Cem"].index(who)]) for f, a, who in ROWS]
    write_table(raw / "t.csv", table)
    run(raw, data, "mri")
    write_table(raw / "t.csv", list(reversed(table)))
    run(raw, data, "ct")
    mri, ct = by_file(data, "patient", "mri"), by_file(data, "patient", "ct")
    assert mri == ct
    assert len(set(mri.values())) == 3
    key = bytes.fromhex((data / "pseudonym.key").read_text())
    for name, _, who in table:
        assert mri[name] == "p" + hmac.new(key, who.encode(), "sha256").hexdigest()[:16]
    content = public(data)
    assert not [name for name in names if name.encode() in content]


def test_the_key_is_private_and_drawn_anew_for_each_dataset(raw, tmp_path):
    keys = []
    for name in ("one", "two"):
        run(raw, tmp_path / name)
        path = tmp_path / name / "pseudonym.key"
        assert path.stat().st_mode & 0o777 == 0o600
        keys.append(bytes.fromhex(path.read_text()))
    assert len(keys[0]) == len(keys[1]) == 32
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "is missing"), ("", "is missing or damaged"), ("xyz", "is missing or damaged")],
)
def test_a_second_modality_without_the_key_is_refused(raw, tmp_path, content, reason):
    data = tmp_path / "data"
    run(raw, data)
    (data / "pseudonym.key").unlink()
    if content is not None:
        (data / "pseudonym.key").write_text(content)
    before = tree(data)
    with pytest.raises(DataError, match=rf"pseudonym\.key {reason}"):
        run(raw, data, "ct")
    assert tree(data) == before


# --- an existing dataset ---------------------------------------------------------------------


def test_a_second_modality_joins_and_takes_the_size(raw, tmp_path):
    run(raw, tmp_path / "data")
    first = {k: v for k, v in tree(tmp_path / "data").items() if k.startswith("mri/")}
    result = run(raw, tmp_path / "data", "ct", size=None)
    assert sorted(result.dataset.modalities) == ["ct", "mri"]
    assert Dataset(tmp_path / "data").modality("ct").pixels(0).shape == (SIZE, SIZE)
    assert {k: v for k, v in tree(tmp_path / "data").items() if k.startswith("mri/")} == first


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"size": 64}, "images of the dataset are 32 px, not 64 px.*--size"),
        ({"task": "classification"}, "label of the dataset is age.*--label-name age"),
        ({"label_name": "years_old"}, "label of the dataset is age.*--label-name age"),
        ({"unit": "months"}, "unit 'years'.*Give both ages in years"),
    ],
)
def test_a_second_modality_must_have_the_datasets_size_and_task(raw, tmp_path, arguments, reason):
    run(raw, tmp_path / "data")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=reason):
        run(raw, tmp_path / "data", "ct", **arguments)
    assert tree(tmp_path) == before


def test_a_modality_is_replaced_only_when_asked(raw, tmp_path):
    run(raw, tmp_path / "data")
    before = tree(tmp_path / "data")
    write_table(raw / "t.csv", [(name, "33", who) for name, _, who in ROWS])
    with pytest.raises(
        OutputError,
        match=r"mri already exists and was made from other files, labels or options.*--overwrite",
    ):
        run(raw, tmp_path / "data")
    assert tree(tmp_path / "data") == before
    result = run(raw, tmp_path / "data", overwrite=True)
    assert result.dataset.modalities["mri"].labels == {"min": 33, "max": 33}
    assert set(by_file(tmp_path / "data", "label").values()) == {33}
    assert set(tree(tmp_path / "data")) == set(before)


def test_overwrite_spares_a_folder_that_medxlate_did_not_write(raw, tmp_path):
    (tmp_path / "data" / "mri").mkdir(parents=True)
    (tmp_path / "data" / "mri" / "thesis.txt").write_text("precious")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"not written by medxlate \(it has no prepare\.json\)"):
        run(raw, tmp_path / "data", overwrite=True)
    assert tree(tmp_path) == before


def damage_json(data: Path) -> None:
    (data / "dataset.json").write_text("{")


def damage_version(data: Path) -> None:
    info = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**info, "schema_version": 99}))


def damage_key(data: Path) -> None:
    info = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**info, "image_size": "big"}))


def damage_table(data: Path) -> None:
    truncate(data / "mri" / "slices.parquet")


def damage_shard(data: Path) -> None:
    truncate(data / "mri" / "shards" / "00000.npy")


def damage_rows(data: Path) -> None:
    slices(data).iloc[:-1].to_parquet(data / "mri" / "slices.parquet")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_json, r"dataset\.json cannot be read"),
        (damage_version, "schema version 99"),
        (damage_key, r"dataset\.json is damaged: image_size"),
        (damage_table, "mri is damaged"),
        (damage_shard, "mri is damaged"),
        (damage_rows, "differ in length"),
    ],
)
def test_a_damaged_dataset_is_called_so(raw, tmp_path, damage, reason):
    run(raw, tmp_path / "data")
    damage(tmp_path / "data")
    with pytest.raises(DataError, match=reason):
        Dataset(tmp_path / "data").modality("mri")


def test_what_is_no_dataset_and_an_unknown_modality_are_named(raw, tmp_path):
    with pytest.raises(DataError, match=r"is not a dataset: it has no dataset\.json"):
        Dataset(raw)
    run(raw, tmp_path / "data")
    with pytest.raises(DataError, match=r"'mr' was not prepared .* Did you mean 'mri'\?"):
        Dataset(tmp_path / "data").modality("mr")


# --- the real files --------------------------------------------------------------------------


def test_real_chest_ct_has_the_ages_of_its_tags(real_data, tmp_path):
    raw = real_data("chest-ct")
    result = run(raw, tmp_path, "ct", options=PrepareOptions(label="PatientAge"))
    truth, patients, instances = {}, {}, {}
    for found in find_images(raw).images:
        header = pydicom.dcmread(found.path, stop_before_pixels=True)
        assert header.PatientAge.endswith("Y")
        truth[found.relative] = int(header.PatientAge[:-1])
        patients[found.relative] = str(header.PatientID)
        instances[found.relative] = str(header.SOPInstanceUID)
    assert len(truth) == 63
    times = Counter(instances.values())
    for name, reason in result.skipped.items():  # four files are stored twice
        first = reason.removeprefix("a copy of another file: ")
        assert instances[name] == instances[first]
        assert times[instances[name]] == 2
        assert (raw / name).read_bytes() == (raw / first).read_bytes()
    assert len(result.skipped) == 63 - len(times) == 4
    used = {name: age for name, age in truth.items() if name not in result.skipped}
    assert by_file(tmp_path, "label", "ct") == used
    pseudonyms = by_file(tmp_path, "patient", "ct")
    pairs = {(patients[name], pseudonyms[name]) for name in used}
    assert len(pairs) == len(set(patients.values())) == len(set(pseudonyms.values())) == 34
    assert not set(patients.values()) & set(slices(tmp_path, "ct")["patient"])
    assert not any(patient.encode() in public(tmp_path) for patient in patients.values())


def test_real_chest_x_rays_have_the_ages_of_their_table(real_data, tmp_path):
    raw = real_data("chest-xray")
    run(
        raw,
        tmp_path,
        "xray",
        options=PrepareOptions(
            label="age", labels=raw / "metadata.csv", file="filename", patient="patientid"
        ),
        strict=True,
    )
    with (raw / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        truth = {f"images/{row['filename']}": row for row in csv.DictReader(stream)}
    assert len(truth) == 117
    assert by_file(tmp_path, "label", "xray") == {f: float(r["age"]) for f, r in truth.items()}
    pseudonyms = by_file(tmp_path, "patient", "xray")
    pairs = {(truth[name]["patientid"], pseudonyms[name]) for name in truth}
    assert len(pairs) == len(set(pseudonyms.values())) == len({p for p, _ in pairs})
    pngs = {name for name in truth if (raw / name).read_bytes().startswith(b"\x89PNG")}
    lying = {name for name in pngs if not name.lower().endswith(".png")}
    assert lying
    assert record(tmp_path, "xray")["notes"] == dict.fromkeys(lying, "is png")


def test_real_lgg_through_its_layout_leaves_masks_out(real_data, tmp_path):
    raw = real_data("lgg-mri-native")
    run(raw, tmp_path, options=PrepareOptions(), layout="lgg-mri", size=256, strict=True)
    with next(raw.rglob("data.csv")).open(encoding="utf-8", newline="") as stream:
        ages = {row["Patient"]: row["age_at_initial_pathologic"] for row in csv.DictReader(stream)}
    mri = Dataset(tmp_path).modality("mri")
    assert (len(mri.slices), mri.info.images, mri.info.patients) == (72, 72, 12)
    pairs = set()
    for row, file in enumerate(mri.column("file")):
        assert "_mask" not in file
        case = Path(file).parent.name
        assert mri.column("label")[row] == float(ages[case[:12]])
        pairs.add((case[:12], mri.column("patient")[row]))
        if row % 12 == 0:  # FLAIR is the second channel
            np.testing.assert_array_equal(mri.pixels(row), tifffile.imread(raw / file)[:, :, 1])
    assert len(pairs) == 12
    assert not {case for case, _ in pairs} & set(mri.column("patient"))


def test_real_lgg_t1_and_flair_join_one_dataset_with_the_same_patients(real_data, tmp_path):
    raw = real_data("lgg-mri-native")
    for modality, channel in (("t1", 0), ("flair", 1)):
        run(raw, tmp_path, modality, options=PrepareOptions(channel=channel), layout="lgg-mri")
    t1, flair = (Dataset(tmp_path).modality(name) for name in ("t1", "flair"))
    assert by_file(tmp_path, "patient", "t1") == by_file(tmp_path, "patient", "flair")
    assert not np.array_equal(t1.pixels(0), flair.pixels(0))


def test_a_name_that_two_images_share_is_not_guessed(raw, tmp_path):
    save_raster(raw / "again" / "a.png", noise(40, 40, seed=9))
    result = run(raw, tmp_path / "data")
    assert set(result.skipped) == {"a.png", "again/a.png"}
    assert "2 images" in result.skipped["a.png"]
    rows = [("a.png", "60", "Ann"), ("again/a.png", "70", "Dan"), *ROWS[1:]]
    write_table(raw / "t.csv", rows)
    run(raw, tmp_path / "data", overwrite=True)
    labels = by_file(tmp_path / "data", "label")
    assert (labels["a.png"], labels["again/a.png"]) == (60, 70)


def test_no_patients_id_gets_into_the_record_of_skipped_files(tmp_path):
    for i, patient in enumerate(("ANNA", "BERTA")):
        pixels = noise(40, 40, seed=i, dtype=np.int16)
        save_dicom(tmp_path / "raw" / f"{i}.dcm", pixels, PatientID=patient)
    table = write_table(tmp_path / "t.csv", [("ANNA", "60")], columns=("id", "age"))
    known = PrepareOptions(
        label="age", labels=table, patient="tag:PatientID", patient_column="id", recipe="as-is"
    )
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=known)
    assert list(result.skipped) == ["1.dcm"]
    everything = public(tmp_path / "data")
    assert b"ANNA" not in everything
    assert b"BERTA" not in everything
    held = (tmp_path / "data" / "ct" / "identifiers.json").read_text()
    assert "ANNA" in held
    assert "BERTA" in held


def test_a_class_that_is_gone_after_preparing_again_is_gone(raw, tmp_path):
    rows = [(name, "sikc" if name == "a.png" else "sick", who) for name, _, who in ROWS]
    write_table(raw / "t.csv", rows)
    run(raw, tmp_path / "data", task="classification")
    assert Dataset(tmp_path / "data").info.task.classes == ("sick", "sikc")
    write_table(raw / "t.csv", [(name, "sick", who) for name, _, who in ROWS])
    run(raw, tmp_path / "data", task="classification", overwrite=True)
    assert Dataset(tmp_path / "data").info.task.classes == ("sick",)


def test_a_kill_between_the_two_renames_is_noticed(raw, tmp_path):
    run(raw, tmp_path / "data", recipe="as-is")
    summary = (tmp_path / "data" / "dataset.json").read_bytes()
    run(raw, tmp_path / "data", recipe="mr", overwrite=True)
    (tmp_path / "data" / "dataset.json").write_bytes(summary)  # the folder is new, this is old
    with pytest.raises(DataError, match="Prepare it again"):
        Dataset(tmp_path / "data").modality("mri")


def test_an_excluded_file_is_not_looked_at(raw, tmp_path):
    (raw / "junk.png").write_text("no image")
    assert "junk.png" in run(raw, tmp_path / "a").skipped
    assert run(raw, tmp_path / "b", exclude=("junk*",), strict=True).skipped == {}
