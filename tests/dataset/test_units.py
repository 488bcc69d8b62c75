"""Physical units through ``prepare`` and back, against values worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset as Header
from pydicom.uid import generate_uid

from conftest import read_pixels, save_dicom
from medxlate.dataset.index import Dataset
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.images.recipes import to_network
from medxlate.phantoms.files import write_phantoms

SIZE = 32
BLOCKS = (slice(0, 10), slice(11, 21), slice(22, 32))  # rows of the three materials


def blocks(values: tuple[float, ...]) -> np.ndarray:
    """An image of three bands, of the values before, between and after."""
    return np.repeat(values, [11, 11, 10])[:, None].repeat(SIZE, axis=1)


def inverse(data: Path, modality: str, row: int = 0) -> np.ndarray:
    """Bring a stored slice back to physical values."""
    opened = Dataset(data).modality(modality)
    return opened.info.recipe.physical(to_network(opened.pixels(row), SIZE))


@pytest.mark.parametrize("slope", [1, 2])
@pytest.mark.parametrize("window", ["wide", (0, 2400)])
def test_air_water_and_bone_come_back_within_one_hounsfield_unit(tmp_path, slope, window):
    hu = blocks((-1000, 0, 1000))
    uid = generate_uid()
    for k in range(3):
        save_dicom(
            tmp_path / "raw" / f"{k}.dcm",
            ((hu + 1024) / slope).astype(np.uint16),
            RescaleSlope=str(slope),
            SeriesInstanceUID=uid,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 3 * k],
            PixelSpacing=[1, 1],
            InstanceNumber=k,
        )
    options = PrepareOptions(label="PatientAge", window=window)
    prepare(tmp_path / "raw", modality="ct", data=tmp_path / "data", options=options, size=SIZE)
    for row in range(3):
        back = inverse(tmp_path / "data", "ct", row)
        for band, value in zip(BLOCKS, (-1000, 0, 1000), strict=True):
            assert np.abs(back[band] - value).max() < 1


def test_the_phantoms_air_and_water_come_back_within_one_hounsfield_unit(tmp_path):
    write_phantoms(tmp_path, patients={"ct": 1}, slices=2, size=SIZE, seed=0)
    options = PrepareOptions(label="PatientAge", window="wide")
    prepare(tmp_path / "ct", modality="ct", data=tmp_path / "data", options=options, size=SIZE)
    for row in range(2):
        stored = read_pixels(tmp_path / "ct" / "CT001" / f"{row:02d}.dcm")
        back = inverse(tmp_path / "data", "ct", row)
        assert stored.min() < -950
        assert stored.max() > 300
        assert np.abs(back - stored).max() < 1


def write_pet(folder: Path, **changes) -> None:
    """Write a series of 0, 5000 and 20000 Bq/ml: slope 2, so half of that is stored."""
    dose = Header()
    dose.RadionuclideTotalDose = 350e6  # Bq
    dose.RadionuclideHalfLife = 6588  # s
    dose.RadiopharmaceuticalStartTime = "090000"
    uid = generate_uid()
    for k in range(3):
        attributes = {
            "Modality": "PT",
            "RescaleSlope": "2",
            "RescaleIntercept": "0",
            "Units": "BQML",
            "CorrectedImage": ["ATTN", "DECY"],
            "DecayCorrection": "START",
            "PatientWeight": 70,
            "SeriesDate": "20200102",
            "SeriesTime": "100000",
            "AcquisitionDate": "20200102",
            "AcquisitionTime": f"10000{k}",
            "RadiopharmaceuticalInformationSequence": [dose],
            "SeriesInstanceUID": uid,
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [0, 0, 3 * k],
            "PixelSpacing": [4, 4],
            "InstanceNumber": k,
        }
        stored = (blocks((0, 5000, 20000)) / 2).astype(np.int16)
        save_dicom(folder / f"{k}.dcm", stored, **attributes | changes)


# An hour passes from injection to scan: of 350 MBq, 2^(-3600/6588) = 0.684704 are left, that is
# 239.646 MBq. SUV = Bq/ml * 70000 g / 239.646e6 Bq: 5000 Bq/ml -> 1.46049, 20000 -> 5.84194.
SUV = (0.0, 1.46049, 5.84194)


def test_uptake_comes_back_as_worked_by_hand(tmp_path):
    write_pet(tmp_path / "raw")
    options = PrepareOptions(label="PatientAge")
    prepare(tmp_path / "raw", modality="pet", data=tmp_path / "data", options=options, size=SIZE)
    info = Dataset(tmp_path / "data").modality("pet").info
    assert (info.recipe.kind, info.recipe.unit, info.recipe.output_range) == (
        "pet",
        "SUVbw",
        (0.0, 10.0),
    )
    back = inverse(tmp_path / "data", "pet")
    for band, value in zip(BLOCKS, SUV, strict=True):
        assert np.abs(back[band] - value).max() <= 10 / 65535 + 1e-5


@pytest.mark.parametrize("tag", ["PatientWeight", "DecayCorrection", "Units"])
def test_a_series_without_a_needed_tag_is_skipped_with_its_name(tmp_path, tag):
    write_pet(tmp_path / "raw" / "good")
    write_pet(tmp_path / "raw" / "bad", **{tag: ""})
    options = PrepareOptions(label="PatientAge", recipe="pet")
    result = prepare(
        tmp_path / "raw", modality="pet", data=tmp_path / "data", options=options, size=SIZE
    )
    assert result.images == 3
    assert tag in result.skipped["bad"]
    assert "SUV cannot be computed" in result.skipped["bad"]
