"""``scrub --check`` on a run trained on real CT, whose headers hold names, ids and dates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pydicom
import pytest
from typer.testing import CliRunner, Result

import tiny
from medxlate.cli.app import app
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.training.train import train


@pytest.fixture(scope="module")
def run(real_data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    xray = PrepareOptions(
        labels=real_data("chest-xray") / "metadata.csv",
        label="age",
        patient="patientid",
        file="filename",
    )
    data = root / "data"
    ct = PrepareOptions(label="PatientAge")
    prepare(real_data("chest-ct"), modality="ct", data=data, options=ct, size=tiny.SIZE)
    prepare(real_data("chest-xray") / "images", modality="xray", data=data, options=xray)
    config = tiny.debug_config(
        data,
        data={"sources": ["xray"]},
        optimizer={"epochs": 1, "batch_size": 8},
    )
    return train(config, runs=root / "runs", name="first").run


def scrub(folder: Path) -> Result:
    return CliRunner().invoke(app, ["scrub", "--check", str(folder), "--json"])


def identifying(real_data) -> dict[str, str]:
    """Values of a real header, by what they are."""
    header = pydicom.dcmread(next((real_data("chest-ct") / "dicom_dir").glob("*.dcm")))
    return {
        "id": header.PatientID,
        "name": str(header.PatientName),
        "date": header.StudyDate,
        "uid": header.SeriesInstanceUID,
    }


def test_a_run_on_real_ct_holds_no_identifying_value(run):
    result = scrub(run)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["values"] > 100
    assert report["files"] > 8
    assert scrub(run / "model").exit_code == 0


@pytest.mark.parametrize("kind", ["id", "name", "date", "uid"])
@pytest.mark.parametrize("place", ["model/README.md", "config.json", "metrics.jsonl", "name"])
def test_one_planted_value_is_found(run, real_data, tmp_path, kind, place):
    value = identifying(real_data)[kind]
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    if place == "name":
        (copy / "samples" / f"{value}.png").write_bytes(b"")
    else:
        with (copy / place).open("a", encoding="utf-8") as stream:
            stream.write(f" {value}\n")
    result = CliRunner().invoke(
        app, ["scrub", "--check", str(copy), "--data", str(run.parents[1] / "data"), "--json"]
    )
    assert result.exit_code == 1, result.output
    assert value not in result.output
