"""Images whose files name no modality are compared with those of training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import tiny
from conftest import Array, save_dicom
from medxlate import Predictor, train
from medxlate.artifacts.greys import BINS, Greys
from medxlate.artifacts.info import read_model
from medxlate.cli.app import app
from medxlate.dataset.index import Dataset
from medxlate.dataset.options import PrepareOptions
from medxlate.images.recipes import to_network
from medxlate.inference.out_of_distribution import Looks
from preparing import run


def call(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def images(count: int, *, seed: int, level: float = 0.0) -> Array:
    """Return [count, 1, 16, 16] in [-1, 1]: noise around a level."""
    random = np.random.default_rng(seed)
    return np.clip(random.normal(level, 0.2, (count, 1, 16, 16)), -1, 1).astype(np.float32)


def roots(each: Array) -> Array:
    shares = [np.histogram(one, BINS, range=(-1, 1))[0] / one.size for one in each]
    return np.sqrt(np.array(shares))


def far(asked: Array, known: Array) -> Array:
    mean, spread = roots(known).mean(axis=0), roots(known).std(axis=0, ddof=1)
    return np.asarray((((roots(asked) - mean) / (spread + 0.01)) ** 2).mean(axis=1))


def test_greys_are_moments_of_numpys_histograms() -> None:
    known, asked = images(40, seed=0), images(7, seed=1, level=0.3)
    patients = np.array([f"p{number % 8}" for number in range(40)])
    greys = Greys.of([known[:11], known[11:]], patients.tolist())
    assert greys is not None
    np.testing.assert_allclose(greys.mean, roots(known).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(greys.distances(asked), far(asked, known), rtol=1e-6)
    others = [far(known[patients == p], known[patients != p]) for p in np.unique(patients)]
    assert greys.usual == pytest.approx(np.percentile(np.concatenate(others), 95))
    assert greys.unlike(asked).all()
    assert Greys.of([known], ["a", "b", "c", "d"] * 10) is None
    assert Greys.of([], []) is None


@pytest.mark.parametrize("wrong", [{"usual": float("nan")}, {"spread": (-1.0,) * BINS}])
def test_a_model_with_impossible_greys_is_refused(wrong: dict[str, Any]) -> None:
    greys = Greys.of([images(12, seed=0)], list("abcdefabcdef"))
    assert greys is not None
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Greys(**{**greys.model_dump(), **wrong})


# Real images


@pytest.fixture(scope="module")
def real(
    real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Array, Array]]:
    """Return images [N, 1, 64, 64] and patients [N] of each real set."""
    data = tmp_path_factory.mktemp("real")
    chest = real_data("chest-xray")
    table = chest / "metadata.csv"
    options = {
        "mri": PrepareOptions(),
        "ct": PrepareOptions(label="PatientAge"),
        "xray": PrepareOptions(label="age", labels=table, file="filename", patient="patientid"),
    }
    raw = {
        "mri": real_data("lgg-mri-native"),
        "ct": real_data("chest-ct"),
        "xray": chest / "images",
    }
    found = {}
    for name, asked in options.items():
        layout = "lgg-mri" if name == "mri" else None
        run(raw[name], data, name, options=asked, layout=layout, size=64)
        modality = Dataset(data).modality(name)
        stored = modality.read(np.arange(len(modality.slices)))
        pixels = np.stack([to_network(each, 64) for each in stored])[:, np.newaxis]
        found[name] = (pixels, modality.slices["patient"].to_numpy())
    return found


def said(unlike: Array) -> bool:
    return bool(Looks(len(unlike), int(unlike.sum())).notes("mri"))


@pytest.mark.parametrize("known", ["mri", "ct", "xray"])
def test_real_modalities_are_told_apart_and_new_patients_are_not(
    real: dict[str, tuple[Array, Array]], known: str
) -> None:
    pixels, patients = real[known]
    people = list(dict.fromkeys(patients))  # in the order of the files: pseudonyms are drawn
    learned = ~np.isin(patients, people[3::4])
    greys = Greys.of([pixels[learned]], patients[learned].tolist())
    assert greys is not None
    assert not said(greys.unlike(pixels[~learned]))
    assert said(greys.unlike(-pixels[~learned]))  # inverted
    for other in set(real) - {known}:
        assert said(greys.unlike(real[other][0])), other


# From training to the warning


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with raw images and a run; ct is dark in the middle, mri bright."""
    root = tmp_path_factory.mktemp("lookalike")
    config = tiny.debug_config(tiny.write_dataset(root))
    train(config=config, runs=root / "runs", name="r")
    return root


def test_a_model_keeps_the_greys_of_its_training_images(trained: Path) -> None:
    info = read_model(trained / "runs" / "r" / "model")
    split = json.loads((trained / "runs" / "r" / "split.json").read_text())
    for name, greys in (("ct", info.target_greys), ("mri", info.translators["mri"].greys)):
        modality = Dataset(trained / "data").modality(name)
        rows = np.flatnonzero(modality.slices["patient"].isin(split["patients"]["train"]))
        shown = [to_network(each, tiny.SIZE)[np.newaxis] for each in modality.read(rows)]
        assert greys == Greys.of([np.stack(shown)], modality.slices["patient"].iloc[rows].tolist())


@pytest.mark.parametrize(
    ("command", "own", "other"),
    [("predict", "ct", "mri"), ("translate", "mri", "ct")],
)
def test_files_of_another_kind_are_warned_of(
    trained: Path, tmp_path: Path, command: str, own: str, other: str
) -> None:
    for name in (own, other):
        words = [trained / "raw" / name, "--model", trained / "runs" / "r", "--device", "cpu"]
        result = call(command, *words, "--out", tmp_path / name, "--json")
        assert result.exit_code == 0, result.output
        notes = [n for n in json.loads(result.stdout)["notes"] if "differ from the" in n]
        assert bool(notes) == (name == other)
        assert all(f"24 of 24 images differ from the {own} that" in note for note in notes)
        assert ("differ from the" in result.stderr) == (name == other)


def test_a_header_that_names_the_modality_is_enough(trained: Path, tmp_path: Path) -> None:
    for modality in ("CT", "OT"):
        for number in range(3):
            pixels = tiny.noise(32, 32, seed=number, bits=8).astype(np.int16)
            save_dicom(tmp_path / modality / f"{number}.dcm", pixels, Modality=modality)
        out = tmp_path / f"{modality}.csv"
        words = [tmp_path / modality, "--model", trained / "runs" / "r", "--device", "cpu"]
        result = call("predict", *words, "--out", out, "--json")
        assert result.exit_code == 0, result.output
        assert ("differ from the" in result.stderr) == (modality == "OT")


def test_of_several_models_one_that_knows_is_enough(trained: Path, tmp_path: Path) -> None:
    run, without = trained / "runs" / "r", tmp_path / "older"
    shutil.copytree(run / "model", without)
    values = json.loads((without / "model.json").read_text())
    del values["target_greys"]  # as before they were kept
    (without / "model.json").write_text(json.dumps(values))
    words = [trained / "raw" / "mri", "--model", without, "--model", run, "--device", "cpu"]
    result = call("predict", *words, "--out", tmp_path / "p.csv")
    assert "24 of 24 images differ from the" in " ".join(result.stderr.split())


def test_arrays_have_no_header(trained: Path) -> None:
    predictor = Predictor.load(trained / "runs" / "r")
    noisy = predictor(tiny.noise(32, 32, seed=3)[np.newaxis].repeat(4, axis=0))
    assert any("4 of 4 images differ from the ct" in note for note in noisy.notes)
