"""Whole series and volumes through ``translate`` and ``predict``, judged by other tools."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

import tiny
from conftest import noise, save_dicom
from medxlate.images.pseudonym import pseudonym
from medxlate.images.recipes import Recipe
from medxlate.inference.predict import predict
from medxlate.inference.translate import translate
from medxlate.phantoms.files import write_phantoms

CT = Recipe(kind="ct", window=(40, 400), unit="HU", output_range=(-160.0, 240.0))
MR = Recipe(kind="mr", percentiles=(0.5, 99.5), output_range=(0.0, 1500.0))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    return tiny.write_tiny_model(root, source_recipe=CT, target_recipe=CT)


def judge(folder: Path) -> None:
    """Let dciodvfy judge every file below a folder."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    files = sorted(folder.rglob("*.dcm"))
    assert files
    for path in files:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
        assert errors == [], path.name


def converted(folder: Path, out: Path) -> Iterator[nibabel.Nifti1Image]:
    """Let dcm2niix convert a folder."""
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    out.mkdir()
    command = ["dcm2niix", "-b", "n", "-z", "n", "-f", "%s_%j", "-o", out, folder]
    subprocess.run(command, capture_output=True, check=True)
    return (nibabel.load(path) for path in sorted(out.glob("*.nii")))


def test_the_real_chest_ct_becomes_valid_dicom_in_the_same_place(real_data, model, tmp_path):
    source = real_data("chest-ct") / "dicom_dir"
    chosen = sorted(source.glob("*.dcm"))[::7]
    for path in chosen:
        (tmp_path / "in" / path.stem).mkdir(parents=True)
        shutil.copy(path, tmp_path / "in" / path.stem / "slice.dcm")
    result = translate(
        tmp_path / "in", out=tmp_path / "out", model=model, device="cpu", phi="keep", force=True
    )
    assert result.failed == {}
    assert result.files == len(chosen)
    judge(tmp_path / "out")
    for path in chosen[:3]:
        pair = [tmp_path / side / path.stem for side in ("in", "out")]
        (before,), (after,) = (
            tuple(converted(folder, tmp_path / f"{folder.parent.name}-{folder.name}"))
            for folder in pair
        )
        np.testing.assert_allclose(after.affine, before.affine, atol=1e-4)
        assert after.shape == before.shape
        assert -160 <= after.get_fdata().min() < after.get_fdata().max() <= 240


def test_a_phantom_series_becomes_valid_dicom_in_the_same_place(model, tmp_path):
    write_phantoms(tmp_path / "in", patients={"ct": 1}, slices=9, size=48, seed=1)
    translate(tmp_path / "in", out=tmp_path / "out", model=model, device="cpu", force=True)
    judge(tmp_path / "out")
    (before,) = converted(tmp_path / "in/ct/CT001", tmp_path / "nii-in")
    (folder,) = (tmp_path / "out/ct").iterdir()
    (after,) = converted(folder, tmp_path / "nii-out")
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-4)
    assert after.shape == before.shape == (48, 48, 9)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two patients' series, filed under their names."""
    for patient, name in (("ID-4711W", "Muster^Erika"), ("ID-4712W", "Beispiel^Bernd")):
        uid = pydicom.uid.generate_uid()
        for k in range(9):
            save_dicom(
                tmp_path / "in" / patient / "19870612" / f"{k}.dcm",
                noise(32, 32, seed=k, dtype=np.int16) // 64 + 1024,
                PatientID=patient,
                PatientName=name,
                PatientBirthDate="19410203",
                StudyDate="19870612",
                SeriesInstanceUID=uid,
                StudyInstanceUID=uid,
                InstanceNumber=k,
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                ImagePositionPatient=[0, 0, 2.0 * k],
                PixelSpacing=[1, 1],
            )
    return tmp_path / "in"


@pytest.mark.parametrize("phi", ["pseudonymise", "remove"])
def test_no_name_id_or_date_gets_out(archive, model, tmp_path, phi):
    (archive / "ID-4712W" / "19870612" / "4.dcm").write_bytes(b"\0" * 128 + b"DICM damaged")
    key = tmp_path / "pseudonym.key"
    key.write_text("ab" * 32)
    out = tmp_path / "out"
    result = translate(archive, out=out, model=model, device="cpu", phi=phi, key=key, force=True)
    assert result.files == 17
    record = json.loads((out / "translation.json").read_text())
    del record["failed"]  # nothing is known of a file whose header cannot be read
    content = b"".join(path.read_bytes() for path in out.rglob("*.dcm"))
    paths = "".join(path.as_posix() for path in out.rglob("*"))
    for text in (content.decode("latin-1"), paths.replace(str(out), ""), json.dumps(record)):
        for value in ("4711W", "4712W", "Muster", "Erika", "Bernd", "19410203", "19870612"):
            assert value.lower() not in text.lower(), value
    assert len(list(out.rglob("*.dcm"))) == 17
    wanted = pseudonym("ID-4711W", bytes.fromhex("ab" * 32))
    assert (wanted in paths) is (phi == "pseudonymise")
    ids = {pydicom.dcmread(path).PatientID for path in out.rglob("*.dcm")}
    assert (wanted in ids) is (phi == "pseudonymise")


def test_keep_keeps_names_and_paths(archive, model, tmp_path):
    result = translate(
        archive, out=tmp_path / "out", model=model, device="cpu", phi="keep", force=True
    )
    assert result.failed == {}
    path = tmp_path / "out" / "ID-4711W" / "19870612" / "3.dcm"
    header = pydicom.dcmread(path)
    assert header.PatientName == "Muster^Erika"
    assert header.SeriesDescription.startswith("SYNTHETIC")
    assert header.StudyDate == "19870612"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_volume_with_a_slice_that_is_not_finite_is_not_written(tmp_path, model, suffix):
    import SimpleITK

    values = noise(9, 32, 32, dtype=np.int16).astype(np.float32) / 100
    (tmp_path / "in").mkdir()
    for name in ("good", "bad"):
        if name == "bad":
            values[4, 3, 3] = np.nan
        image = SimpleITK.GetImageFromArray(values)
        SimpleITK.WriteImage(image, tmp_path / "in" / f"{name}{suffix}")
    result = translate(tmp_path / "in", out=tmp_path / "out", model=model, device="cpu")
    assert list(result.failed) == [f"bad{suffix}"]
    assert "not finite" in result.failed[f"bad{suffix}"]
    assert not (tmp_path / "out" / f"bad{suffix}").exists()
    out = SimpleITK.ReadImage(tmp_path / "out" / f"good{suffix}")
    assert out.GetPixelID() == SimpleITK.sitkInt16


def test_a_near_empty_slice_becomes_the_targets_black(tmp_path, model):
    values = noise(9, 32, 32, dtype=np.int16) // 256
    values[5] = -1000
    (tmp_path / "in").mkdir()
    nibabel.Nifti1Image(values.transpose(2, 1, 0), np.eye(4)).to_filename(tmp_path / "in/a.nii")
    translate(tmp_path / "in", out=tmp_path / "out", model=model, device="cpu")
    out = np.asarray(nibabel.load(tmp_path / "out/a.nii").dataobj)
    flat = [k for k in range(9) if (out[:, :, k] == -160).all()]
    assert flat == [5]


@pytest.mark.parametrize("target", [CT, MR])
def test_voxels_are_hu_as_int16_or_float(tmp_path, target):
    model = tiny.write_tiny_model(tmp_path / "m", source_recipe=CT, target_recipe=target)
    values = noise(9, 32, 32, dtype=np.int16) // 128
    (tmp_path / "in").mkdir()
    nibabel.Nifti1Image(values.transpose(2, 1, 0), np.eye(4)).to_filename(tmp_path / "in/a.nii.gz")
    translate(tmp_path / "in", out=tmp_path / "out", model=model, device="cpu")
    out = nibabel.load(tmp_path / "out/a.nii.gz")
    assert out.get_data_dtype() == (np.int16 if target is CT else np.float32)
    low, high = target.output_range
    assert low <= out.get_fdata().min() < out.get_fdata().max() <= high
    assert out.get_fdata().std() > (high - low) / 100


def test_predictions_are_given_per_slice_per_volume_and_per_patient(archive, model, tmp_path):
    table = predict(archive, out=tmp_path / "p.csv", model=model, device="cpu").table
    levels = table["level"].value_counts().to_dict()
    assert levels == {"slice": 18, "volume": 2, "patient": 2}
    for level in ("volume", "patient"):
        for _, row in table[table["level"] == level].iterrows():
            own = table[(table["level"] == "slice") & (table["patient"] == row["patient"])]
            assert row["slices"] == len(own) == 9
            assert row["age"] == pytest.approx(own["age"].mean(), abs=1e-3)
    slices = table[table["level"] == "slice"]
    assert sorted(slices["slice"].unique()) == list(range(1, 10))
    assert "ID-47" not in " ".join(table["patient"])
    by_volume = {row["file"] for _, row in table[table["level"] == "volume"].iterrows()}
    assert by_volume == {"ID-4711W/19870612", "ID-4712W/19870612"}


def test_volumes_are_predicted_too(tmp_path, model):
    values = noise(9, 32, 32, dtype=np.int16) // 128
    (tmp_path / "in").mkdir()
    nibabel.Nifti1Image(values.transpose(2, 1, 0), np.eye(4)).to_filename(tmp_path / "in/a.nii.gz")
    table = predict(tmp_path / "in", out=tmp_path / "p.csv", model=model, device="cpu").table
    assert table["level"].value_counts().to_dict() == {"slice": 9, "volume": 1}
    assert set(table["file"]) == {"a.nii.gz"}
