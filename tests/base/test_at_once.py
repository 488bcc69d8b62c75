"""A training, and what else happens to its dataset meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from conftest import tree
from medxlate.base.errors import DataError
from medxlate.base.events import EpochEnded, Event
from medxlate.dataset.index import Dataset
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.training import loader as feed
from medxlate.training.train import train


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset from which every step reads its images."""
    monkeypatch.setattr(feed, "CPU_ROOM", 0)
    return tiny.write_dataset(tmp_path)


def options(root: Path) -> PrepareOptions:
    return PrepareOptions(
        labels=root / "raw" / "labels.csv",
        label="age",
        patient=rf"regex:({tiny.PREFIX}\d\d)",
        patient_column="patient",
    )


def weights(run: Path) -> dict[str, bytes]:
    return {name: text for name, text in tree(run / "model").items() if "safetensors" in name}


def test_a_modality_that_is_added_does_not_disturb_a_training(tmp_path: Path, data: Path) -> None:
    config = tiny.debug_config(data, optimizer={"epochs": 2})
    train(config, runs=tmp_path / "runs", name="alone")
    added: list[str] = []

    def meanwhile(event: Event) -> None:
        if isinstance(event, EpochEnded) and not added:
            raw, known = tmp_path / "raw" / "mri", options(tmp_path)
            added.append(prepare(raw, modality="pet", data=data, options=known).state)

    train(config, runs=tmp_path / "runs", name="beside", listener=meanwhile)
    assert added == ["prepared"]
    assert "pet" in Dataset(data).info.modalities
    assert weights(tmp_path / "runs" / "beside") == weights(tmp_path / "runs" / "alone")


def test_a_training_does_not_read_a_modality_that_was_replaced(tmp_path: Path, data: Path) -> None:
    """The labels would be the old images', whatever the new ones show."""
    config = tiny.debug_config(data, optimizer={"epochs": 3})

    def meanwhile(event: Event) -> None:
        if isinstance(event, EpochEnded):
            for seed, path in enumerate(sorted((tmp_path / "raw" / "ct").iterdir())):
                tiny.save(path, tiny.noise(tiny.SIZE, tiny.SIZE, seed=seed))
            raw, known = tmp_path / "raw" / "ct", options(tmp_path)
            prepare(raw, modality="ct", data=data, options=known, overwrite=True)

    with pytest.raises(DataError, match=r"00000\.npy was replaced"):
        train(config, runs=tmp_path / "runs", name="beside", listener=meanwhile)
