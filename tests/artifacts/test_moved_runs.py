"""Runs that are used from another working directory, moved with their data, and shared."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import tiny
from medxlate.artifacts.runs import RunFolder, dataset_of, find_model, find_run, read_config
from medxlate.base.errors import DataError, ModelError
from medxlate.base.events import Event, Warned
from medxlate.config import resolve
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.scrub.scrub import scrub
from medxlate.training.train import train

MEDXLATE = (sys.executable, "-m", "medxlate")


def call(words: Sequence[object], cwd: Path, umask: int = 0o022) -> str:
    """Run medxlate as a process of its own, in a working directory."""
    done = subprocess.run(
        [*MEDXLATE, *map(str, words)],
        cwd=cwd,
        umask=umask,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data`` and a run in ``runs``, trained with the relative folder ``data``."""
    root = tmp_path_factory.mktemp("project")
    tiny.write_dataset(root)
    config = tiny.debug_config(Path("data"), optimizer={"epochs": 1, "batch_size": 4})
    old = Path.cwd()
    os.chdir(root)
    try:
        train(config, runs="runs", name="first")
    finally:
        os.chdir(old)
    return root


def test_a_run_is_used_from_another_folder_and_where_it_was_moved(
    project: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(project, moved)
    away = tmp_path / "away"
    away.mkdir()
    run = moved / "runs" / "first"
    call(["evaluate", "--run", run, "--metric", "mse"], away)
    call(["translate", moved / "raw" / "mri", "--out", "out", "--model", run], away)
    call(["report", run], away)
    call(["train", "--resume", "--runs", moved / "runs", "--name", "first"], away)
    assert str(project) not in (run / "config.json").read_text()
    assert json.loads((run / "config.json").read_text())["data"]["folder"] == "../../data"


@pytest.mark.parametrize("inside", [True, False])
def test_a_run_of_an_older_version_opens(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    """Its folder is relative to where it was trained."""
    run = tmp_path / "elsewhere" / "runs" / "first"
    shutil.copytree(project / "runs" / "first", run)
    values = json.loads((run / "config.json").read_text())
    values["data"]["folder"] = "data"
    (run / "config.json").write_text(json.dumps(values))
    if inside:  # nothing lies beside the run
        monkeypatch.chdir(project)
        there = project / "data"
    else:
        there = tmp_path / "elsewhere" / "data"
        there.mkdir()
        monkeypatch.chdir(project)  # another dataset of that name is not taken
    assert Path(read_config(RunFolder(run)).data.folder).resolve() == there.resolve()
    assert dataset_of(run, str(there), levels=2) == there


def test_a_runs_configuration_names_the_runs_dataset(project: Path, tmp_path: Path) -> None:
    away = tmp_path / "a" / "b"
    away.mkdir(parents=True)
    shutil.copytree(project / "data", tmp_path / "data")  # as ../../data is seen from here
    words = ["train", "--config", project / "runs" / "first" / "config.json", "--runs", "mine"]
    call(words, away)
    config = read_config(
        RunFolder(next(path for path in (away / "mine").iterdir() if path.is_dir()))
    )
    assert Path(config.data.folder).resolve() == (project / "data").resolve()


def test_scrub_refuses_another_dataset_in_the_place_of_the_runs(
    project: Path, tmp_path: Path
) -> None:
    shutil.copytree(project / "runs", tmp_path / "runs")
    tiny.write_raw(tmp_path / "raw")
    options = PrepareOptions(
        labels=tmp_path / "raw" / "labels.csv", label="age", patient_column="patient",
        patient=rf"regex:({tiny.PREFIX}1\d)",
    )  # fmt: skip
    for name in ("mri", "ct"):
        prepare(
            tmp_path / "raw" / name, modality=name, data=tmp_path / "data", options=options,
            size=tiny.SIZE,
        )  # fmt: skip
    with pytest.raises(DataError, match=r"is not the dataset that .* was trained on"):
        scrub(tmp_path / "runs" / "first")
    assert scrub(tmp_path / "runs" / "first", data=project / "data").values
    assert scrub(project / "runs" / "first").values


def test_a_study_goes_on_from_another_folder_and_where_it_was_moved(
    project: Path, tmp_path: Path
) -> None:
    place, away = tmp_path / "place", tmp_path / "away"
    place.mkdir()
    away.mkdir()
    shutil.copytree(project / "data", place / "data")
    words = ["--target", "ct", "--preset", "debug", "--repeats", "2", "--device", "cpu"]
    words += ["--method", "constant", "--method", "target-only", "--keep-models", "--cell", "1"]
    call(["compare", *words, "--out", "study"], place)
    kept = json.loads((place / "study" / "study.json").read_text())
    assert kept["config"]["data"]["folder"] == "../data"
    moved = tmp_path / "moved"
    place.rename(moved)
    call(["compare", "--out", moved / "study"], away)
    (run,) = moved.glob("study/cells/0001-*/run")
    assert json.loads((run / "config.json").read_text())["data"]["folder"] == "../../../../data"
    call(["evaluate", "--run", run, "--metric", "mse"], away)
    call(["compare", *words[:-2], "--out", "moved/study", "--data", "moved/data"], tmp_path)
    assert (moved / "study" / "report.html").is_file()
    assert json.loads((moved / "study" / "study.json").read_text()) == kept
    kept["config"]["data"]["folder"] = "data"  # as older versions wrote it
    (moved / "study" / "study.json").write_text(json.dumps(kept))
    (away / "data").mkdir()
    call(["compare", "--out", moved / "study"], away)


def test_a_run_at_the_root_has_no_folder_above() -> None:
    assert dataset_of(Path("/runs"), "no-such-data", levels=2).resolve() == Path(
        "/runs/no-such-data"
    )


def test_an_absolute_dataset_of_a_configuration_stays_absolute(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"data": {"folder": str(tmp_path / "data")}}))
    assert resolve(file=path).data.folder == str(tmp_path / "data")


def test_files_follow_the_umask(project: Path, tmp_path: Path) -> None:
    run, raw = project / "runs" / "first", project / "raw"
    call(["translate", raw / "mri", "--out", "out", "--model", run], tmp_path)
    call(["predict", raw / "ct", "--out", "p.csv", "--model", run], tmp_path)
    paths = [*(project / "runs").rglob("*"), *(tmp_path / "out").rglob("*"), tmp_path / "p.csv"]
    assert len(paths) > 20
    wrong = {path: oct(mode(path)) for path in paths if mode(path) != usual(path)}
    assert not wrong
    call(["translate", raw / "mri", "--out", "shared", "--model", run], tmp_path, 0o002)
    assert {mode(path) for path in (tmp_path / "shared").rglob("*.png")} == {0o664}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def usual(path: Path) -> int:
    """Where the umask is 022."""
    return 0o755 if path.is_dir() else 0o644


def test_latest_is_the_newest_run_that_can_do_what_is_asked(project: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    kinds = {
        "a": {"translators": {"mri": {}}, "predictor": {"head": 1}},
        "b": {"translators": {}, "predictor": {"head": 1}},
        "c": None,
    }
    for age, (name, model) in enumerate(kinds.items()):
        (runs / name / "model").mkdir(parents=True)
        (runs / name / "config.json").write_text("{}")
        os.utime(runs / name / "config.json", (age, age))
        if model is not None:
            (runs / name / "model" / "model.json").write_text(json.dumps(model))
    latest = runs / "latest"
    latest.write_text("c\n")
    said: list[Event] = []
    assert find_run(latest).path.name == "c"
    assert find_model(latest, "a model", said.append).parent.name == "b"
    assert find_model(latest, "a predictor", said.append).parent.name == "b"
    assert find_model(latest, "a translator", said.append).parent.name == "a"
    assert [isinstance(each, Warned) and str(runs) in each.text for each in said] == [True] * 3
    with pytest.raises(ModelError, match="has not finished"):
        find_model(runs / "c", "a translator")
