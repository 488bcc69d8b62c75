"""Phantom files and the demo, at a size for tests."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest

from conftest import open_file
from medxlate import walkthrough
from medxlate.cli.demo import _verdict
from medxlate.errors import OutputError
from medxlate.events import Event, Progress
from medxlate.images.recipes import Recipe
from medxlate.phantoms.files import write_phantoms


def test_phantoms_are_real_files_with_labels(tmp_path: Path) -> None:
    heard: list[Event] = []
    patients = {"ct": 2, "mri": 2, "pet": 1}
    write_phantoms(tmp_path, patients=patients, slices=2, size=32, seed=3, listener=heard.append)
    assert heard == [Progress("patients", done, 5) for done in range(1, 6)]
    header = pydicom.dcmread(tmp_path / "ct" / "CT001" / "00.dcm")
    scan, stack = open_file(tmp_path / "ct" / "CT001" / "00.dcm", tags=["PatientAge"])
    assert stack.unit == "HU"
    assert stack.read(0)[0, 0] == pytest.approx(-1000, abs=60)  # air in the corner
    assert stack.read(0).max() > 300  # skull
    assert scan.frames[0].tags["PatientAge"] == header.PatientAge
    assert header.pixel_array.shape == (32, 32)
    first, second = (
        pydicom.dcmread(tmp_path / "ct" / "CT001" / name) for name in ("00.dcm", "01.dcm")
    )
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert second.ImagePositionPatient[2] - first.ImagePositionPatient[2] == 6
    assert pydicom.dcmread(tmp_path / "pet" / "PET001" / "01.dcm").Units == "BQML"
    _, pet = open_file(tmp_path / "pet" / "PET001" / "01.dcm", Recipe(kind="pet"))
    assert pet.unit == "SUVbw"
    assert 1 < pet.read(0).max() < 40
    with (tmp_path / "mri" / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [
        p.name for p in sorted((tmp_path / "mri").glob("*.nii.gz"))
    ]
    volume = nibabel.load(tmp_path / "mri" / rows[0]["file"])
    assert volume.shape == (32, 32, 2)
    assert volume.get_data_dtype() == np.int16
    assert volume.header.get_zooms()[2] == 6


def test_phantoms_follow_from_the_seed_and_patients_differ(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_phantoms(tmp_path / name, patients={"mri": 2}, slices=1, size=32, seed=seed)
    files = [sorted((tmp_path / name / "mri").glob("*.nii.gz")) for name in "abc"]
    pixels = [[np.asarray(nibabel.load(path).dataobj) for path in some] for some in files]
    assert np.array_equal(pixels[0][0], pixels[1][0])
    assert not np.array_equal(pixels[0][0], pixels[2][0])
    assert not np.array_equal(pixels[0][0], pixels[0][1])


def test_demo_runs_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walkthrough, "PATIENTS", {"ct": 8, "mri": 10, "pet": 1})
    monkeypatch.setattr(walkthrough, "SLICES", 2)
    monkeypatch.setattr(walkthrough, "SCAN_SIZE", 32)
    monkeypatch.setattr(walkthrough, "SIZE", 32)
    settings = {
        "model": {"generator_width": 4, "generator_blocks": 1, "discriminator_width": 4,
                  "predictor": "test_resnet"},
        "optimizer": {"epochs": 1, "batch_size": 2},
        "runtime": {"device": "cpu", "precision": "fp32"},
    }  # fmt: skip
    monkeypatch.setattr(walkthrough, "SETTINGS", settings)
    result = walkthrough.demo(tmp_path / "demo")
    figures = [
        each.figure("mse", level="image", of="constant")
        for each in (result.joint, result.target_only)
    ]
    assert figures[0] == figures[1]
    assert (result.translation.files, result.translation.slices) == (10, 20)
    assert list(result.dataset.modalities) == ["ct", "mri", "pet"]
    with PIL.Image.open(result.picture) as picture:
        assert picture.width > picture.height > 200
    with pytest.raises(OutputError):
        walkthrough.demo(tmp_path / "demo")
    walkthrough.demo(tmp_path / "demo", overwrite=True)


def test_demo_never_deletes_a_folder_it_did_not_write(tmp_path: Path) -> None:
    precious = tmp_path / "demo" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(OutputError):
        walkthrough.demo(tmp_path / "demo", overwrite=True)
    assert precious.read_text() == "years of work"


@pytest.mark.parametrize(
    ("alone", "joint", "said"),
    [
        (
            150.0,
            100.0,
            "lower than target-only's (100 against 150); target-only and joint beat the",
        ),
        (150.0, 180.0, "higher than target-only's (180 against 150); target-only and joint beat"),
        (250.0, 180.0, "lower than target-only's (180 against 250); joint beats the constant"),
        (250.0, 280.0, "higher than target-only's (280 against 250); neither beats the constant"),
    ],
)
def test_verdict_says_what_came_out(alone: float, joint: float, said: str) -> None:
    assert said in _verdict(200.0, alone, joint)
