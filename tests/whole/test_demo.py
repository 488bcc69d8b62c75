"""Phantom files and the demo, at a size for tests."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
from typer.testing import CliRunner

from conftest import open_file
from medxlate import walkthrough
from medxlate.artifacts.runs import RunFolder
from medxlate.base.errors import DataError, OutputError, UsageError
from medxlate.base.events import Event, Progress
from medxlate.cli.app import app
from medxlate.cli.demo import _verdict
from medxlate.config import Config
from medxlate.dataset.index import Dataset
from medxlate.images.recipes import Recipe
from medxlate.phantoms import files
from medxlate.phantoms.anatomy import Anatomy, draw_anatomy, render
from medxlate.phantoms.files import POSITIONS, write_phantoms


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
    _, pet = open_file(tmp_path / "pet" / "PET001" / "01.dcm", Recipe(kind="pet", unit="SUVbw"))
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
    scans = [sorted((tmp_path / name / "mri").glob("*.nii.gz")) for name in "abc"]
    pixels = [[np.asarray(nibabel.load(path).dataobj) for path in some] for some in scans]
    assert np.array_equal(pixels[0][0], pixels[1][0])
    assert not np.array_equal(pixels[0][0], pixels[2][0])
    assert not np.array_equal(pixels[0][0], pixels[0][1])


def contents(folder: Path) -> dict[str, bytes | str]:
    """Return what each file holds, of DICOM all but the file's own random UID."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*.*"):
        name = path.relative_to(folder).as_posix()
        found[name] = path.read_bytes()
        if path.suffix == ".dcm":
            header = pydicom.dcmread(path)
            del header.SOPInstanceUID
            found[name] = header.to_json()
    return found


def test_pairs_change_no_other_file(tmp_path: Path) -> None:
    patients = {"ct": 2, "mri": 3, "pet": 2}
    for name, paired in (("without", {}), ("with", {"mri": 2, "pet": 1})):
        write_phantoms(tmp_path / name, patients=patients, slices=2, size=32, paired=paired)
    alone, both = contents(tmp_path / "without"), contents(tmp_path / "with")
    scans = product(("MRI001", "MRI002", "PET001"), (0, 1))
    added = {f"paired_ct/{name}/{k:02d}.dcm" for name, k in scans}
    assert set(both) == set(alone) | added
    assert all(both[name] == content for name, content in alone.items())


def test_a_pair_is_the_same_head_at_the_same_places_with_other_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Anatomy] = []

    def drawing(*args: Any, **options: Any) -> Anatomy:
        drawn.append(draw_anatomy(*args, **options))
        return drawn[-1]

    monkeypatch.setattr(files, "draw_anatomy", drawing)
    write_phantoms(
        tmp_path, patients={"ct": 1, "mri": 3}, slices=3, size=96, seed=5, paired={"mri": 2}
    )
    heads = drawn[1:]  # of MRI; the first is of CT
    for number, head in enumerate(heads[:2]):
        identity = f"MRI{number + 1:03d}"
        volume = nibabel.load(tmp_path / "mri" / f"{identity}.nii.gz")
        series = sorted((tmp_path / "paired_ct" / identity).glob("*.dcm"))
        assert len(series) == volume.shape[2] == 3
        for place, path in enumerate(series):
            header = pydicom.dcmread(path)
            assert header.PatientID == identity
            assert header.PatientAge == f"{int(head.age):03d}Y"
            # Both files say where the first pixel lies; NIfTI counts x and y the other way.
            corner = volume.affine @ [0, 0, place, 1]
            assert header.ImagePositionPatient == pytest.approx(corner[:3] * [-1, -1, 1])
            hu = header.pixel_array + float(header.RescaleIntercept)
            position = POSITIONS[0] + place * float(np.ptp(POSITIONS)) / 2
            # Another noise on the same head leaves noise; another head leaves skull and ventricles.
            truth, stranger = (rendered(each, "ct", position) for each in (head, heads[2]))
            assert 4 < (hu - truth).std() < 13
            assert (hu - stranger).std() > 50
            skull, other = hu > 300, stranger > 300
            assert dice(skull, truth > 300) > 0.98 > 0.9 > dice(skull, other)
            scan = np.asarray(volume.dataobj)[:, :, place].T
            assert (scan - rendered(head, "mri", position)).std() < 80
            assert (scan - rendered(heads[2], "mri", position)).std() > 200


def rendered(head: Anatomy, modality: str, position: float) -> np.ndarray[Any, Any]:
    return render(head, modality, position, size=96, rng=np.random.default_rng(9))


def dice(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize(
    ("patients", "paired", "said"),
    [
        ({}, {}, "No patients"),
        ({"mr": 2}, {}, "mr scans cannot be generated. Known: ct, mri, pet"),
        ({"mri": 0}, {}, "0 mri patients cannot be generated"),
        ({"ct": 2, "mri": -1}, {}, "-1 mri patients cannot be generated"),
        (
            {"ct": 9, "mri": 2},
            {"mri": 3},
            "3 mri patients with an additional CT cannot be generated",
        ),
        ({"mri": 4, "pet": 2}, {"mri": 4, "pet": 3}, "3 pet patients with an additional CT"),
        ({"ct": 9}, {"ct": 1}, "1 ct patients with an additional CT cannot be generated: only 0"),
        ({"mri": 2}, {"mri": -1}, "-1 mri patients with an additional CT"),
    ],
)
def test_impossible_patients_are_refused(
    tmp_path: Path, patients: dict[str, int], paired: dict[str, int], said: str
) -> None:
    for write in (
        lambda: write_phantoms(tmp_path / "raw", patients=patients, slices=1, paired=paired),
        lambda: walkthrough.generate(tmp_path / "raw", patients=patients, paired=paired),
    ):
        with pytest.raises(UsageError, match=said):
            write()
    assert not (tmp_path / "raw").exists()


def test_only_data_writes_patients_that_can_be_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walkthrough, "SLICES", 2)
    monkeypatch.setattr(walkthrough, "SCAN_SIZE", 32)
    monkeypatch.setattr(walkthrough, "train", None)  # nothing is trained
    out = tmp_path / "out"
    words = ["--patients", "ct=2", "--patients", "mri=3", "--paired", "2", "--seed", "4"]
    called = CliRunner().invoke(app, ["demo", "--only-data", str(out), *words, "--json"])
    assert called.exit_code == 0, called.output
    said = json.loads(called.stdout)
    assert said == {"out": str(out), "patients": {"ct": 2, "mri": 3}, "paired": {"mri": 2}}
    assert {path.name for path in out.iterdir()} == {"ct", "mri", "paired_ct", "demo.json"}
    write_phantoms(
        tmp_path / "same",
        patients={"mri": 3, "ct": 2},
        slices=2,
        size=32,
        seed=4,
        paired={"mri": 2},
    )
    same = contents(tmp_path / "same")
    assert {name: value for name, value in contents(out).items() if "/" in name} == same
    info = walkthrough.prepare_phantoms(out, tmp_path / "data", size=32)
    assert {name: each.patients for name, each in info.modalities.items()} == {
        "ct": 2, "mri": 3, "oracle": 2
    }  # fmt: skip
    dataset = Dataset(tmp_path / "data")
    mri, oracle = (dataset.modality(name).slices for name in ("mri", "oracle"))
    of_pairs = mri[mri["patient"].isin(set(oracle["patient"]))]
    assert len(oracle) == len(of_pairs) == 4
    ages = [table.groupby("patient")["label"].first() for table in (of_pairs, oracle)]
    assert ages[0].to_dict() == ages[1].to_dict()
    again = CliRunner().invoke(app, ["demo", "--only-data", str(out), *words])
    assert again.exit_code == 1
    assert "not empty" in again.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--paired", "2"], "--patients and --paired need --only-data"),
        (["--patients", "mri=2"], "--patients and --paired need --only-data"),
        (
            ["--only-data", "x", "--patients", "mri"],
            "--patients mri does not name a modality and a count",
        ),
        (
            ["--only-data", "x", "--patients", "mri=2.5"],
            "mri=2.5 does not name a modality and a count",
        ),
        (["--only-data", "x", "--patients", "=2"], "=2 does not name a modality and a count"),
        (["--only-data", "x", "--patients", "mri=+-2"], "mri=+-2 does not name a modality"),
        (["--only-data", "x", "--patients", "mri=2", "--patients", "mri=3"], "two counts of mri"),
        (["--only-data", "x", "--patients", "mri=-2"], "-2 mri patients cannot be generated"),
        (["--only-data", "x", "--paired", "999"], "999 mri patients with an additional CT"),
        (["--only-data", "x", "--paired", "pet"], "--paired pet does not name a modality"),
        (["--only-data", "x", "--out", "y"], "Leave out --out"),
    ],
)
def test_options_of_only_data_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    called = CliRunner().invoke(app, ["demo", *words], terminal_width=200)
    assert called.exit_code == 2
    assert said in " ".join(called.output.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_demo_runs_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walkthrough, "PATIENTS", {"ct": 9, "mri": 8, "pet": 1})
    monkeypatch.setattr(walkthrough, "TRAIN", {"ct": 4, "mri": 6})
    monkeypatch.setattr(walkthrough, "VALIDATE", {"ct": 2, "mri": 0})
    monkeypatch.setattr(walkthrough, "SLICES", 2)
    monkeypatch.setattr(walkthrough, "SCAN_SIZE", 32)
    monkeypatch.setattr(walkthrough, "SIZE", 32)
    settings = {
        "model": {"generator_width": 4, "discriminator_width": 4},
        "optimizer": {"epochs": 2, "steps_per_epoch": 4, "batch_size": 2},
        "runtime": {"device": "cpu", "precision": "fp32"},
    }
    monkeypatch.setattr(walkthrough, "SETTINGS", settings)
    monkeypatch.setattr(walkthrough, "PRESET", "debug")
    result = walkthrough.demo(tmp_path / "demo")
    constants = {
        each.figure("mse", level="patient", of="constant") for each in result.methods.values()
    }
    assert list(result.methods) == ["target-only", "raw-mix", "joint", "oracle"]
    assert {each.results.patients for each in result.methods.values()} == {3}
    assert len(constants) == 1
    assert (result.translation.files, result.translation.slices) == (8, 16)
    assert list(result.dataset.modalities) == ["ct", "mri", "pet", "oracle"]
    with PIL.Image.open(result.picture) as picture:
        assert picture.width > picture.height > 200
    run = RunFolder(result.runs["joint"])
    config = Config.model_validate_json(run.config.read_text())
    pairs = walkthrough._pairs(run, config)
    owners = [[(p, n % 2) for n, p in enumerate(each.patients)] for each in pairs]
    assert owners[0] == owners[1]
    assert len(owners[0]) == 4  # of two patients
    unpaired = config.data.model_copy(update={"oracle": "ct"})  # other patients
    with pytest.raises(DataError, match="the same slice in both mri and ct"):
        walkthrough._pairs(run, config.model_copy(update={"data": unpaired}))
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


def test_verdict_says_what_came_out() -> None:
    errors = {"target-only": 200.0, "raw-mix": 150.0, "joint": 120.0, "oracle": 100.0}
    assert _verdict(errors, 160.0) == (
        "The joint method's squared error is lower than target-only's (120 against 200), and lower "
        "than raw-mix's; it closes 80 % of the gap to the MRI patients' true CT (oracle). Better "
        "than the constant prediction: raw-mix, joint, oracle. One split of generated patients "
        "proves nothing about yours."
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"joint": 190.0}, "lower than target-only's (190 against 200), and higher than raw-mix's"),
        ({"joint": 220.0}, "higher than target-only's (220 against 200), and higher than raw-mix"),
        ({"joint": 200.0}, "the same as target-only's (200 against 200), and higher than raw-mix"),
        ({"joint": 150.0}, "(150 against 200), and the same as raw-mix's; it closes 50 % of the"),
        ({"raw-mix": None}, "(120 against 200); it closes 80 % of the gap"),
        ({"joint": None}, "Nothing can be compared without the error of joint."),
        ({"joint": None, "target-only": None}, "without the error of joint and target-only."),
    ],
)
def test_verdict_compares_what_there_is(changed: dict[str, float | None], said: str) -> None:
    errors = {"target-only": 200.0, "raw-mix": 150.0, "joint": 120.0, "oracle": 100.0}
    assert said in _verdict({**errors, **changed}, 160.0)


@pytest.mark.parametrize(
    "changed",
    [{"joint": 200.0}, {"joint": 220.0}, {"oracle": 200.0}, {"oracle": 210.0}, {"oracle": None}],
)
def test_verdict_gives_no_share_of_a_gain_that_is_none(changed: dict[str, float | None]) -> None:
    errors = {"target-only": 200.0, "raw-mix": 150.0, "joint": 120.0, "oracle": 100.0}
    assert "%" not in _verdict({**errors, **changed}, 160.0)


def test_verdict_names_what_beats_the_constant() -> None:
    errors = {"target-only": 200.0, "joint": 200.0, "oracle": None}
    assert "Better than the constant prediction: none of them." in _verdict(errors, 200.0)
    assert "Better than the constant prediction: target-only, joint." in _verdict(errors, 200.1)
    assert "constant" not in _verdict(errors, None)
