"""The benchmark's datasets: pairs are pairs, and who is where is as said."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.pairs import PairedData, write_lgg_pairs, write_phantom_pairs

import tiny
from medxlate.base.errors import DataError, UsageError
from medxlate.dataset.index import Dataset
from medxlate.dataset.splits import Part
from medxlate.training.train import train


def patients(pairs: PairedData, modality: str, part: Part) -> int:
    table = Dataset(pairs.data).modality(modality).slices
    return len(set(table["patient"]) & set(pairs.split.parts[part]))


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> PairedData:
    folder = tmp_path_factory.mktemp("pairs")
    return write_phantom_pairs(
        folder, target=5, source=6, val=2, test=4, held_out=2, slices=3, size=32, seed=3
    )


def test_generated_pairs_are_where_they_are_said_to_be(heads: PairedData) -> None:
    counts = {
        name: [patients(heads, name, part) for part in ("train", "val", "test")]
        for name in ("ct", "mri", "oracle")
    }
    assert counts == {"ct": [5, 2, 4], "mri": [6, 0, 2], "oracle": [6, 0, 2]}
    for part, count in (("train", 18), ("val", 0), ("test", 6)):
        found = heads.aligned(part)
        assert len(found) == count
        assert {name for _, name, _ in found} <= {"oracle"}


def test_generated_pairs_show_the_same_slice(heads: PairedData) -> None:
    """Heads are bright in CT where MRI has any: skull and brain; another patient's fit less."""
    dataset = Dataset(heads.data)
    mri, oracle = (dataset.modality(name) for name in ("mri", "oracle"))
    found = heads.aligned("train")
    inside = [(mri.pixels(one) > 12_000, oracle.pixels(other) > 8_000) for one, _, other in found]
    same = [(a & b).sum() / (a | b).sum() for a, b in inside]
    # A neighbouring patient's slice of the same height.
    others = [(inside[i][0], inside[(i + 3) % len(inside)][1]) for i in range(len(inside))]
    assert np.mean(same) > np.mean([(a & b).sum() / (a | b).sum() for a, b in others]) + 0.02
    for one, _, other in found:
        assert mri.slices["patient"][one] == oracle.slices["patient"][other]
        assert mri.slices["label"][one] == oracle.slices["label"][other]


def test_a_method_is_trained_on_them(heads: PairedData, tmp_path: Path) -> None:
    config = tiny.debug_config(
        heads.data, method="oracle", data=heads.keys, optimizer={"epochs": 1}
    )
    result = train(config, split=heads.split, runs=tmp_path)
    assert result.steps == 9  # 18 slices in pairs


def test_generated_sex_can_be_the_label(tmp_path: Path) -> None:
    pairs = write_phantom_pairs(
        tmp_path, target=4, source=4, val=1, test=1, held_out=1, slices=1, size=32, label="sex"
    )
    dataset = Dataset(pairs.data)
    assert dataset.info.task.kind == "classification"
    assert dataset.info.task.classes == ("F", "M")
    ages = dataset.modality("ct").slices["PatientAge"]
    assert ages.str.fullmatch(r"\d{3}Y").all()


def test_lgg_pairs_are_two_channels_of_one_file(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    kaggle = next(real_data("lgg-mri-native").rglob("data.csv")).parent
    pairs = write_lgg_pairs(tmp_path, kaggle, target=3, val=1, test=3, size=64)
    dataset = Dataset(pairs.data)
    everyone = (
        dataset.info.modalities["flair"].patients + dataset.info.modalities["oracle"].patients
    )
    assert everyone == 12
    counts = {
        name: [patients(pairs, name, part) for part in ("train", "val", "test")]
        for name in ("flair", "t1", "oracle")
    }
    assert counts == {"flair": [3, 1, 3], "t1": [5, 0, 3], "oracle": [5, 0, 0]}
    t1 = dataset.modality("t1")
    for part, name, count in (("train", "oracle", 5 * 6), ("test", "flair", 3 * 6)):
        found = pairs.aligned(part)
        assert [len(found), {each for _, each, _ in found}] == [count, {name}]
        for one, _, other in found:
            truth = dataset.modality(name)
            assert t1.slices["file"][one] == truth.slices["file"][other]
        raw = tifffile.imread(next(kaggle.rglob(Path(t1.slices["file"][found[0][0]]).name)))
        for channel, stored in ((0, t1.pixels(found[0][0])), (1, truth.pixels(found[0][2]))):
            small = PIL.Image.fromarray(raw[..., channel]).resize(
                (64, 64), PIL.Image.Resampling.BOX
            )
            assert np.corrcoef(np.asarray(small).ravel(), stored.ravel())[0, 1] > 0.98
    levels = t1.slices.groupby("patient")["label"].agg(["min", "max"])
    assert (levels == [0, 100]).all(axis=None)
    with pytest.raises(UsageError, match="too few for 12"):
        write_lgg_pairs(tmp_path / "more", kaggle, target=10, val=1, test=1)


def test_other_patients_are_not_taken_for_these(tmp_path: Path) -> None:
    few = {"target": 2, "source": 2, "val": 1, "test": 1, "held_out": 1, "slices": 1, "size": 32}
    write_phantom_pairs(tmp_path, **few)
    write_phantom_pairs(tmp_path, **few)  # the same again
    with pytest.raises(UsageError, match="holds other patients"):
        write_phantom_pairs(tmp_path, **few, seed=1)


def test_a_slice_without_its_truth_is_an_error(heads: PairedData) -> None:
    astray = dataclasses.replace(heads, oracle="ct")
    with pytest.raises(DataError, match="6 of 6 mri slices have no truth"):
        astray.aligned("test")
