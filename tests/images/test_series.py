"""Whose slices make a series, what is a copy, and what padding is, against what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from conftest import noise, open_file, save_dicom, save_raster
from medxlate.base.errors import DataError
from medxlate.base.events import Event, Warned
from medxlate.dataset.options import PrepareOptions
from medxlate.images.dicom.copies import OTHER_PIXELS
from medxlate.images.dicom.series import SHARED_UID
from medxlate.images.find import find_images
from medxlate.images.grouping import FoundScans, find_scans
from medxlate.images.open import open_slices, open_stack
from medxlate.images.recipes import Recipe
from preparing import TAGS, run, save_nifti, slices, tissue, write_series, write_table

UID = "1.2.826.0.1.99.1"
WINDOW = Recipe(kind="ct", window=(40.0, 400.0), unit="HU")
PERCENTILES = Recipe(kind="mr", percentiles=(0.5, 99.5))


def scans_in(folder: Path) -> FoundScans:
    return find_scans(find_images(folder))


# ---- patients


def test_two_patients_under_one_uid_stay_two(tmp_path: Path) -> None:
    """At the same positions, one would hide the other; prepared apart, neither hides."""
    for number, patient in enumerate(("Zebra", "Yak")):
        volume = tissue(4, seed=number)
        write_series(tmp_path / "raw" / patient, volume, patient=f"ID-{patient}", uid=UID)
        write_series(tmp_path / patient, volume, patient=f"ID-{patient}", uid=UID)
    result = run(tmp_path / "raw", tmp_path / "both", "ct", options=TAGS)
    hashes = set()
    for patient in ("Zebra", "Yak"):
        run(tmp_path / patient, tmp_path / f"{patient}.data", "ct", options=TAGS)
        hashes |= set(slices(tmp_path / f"{patient}.data", "ct")["pixel_hash"])
    assert set(slices(tmp_path / "both", "ct")["pixel_hash"]) == hashes
    assert (result.images, result.scans, result.patients, result.skipped) == (8, 2, 2, {})
    assert set(result.notes.values()) == {SHARED_UID}
    assert len(result.notes) == 2
    assert "ID-" not in str(result.notes)


@pytest.mark.parametrize("anonymous", [{"PatientName": "A^B"}, {"PatientBirthDate": "19700101"}])
def test_without_an_id_name_or_birth_date_tell_patients_apart(
    tmp_path: Path, anonymous: dict[str, str]
) -> None:
    write_series(tmp_path / "a", tissue(3), patient="", uid=UID, **anonymous)
    write_series(tmp_path / "b", tissue(3, seed=1), patient="", uid=UID)
    assert [scan.name for scan in scans_in(tmp_path).scans] == ["a", "b"]


@pytest.mark.parametrize("patient", ["folder:1", r"regex:^(\w+)/", "tag:AccessionNumber"])
def test_the_patient_that_the_user_names_counts(tmp_path: Path, patient: str) -> None:
    for number, name in enumerate("ab"):
        write_series(
            tmp_path / "raw" / name, tissue(3, seed=number), patient="", uid=UID,
            AccessionNumber=name,
        )  # fmt: skip
    options = replace(TAGS, patient=patient)
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=options)
    assert (result.images, result.scans, result.patients) == (6, 2, 2)


def test_a_series_that_the_table_gives_to_two_patients_is_left_out(tmp_path: Path) -> None:
    names = write_series(tmp_path / "raw" / "s", tissue(4), patient="", uid=UID)
    rows = [(f"s/{name}", "60", "AB"[number > 1]) for number, name in enumerate(names)]
    table = write_table(tmp_path / "t.csv", rows)
    options = PrepareOptions(label="age", labels=table, file="file", patient="who")
    with pytest.raises(DataError, match="its series contains files of several patients"):
        run(tmp_path / "raw", tmp_path / "data", "ct", options=options)


# ---- labels of single slices


def flat_series(folder: Path) -> dict[str, str]:
    """Write two series of four slices into one folder; return a class by file but for the first."""
    classes = {}
    for number, patient in enumerate("AB"):
        names = write_series(tmp := folder / patient, tissue(4, seed=number), patient=patient)
        for name in names:
            (tmp / name).rename(folder / f"{patient}{name}")
        (tmp).rmdir()
        for name in sorted(f"{patient}{name}" for name in names)[1:]:
            classes[name] = "bleed" if len(classes) % 2 else "none"
    return classes


@pytest.mark.parametrize("where", [(), ("dx == 'bleed'",)])
def test_a_slice_without_a_label_has_nobody_elses(tmp_path: Path, where: tuple[str, ...]) -> None:
    """A series in a folder with others is called like its first file."""
    classes = flat_series(tmp_path / "raw")
    rows = [(name, label) for name, label in classes.items()]
    table = write_table(tmp_path / "t.csv", rows, columns=("file", "dx"))
    options = PrepareOptions(
        label="dx", labels=table, file="file", patient="tag:PatientID", task="classification",
        where=where,
    )  # fmt: skip
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=options)
    wanted = {name: label for name, label in classes.items() if not where or label == "bleed"}
    found = slices(tmp_path / "data", "ct")
    assert dict(zip(found["file"], found["label"], strict=True)) == wanted
    assert len([name for name in result.skipped if "no row" in result.skipped[name]]) == 2


@pytest.mark.parametrize(
    ("where", "reason"),
    [((), "have different labels"), (("dx == 'none'",), "were left out")],
)
def test_a_series_cut_across_slices_of_several_labels_is_left_out(
    tmp_path: Path, where: tuple[str, ...], reason: str
) -> None:
    names = write_series(tmp_path / "raw" / "s", tissue(24), patient="A")
    other = write_series(tmp_path / "raw" / "t", tissue(24, seed=1), patient="B")
    rows = [(f"s/{name}", "bleed" if number < 9 else "none") for number, name in enumerate(names)]
    rows += [(f"t/{name}", "none") for name in other]
    table = write_table(tmp_path / "t.csv", rows, columns=("file", "dx"))
    options = PrepareOptions(
        label="dx", labels=table, file="file", patient="tag:PatientID", task="classification",
        plane="coronal", where=where,
    )  # fmt: skip
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=options)
    assert result.patients == 1
    assert {text for name, text in result.skipped.items() if name.startswith("s/")} == {
        f"its series is resliced, but {'some of ' if where else ''}its files {reason}"
    }


# ---- the recipe that is guessed


def test_one_odd_file_does_not_choose_the_recipe(tmp_path: Path) -> None:
    heard: list[Event] = []
    for number, patient in enumerate("AB"):
        write_series(tmp_path / "raw" / patient, tissue(3, seed=number), patient=patient)
    write_series(
        tmp_path / "raw" / "0", tissue(3, seed=4), patient="C", RescaleSlope=None,
        RescaleIntercept=None,
    )  # fmt: skip
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=TAGS, listener=heard.append)
    assert result.dataset is not None
    assert result.dataset.modalities["ct"].recipe.kind == "ct"
    assert result.patients == 2
    (text,) = [e.text for e in heard if isinstance(e, Warned) and "--recipe" in e.text]
    assert "ct for 2, mr for 1" in text


def test_a_file_that_is_not_used_has_no_say(tmp_path: Path) -> None:
    write_series(tmp_path / "raw" / "s", tissue(3), patient="A")
    save_raster(tmp_path / "raw" / "a.png", noise(24, 24))
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=TAGS)
    assert result.dataset is not None
    assert result.dataset.modalities["ct"].recipe.kind == "ct"


def test_ct_without_hounsfield_units_is_said(tmp_path: Path) -> None:
    heard: list[Event] = []
    write_series(tmp_path / "raw", tissue(3), patient="C", RescaleSlope=None, RescaleIntercept=None)
    run(tmp_path / "raw", tmp_path / "data", "ct", options=TAGS, listener=heard.append)
    assert any("not in Hounsfield units" in e.text for e in heard if isinstance(e, Warned))


def test_slices_of_several_acquisitions_are_noted(tmp_path: Path) -> None:
    for number in range(2):
        write_series(
            tmp_path / "raw" / f"{number}", tissue(3, seed=number), patient="A", uid=UID,
            AcquisitionNumber=number + 1,
        )  # fmt: skip
    write_series(tmp_path / "raw" / "z", tissue(3, seed=5), patient="B", AcquisitionNumber=1)
    for path in (tmp_path / "raw" / "1").iterdir():
        values = pydicom.dcmread(path)
        values.ImagePositionPatient[2] += 1.0  # between the slices of the other
        values.save_as(path, enforce_file_format=True)
    found = scans_in(tmp_path / "raw")
    noted = [name for name, text in found.notes.items() if "several acquisitions" in text]
    assert len(noted) == 1


# ---- copies


def again(path: Path, name: str, change: Any) -> Path:
    """Write a file anew under another name, under its old SOPInstanceUID."""
    values = pydicom.dcmread(path)
    change(values)
    values.save_as(path.with_name(name), enforce_file_format=True)
    return path.with_name(name)


def repaint(values: Dataset) -> None:
    values.PixelData = noise(24, 24, seed=99, dtype=np.int16).tobytes()


def pack(values: Dataset) -> None:
    values.compress(RLELossless, generate_instance_uid=False)


def test_a_copy_in_another_transfer_syntax_is_a_copy(tmp_path: Path) -> None:
    first = write_series(tmp_path / "s", tissue(3), patient="A")[0]
    again(tmp_path / "s" / first, "z.dcm", pack)
    found = scans_in(tmp_path)
    assert len(found.scans[0].files) == 3
    assert found.skipped == {"s/z.dcm": f"a copy of another file: s/{first}"}


def test_other_pixels_under_one_instance_uid_are_no_copy(tmp_path: Path) -> None:
    first = write_series(tmp_path / "s", tissue(3), patient="A")[0]
    again(tmp_path / "s" / first, "y.dcm", repaint)
    again(tmp_path / "s" / "y.dcm", "z.dcm", pack)
    found = scans_in(tmp_path)
    assert found.skipped == {
        "s/y.dcm": f"{OTHER_PIXELS}: s/{first}",
        "s/z.dcm": "a copy of another file: s/y.dcm",
    }
    assert found.notes == {f"s/{first}": OTHER_PIXELS}
    with pytest.raises(DataError, match="SOPInstanceUID"):
        run(tmp_path / "s", tmp_path / "data", "ct", options=TAGS, strict=True)


def test_radiographs_of_one_instance_uid_are_all_used(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", noise(24, 24, dtype=np.int16), SeriesInstanceUID=UID)
    again(path, "b.dcm", repaint)
    found = scans_in(tmp_path)
    assert [scan.name for scan in found.scans] == ["a.dcm", "b.dcm"]
    assert found.notes == {"b.dcm": f"{OTHER_PIXELS}: a.dcm"}


# ---- padding

BORDER = np.zeros((32, 40), dtype=bool)
BORDER[:5] = BORDER[:, 33:] = True
CASES: dict[str, tuple[Any, list[int], dict[str, Any]]] = {
    "below": (np.int16, [-2000], {}),
    "above": (np.int16, [32767], {}),
    "unsigned": (np.uint16, [63536], {}),
    "a range": (np.int16, [-2000, -1990, -1995], {}),
    "a range downwards": (np.int16, [-1990, -2000, -1993], {}),
    "MONOCHROME1": (np.uint16, [65535], {"PhotometricInterpretation": "MONOCHROME1"}),
    "scaled": (np.int16, [-2000], {"RescaleSlope": "0.37", "RescaleIntercept": "-3.1"}),
    "12 bits": (np.uint16, [4095], {"BitsStored": 12, "HighBit": 11}),
    "beyond its 12 bits": (np.uint16, [63536], {"BitsStored": 12, "HighBit": 11}),
    "8 bits": (np.uint8, [255], {}),
}


@pytest.mark.parametrize("recipe", [PERCENTILES, Recipe(kind="xray", percentiles=(1.0, 99.0))])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("packed", [False, True])
def test_padding_is_background_and_no_intensity(
    tmp_path: Path, case: str, recipe: Recipe, packed: bool
) -> None:
    """Percentiles are numpy's of what is not padding; padding is black; the rest stays."""
    kind, values, attributes = CASES[case]
    if packed and case == "beyond its 12 bits":
        pytest.skip("a packed pixel has no unused bits")
    shown = np.random.default_rng(0).integers(20, 200, (32, 40)).astype(kind)
    attributes = {"Modality": "MR", "RescaleSlope": "1", "RescaleIntercept": "0"} | attributes
    plain = save_dicom(tmp_path / "plain.dcm", shown, **attributes)
    stored = shown.copy()
    stored[BORDER] = np.resize(values, BORDER.sum())
    attributes |= {"PixelPaddingValue": values[0]}
    if len(values) > 1:
        attributes |= {"PixelPaddingRangeLimit": values[1]}
    path = save_dicom(tmp_path / "padded.dcm", stored, **attributes)
    if packed:
        path = again(path, "packed.dcm", pack)
    truth = open_file(plain)[1].read(0)
    scan, stack = open_file(path)
    np.testing.assert_array_equal(np.isnan(stack.read(0)), BORDER)
    np.testing.assert_array_equal(stack.read(0)[~BORDER], truth[~BORDER])
    low, high = np.percentile(truth[~BORDER], recipe.percentiles or ())
    assert recipe.limits(stack) == pytest.approx((low, high))
    truth[BORDER] = low  # black
    (found,) = open_slices(scan, recipe, 40).slices
    wanted = recipe.store(truth, 40, limits=(low, high))
    np.testing.assert_array_equal(found.stored, wanted)


@pytest.mark.parametrize("value", [-2000, 3000])
@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_a_padded_ct_is_the_one_in_air(tmp_path: Path, value: int, plane: Any) -> None:
    """Windowed and resampled to another size, cut as stored or across, padding is air."""
    volume = np.random.default_rng(1).integers(-100, 200, (12, 32, 40))
    volume[:, BORDER] = -1000
    write_series(tmp_path / "air", volume, patient="A")
    volume[:, BORDER] = value - 1024
    write_series(tmp_path / "pad", volume, patient="A", PixelPaddingValue=value)
    recipe = WINDOW.model_copy(update={"plane": plane})
    found = {scan.name: scan for scan in scans_in(tmp_path).scans}
    for one, other in zip(
        open_slices(found["air"], recipe, 24).slices,
        open_slices(found["pad"], recipe, 24).slices,
        strict=True,
    ):
        assert one.stored is not None
        np.testing.assert_array_equal(one.stored, other.stored)


def test_padding_does_not_bend_the_bias_field(tmp_path: Path) -> None:
    """N4 finds the field that it finds where the border is empty, as it is outside of a head."""
    y, x = np.mgrid[0:32, 0:40]
    head = (y - 18) ** 2 + (x - 16) ** 2 < 120
    volume = np.where(head, 400 + 8 * x + np.random.default_rng(2).integers(0, 30, (6, 32, 40)), 0)
    places = {"empty": 0, "padded": 30000}
    stacks = {}
    for name, value in places.items():
        volume[:, BORDER] = value - 1024  # write_series adds it again
        shown = np.where(BORDER, volume, volume - 1024)
        attributes = {"Modality": "MR", "RescaleIntercept": "0"}
        if value:
            attributes |= {"PixelPaddingValue": value}
        write_series(tmp_path / name, shown, patient="A", **attributes)
    recipe = PERCENTILES.model_copy(update={"n4": True})
    for scan in scans_in(tmp_path).scans:
        stacks[scan.name] = open_stack(scan, recipe)
    for number in range(6):
        truth, found = (stacks[name].read(number) for name in places)
        np.testing.assert_array_equal(found[~BORDER], truth[~BORDER])
    assert not np.array_equal(stacks["empty"].read(0)[head], volume[0][head])  # it found one


def test_a_slice_of_padding_alone_is_refused(tmp_path: Path) -> None:
    path = save_dicom(
        tmp_path / "a.dcm", np.full((24, 24), -2000, np.int16), PixelPaddingValue=-2000
    )
    scan, stack = open_file(path)
    assert np.isnan(stack.read(0)).all()
    with pytest.raises(Exception, match="all voxels are padding"):
        open_slices(scan, PERCENTILES, 24)


# ---- Hounsfield units that were lost


@pytest.mark.parametrize(("lowest", "noted"), [(-1, False), (0, True)])
@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_a_ct_without_a_negative_value_is_noted(
    tmp_path: Path, lowest: int, noted: bool, kind: str
) -> None:
    volume = tissue(12) + 151 + lowest  # the lowest of them is -150
    volume[5, 3, 3] = lowest
    volume = np.maximum(volume, lowest)
    if kind == "dicom":
        write_series(tmp_path / "raw" / "s", volume, patient="A", age=60)
        name, options = "s", TAGS
    else:
        save_nifti(tmp_path / "raw" / "s.nii.gz", volume.T.astype(np.int16), PatientAge="060Y")
        name, options = "s.nii.gz", replace(TAGS, patient="file")
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=options)
    said = "no voxel is below 0 HU: its values may not be Hounsfield units"
    assert result.notes == ({name: said} if noted else {})
    again = run(tmp_path / "raw", tmp_path / "data", "ct", options=options)
    assert (again.state, again.notes) == ("unchanged", result.notes)


def test_declared_padding_is_no_negative_value(tmp_path: Path) -> None:
    volume = tissue(4) + 200
    volume[:, :3] = -3024
    write_series(tmp_path / "raw" / "s", volume, patient="A", PixelPaddingValue=-2000)
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=TAGS)
    assert "may not be Hounsfield units" in result.notes["s"]
