"""DICOM files whose Modality is not what the name of the modality says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from conftest import save_dicom
from medxlate.base.errors import UsageError
from medxlate.images.modality import PROJECTIONS, contradicts
from medxlate.inference.predict import predict
from medxlate.inference.translate import translate
from preparing import TAGS, run, tissue, write_series

KNOWN = ("CT", "MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "RG", "PX", "IO")
MEANT = [
    ("mri mr t1 t2 t1w t1ce t2-star flair dwi mri-t1 fmri brain_mr pd", {"MR"}),
    ("ct cbct ncct ct-brain fake_ct ldct", {"CT"}),
    ("pet fdg pet-fdg suv", {"PT"}),
    ("xray x-ray cr dx cxr chest-xray mammo", set(PROJECTIONS)),
    ("us", {"US"}),
    ("spect", {"NM"}),
    ("pet-ct", {"PT", "CT"}),
    ("mr_ct", {"MR", "CT"}),
    ("source site-a brain t2dm-patients arterial act1on contrast 2024 smart", set(KNOWN)),
]
CASES = [(name, meant) for names, meant in MEANT for name in names.split()]


@pytest.mark.parametrize(("name", "meant"), CASES)
def test_what_a_name_may_mean(name: str, meant: set[str]) -> None:
    assert {modality for modality in KNOWN if not contradicts(modality, name)} == meant
    assert not contradicts("", name)
    assert not contradicts("OT", name)


def mr_as_ct(folder: Path) -> Path:
    write_series(folder / "s", tissue(3), patient="Zebra", Modality="MR", RescaleIntercept="0")
    return folder


def test_prepare_refuses_what_the_name_does_not_say(tmp_path: Path) -> None:
    raw = mr_as_ct(tmp_path / "raw")
    for further in ({}, {"dry_run": True}):
        with pytest.raises(UsageError) as refused:
            run(raw, tmp_path / "data", "ct", options=TAGS, **further)
        text = str(refused.value)
        assert "s/03.dcm and 2 other files have the DICOM modality MR, not 'ct'" in text
        assert "--force" in text
        assert "Zebra" not in text
    assert not (tmp_path / "data" / "ct").exists()


@pytest.mark.parametrize("name", ["mri", "flair", "site-a", "pet-mr"])
def test_prepare_takes_what_the_name_says_or_leaves_open(tmp_path: Path, name: str) -> None:
    assert run(mr_as_ct(tmp_path / "raw"), tmp_path / "data", name, options=TAGS).images == 3


@pytest.mark.parametrize("changes", [{"force": True}, {"dicom_modality": "MR"}])
def test_what_is_asked_for_is_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    options = type(TAGS)(**{**vars(TAGS), "recipe": "mr", **changes})
    result = run(mr_as_ct(tmp_path / "raw"), tmp_path / "data", "ct", options=options)
    assert result.images == 3


def test_files_of_another_modality_beside_the_right_ones_are_counted(tmp_path: Path) -> None:
    mr_as_ct(tmp_path / "raw")
    write_series(tmp_path / "raw" / "c", tissue(4), patient="A")
    result = run(tmp_path / "raw", tmp_path / "data", "ct", options=TAGS)
    assert (result.images, result.left_out) == (4, {"DICOM modality MR": 3})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It translates mri to ct, and predicts from ct."""
    return tiny.write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("command", "wrong", "right"), [(translate, "CT", "MR"), (predict, "MR", "CT")]
)
def test_translate_and_predict_refuse_another_modality(
    tmp_path: Path, model: Path, command: Any, wrong: str, right: str
) -> None:
    stored = np.random.default_rng(0).integers(0, 65536, (40, 40)).astype(np.uint16)
    for modality in (wrong, right):
        save_dicom(tmp_path / modality / "a.dcm", stored, Modality=modality)
    name = "mri" if right == "MR" else "ct"
    given = {"model": model, "device": "cpu"}
    with pytest.raises(UsageError, match=f"a.dcm has the DICOM modality {wrong}.*'{name}'"):
        command(tmp_path / wrong, out=tmp_path / "refused", **given)
    assert not (tmp_path / "refused").exists()
    command(tmp_path / right, out=tmp_path / "taken", **given)
    command(tmp_path / wrong, out=tmp_path / "forced", force=True, **given)
    assert (tmp_path / "taken").exists()
    assert (tmp_path / "forced").exists()
