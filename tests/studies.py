"""What the tests of `compare` share: three modalities, and ways to look at studies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from typer.testing import CliRunner, Result

from medxlate.base.events import CellEnded, Event
from medxlate.cli.app import app
from medxlate.config import Config
from medxlate.dataset.labels import TaskKind
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.dataset.training_data import Data
from medxlate.phantoms.files import write_phantoms
from medxlate.study.begin import Grid
from medxlate.study.compare import CompareResult, compare
from medxlate.study.study import Cell, StudyFolder, cells, read_study
from medxlate.training import train as train_module
from medxlate.walkthrough import prepare_phantoms
from tiny import PREFIX, SIZE, age_of, patient_name, write_dataset

PET = range(30, 36)  # patients of the third modality
KEYS = ["method", "sources", "repeat", "target_fraction", "source_fraction"]
CLOCK = ["seconds", "shared_seconds"]  # may differ where nothing else does
QUALITY = ["fid", "inception_score", "features", "fid_images"]
BRIEF = {"epochs": 1, "steps_per_epoch": 1}  # as little training as there is

_datasets: dict[str, Path] = {}


def dataset(factory: pytest.TempPathFactory, kind: TaskKind = "regression") -> Path:
    """Return a dataset folder that is written once a session: tiny's, and ``pet``; leave it be."""
    if kind not in _datasets:
        root = factory.mktemp(kind)
        data = write_dataset(root, kind)
        if kind == "regression":
            prepare_images(root, data, "pet", PET)
        _datasets[kind] = data
    return _datasets[kind]


def demo_dataset(factory: pytest.TempPathFactory) -> Path:
    """Return the demo's data set with fewer patients and smaller images; leave it be."""
    if "demo" not in _datasets:
        root = factory.mktemp("demo")
        patients = {"ct": 12, "mri": 12, "pet": 6}
        write_phantoms(root / "raw", patients=patients, slices=2, size=48)
        prepare_phantoms(root / "raw", root / "data", size=SIZE)
        _datasets["demo"] = root / "data"
    return _datasets["demo"]


def prepare_images(
    root: Path,
    data: Path,
    modality: str,
    patients: Sequence[int],
    *,
    label: Callable[[int], float | str] = age_of,
) -> None:
    """Write two images of noise of each patient and prepare them as a modality."""
    raw = root / "raw" / modality
    raw.mkdir(parents=True)
    for number in patients:
        for cut in range(2):
            random = np.random.default_rng([sum(modality.encode()), number, cut])
            pixels = random.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(raw / f"{patient_name(number)}-{cut}.png")
    classes = isinstance(label(patients[0]), str)
    name = "group" if classes else "age"
    labels = root / "raw" / f"{modality}.csv"
    lines = [f"{patient_name(number)},{label(number)}" for number in patients]
    labels.write_text("\n".join([f"patient,{name}", *lines]) + "\n")
    options = PrepareOptions(
        labels=labels,
        label=name,
        patient=rf"regex:({PREFIX}\d\d)",
        patient_column="patient",
        task="classification" if classes else "regression",
    )
    prepare(raw, modality=modality, data=data, options=options, size=SIZE)


@dataclass(frozen=True)
class Training:
    """A training as it began: its configuration, its images and the predictor's weights."""

    config: Config
    data: Data
    weights: dict[str, Any]

    def patients(self, name: str) -> set[str]:
        return set(self.data.train[name].patients)


@dataclass(frozen=True)
class Run:
    result: CompareResult
    heard: Heard
    trainings: list[Training]

    @property
    def folder(self) -> Path:
        return self.result.folder

    @property
    def results(self) -> pd.DataFrame:
        assert self.result.findings is not None
        return self.result.findings.results

    @property
    def predictions(self) -> pd.DataFrame:
        assert self.result.findings is not None
        return self.result.findings.predictions


def carry_out(config: Config, wanted: Grid, out: Path) -> Run:
    """Compare in this process and note each training as it begins."""
    heard, trainings = Heard(), list[Training]()
    set_up = train_module.set_up

    def noting(material: Any, *listener: Any) -> Any:
        work = set_up(material, *listener)
        networks = work.learner.networks
        weights = networks["predictor"].state_dict() if "predictor" in networks else {}
        copies = {name: value.clone() for name, value in weights.items()}
        trainings.append(Training(work.config, work.data, copies))
        return work

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "set_up", noting)
        return Run(compare(config, wanted, out=out, listener=heard), heard, trainings)


def by_cell(results: pd.DataFrame, *, without: Sequence[str] = CLOCK) -> pd.DataFrame:
    """Return results in the order of the cells, without what the clock decides."""
    return results.drop(columns=list(without)).set_index(KEYS).sort_index()


def by_image(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions.set_index([*KEYS, "slice_id"]).sort_index()


def assert_same(some: Any, whole: Any, *, quality: bool = True) -> None:
    """Compare findings with those of a larger study, to the last digit, where both have cells."""
    without = CLOCK if quality else [*CLOCK, *QUALITY]
    left, right = by_cell(some.results, without=without), by_cell(whole.results, without=without)
    pd.testing.assert_frame_equal(left, right.loc[left.index], check_exact=True)
    one, other = by_image(some.predictions), by_image(whole.predictions)
    pd.testing.assert_frame_equal(one, other.loc[one.index], check_exact=True)
    assert len(one) == sum(left["test_images"])


def grid(folder: Path) -> list[Cell]:
    return cells(read_study(folder))


def place(folder: Path, method: str, repeat: int = 0) -> Path:
    """Return the folder of the first cell of a method in a repeat."""
    found = next(c for c in grid(folder) if (c.method, c.repeat) == (method, repeat))
    return StudyFolder(folder).cell(found)


class Heard(list[Event]):
    """A listener that keeps what it is told."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]

    @property
    def cells(self) -> list[CellEnded]:
        return self.of(CellEnded)


def call(*words: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def flat(text: str) -> str:
    return " ".join(text.split())


def kill_when(condition: Callable[[], bool], *words: object, seconds: float = 120) -> None:
    """Run the command line as a process of its own and kill it without warning."""
    process = subprocess.Popen(
        [sys.executable, "-m", "medxlate", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
