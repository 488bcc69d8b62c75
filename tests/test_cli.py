"""The command line as a user types it: the five commands, errors, exit codes, JSON."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner, Result

from medxlate.cli.app import app
from medxlate.training import loop
from tiny import SIZE, write_dataset


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def text(result: Result) -> str:
    """Standard output and error without line breaks."""
    return re.sub(r"\s+", " ", result.output)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which prepare (on the tiny set) and train have run."""
    root = tmp_path_factory.mktemp("project")
    write_dataset(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        result = call("train", "--source", "mri", "--target", "ct", "--preset", "debug", "--json")
    assert result.exit_code == 0, result.output
    return root


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def test_prepare_prints_what_the_dataset_holds(inside: Path, tmp_path: Path) -> None:
    words = ["prepare", "raw/ct", "--modality", "ct", "--data", tmp_path / "data", "--size", "32"]
    words += ["--labels", "raw/labels.csv", "--label", "age", "--patient", r"regex:(Zebrowski\d\d)"]
    result = call(*words, "--patient-column", "patient")
    assert result.exit_code == 0, result.output
    assert "50.5 to 83.5 years" in text(result)
    assert "24 images" in text(result)


def test_train_writes_json_on_stdout_alone(inside: Path) -> None:
    result = call(
        "train", "--source", "mri", "--target", "ct", "--preset", "debug", "--epochs", "1",
        "--name", "quick", "--json",
    )  # fmt: skip
    value = json.loads(result.stdout)
    assert value["run"] == "runs/quick"
    assert value["epochs"] == 1
    assert "Training joint" in result.stderr


def test_translate_predict_evaluate_as_typed_first(inside: Path, tmp_path: Path) -> None:
    result = call("translate", "./raw/mri", "--out", tmp_path / "fake_ct")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "fake_ct").glob("*.png"))) == 24
    result = call("predict", "./raw/ct", "--out", tmp_path / "p.csv", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["images"] == 24
    result = call("evaluate", "--metric", "fid")
    assert result.exit_code == 0, result.output
    assert "fid[predictor]" in text(result)
    result = call("evaluate", "--json")
    assert set(json.loads(result.stdout)["per_image"]) == {"mse", "mae", "r2"}


def test_a_bad_image_among_good_ones_fails_but_loses_nothing(inside: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) % 251
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / "good.png")
    (folder / "bad.png").write_bytes((folder / "good.png").read_bytes()[:60])
    result = call("translate", folder, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "bad.png" in result.stderr
    assert (tmp_path / "out" / "good.png").is_file()
    result = call("predict", folder, "--out", tmp_path / "p.csv")
    assert result.exit_code == 1
    assert "good.png" in (tmp_path / "p.csv").read_text()


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["train", "--target", "ct"], 2, "--source"),
        (["train", "--source", "mri"], 2, "--target"),
        (["train", "--source", "mir", "--target", "ct"], 1, "Did you mean 'mri'?"),
        (["train", "--source", "mri", "--target", "ct", "--preset", "smal"], 2, "'small'"),
        (["train", "--source", "mri", "--target", "ct", "--method", "jiont"], 2, "'joint'"),
        (
            ["train", "--source", "mri", "--target", "ct", "--set", "objective.lambda_cycel=1"],
            2,
            "objective.lambda_cycle",
        ),
        (["train", "--source", "mri", "--target", "mri"], 2, "both source and target"),
        (
            ["train", "--source", "mri", "--target", "ct", "--set", "model.predictor=resnet5"],
            2,
            "'resnet50'",
        ),
        (["train", "--source", "mri", "--target", "ct", "--pretrained", "no.st"], 1, "no.st"),
        (["train", "--resume", "--epochs", "3"], 2, "--resume"),
        (["train", "--resume", "--seed", "0"], 2, "--resume"),
        (["train", "--resume", "--name", "none"], 1, "no run"),
        (["translate", "nowhere", "--out", "x"], 1, "nowhere does not exist"),
        (["translate", "raw/mri", "--out", "raw"], 1, "not empty"),
        (["translate", "raw/mri", "--out", "x", "--source", "pet"], 1, "'pet'"),
        (["translate", "raw/mri", "--out", "x", "--model", "data"], 1, "data is no run"),
        (["translate", "raw/mri", "--out", "x", "--device", "tpu9"], 2, "tpu9"),
        (["predict", "raw/labels.csv"], 1, "labels.csv holds no"),
        (["evaluate", "--metric", "fib"], 2, "fid"),
        (["evaluate", "--metric", "is"], 2, "class probabilities"),
        (["evaluate", "--metric", "fid", "--inception", "no.pth"], 1, "no.pth"),
        (["prepare", "raw/ct", "--modality", "CT"], 2, "'CT'"),
        (["prepare", "raw/ct", "--modality", "pet"], 2, "--label"),
        (["prepare", "raw/ct", "--modality", "ct", "--label", "PatientAge"], 1, "exists"),
    ],
)
def test_errors_name_the_cause_and_set_the_exit_code(
    inside: Path, words: list[str], code: int, named: str
) -> None:
    before = sorted(inside.rglob("*"))
    result = call(*words)
    assert result.exit_code == code, result.output
    assert named in text(result)
    assert "Traceback" not in result.output
    assert sorted(inside.rglob("*")) == before, "something was left behind"


def test_interrupt_is_130_and_the_run_goes_on(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    words = ["train", "--source", "mri", "--target", "ct", "--preset", "debug", "--name", "stopped"]
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_validate", interrupted)
        assert call(*words).exit_code == 130
    result = call("train", "--resume", "--name", "stopped", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["epochs"] == 2


def test_a_dataset_may_move_after_training(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("data", tmp_path / "moved")
    shutil.copytree("runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    missing = call("evaluate", "--metric", "mse")
    assert missing.exit_code == 1
    assert "data is no dataset" in text(missing)
    assert call("evaluate", "--metric", "mse", "--data", "moved").exit_code == 0
    assert call("train", "--resume", "--data", "moved").exit_code == 0


def test_no_space_left_is_said(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "fake/x.png")

    monkeypatch.setattr("medxlate.inference.translate.write_synthetic", full)
    result = call("translate", "raw/mri", "--out", "fake")
    assert result.exit_code == 1
    assert "No space is left" in text(result)
    assert not Path("fake").exists()
    assert not list(Path().glob(".fake*"))


def test_version_and_help() -> None:
    assert re.fullmatch(r"medxlate \d+\.\d+\.\d+\n", call("--version").output)
    for command in ("prepare", "train", "translate", "predict", "evaluate", "demo"):
        assert f"medxlate {command}" in text(call(command, "--help"))
