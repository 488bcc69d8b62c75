"""Ids keep their leading zeros from table and header to dataset: 000123 is not read as a number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from conftest import noise, save_dicom, save_raster
from medxlate.dataset.options import PrepareOptions
from preparing import run, slices, write_table

ROWS = [("0012", "60", "000123", "007"), ("12", "70", "123", "7")]  # stem, age, patient, site
COLUMNS = ("file", "age", "who", "site")


def write_labels(folder: Path, form: str) -> Path:
    """The table in a form; a workbook's cells are text, as they must be to have zeros."""
    if form == "csv":
        return write_table(folder / "t.csv", ROWS, COLUMNS)
    book = openpyxl.Workbook()
    for row in (COLUMNS, *ROWS):
        book.active.append(row)
    book.save(folder / "t.xlsx")
    return folder / "t.xlsx"


@pytest.mark.parametrize("form", ["csv", "xlsx"])
@pytest.mark.parametrize("distinct", [False, True])
def test_of_a_table(tmp_path: Path, form: str, distinct: bool) -> None:
    raw = tmp_path / "raw"
    for i, (stem, *_) in enumerate(ROWS):
        save_raster(raw / f"{stem}.png", noise(40, 40, seed=i))
    options = PrepareOptions(
        label="age",
        labels=write_labels(raw, form),
        file="file",
        patient="who",
        keep=("site",),
        distinct_ids=distinct,
    )
    result = run(raw, tmp_path / "data", options=options)
    frame = slices(tmp_path / "data").set_index("file")
    assert dict(frame["label"]) == {"0012.png": 60, "12.png": 70}  # each file has its own row
    assert dict(frame["site"]) == {"0012.png": "007", "12.png": "7"}
    assert result.patients == (2 if distinct else 1)
    (respelled,) = result.respelled or (None,)
    assert (respelled is None) == distinct
    held = json.loads((tmp_path / "data" / "mri" / "identifiers.json").read_text())
    assert {"000123", "123"} <= set(json.dumps(held).replace('"', " ").split())


def test_of_a_dicom_header(tmp_path: Path) -> None:
    """Rows of a table are matched to the header's record number, zeros and all."""
    raw = tmp_path / "raw"
    for i, (_, _, who, _) in enumerate(ROWS):
        save_dicom(raw / f"{i}.dcm", noise(40, 40, seed=i, dtype=np.int16), PatientID=who)
    options = PrepareOptions(
        label="age",
        labels=write_labels(raw, "csv"),
        patient_column="who",
        distinct_ids=True,
        recipe="ct",
    )
    assert run(raw, tmp_path / "data", "ct", options=options).patients == 2
    frame = slices(tmp_path / "data", "ct").set_index("file")
    assert dict(frame["label"]) == {"0.dcm": 60, "1.dcm": 70}
