"""What `compare` refuses, before anything is trained, and the words that it uses."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_workers import needs_ray

from medxlate.base.errors import (
    ConfigError,
    DataError,
    MedxlateError,
    ModelError,
    OutputError,
    UsageError,
)
from medxlate.base.events import Warned, silent
from medxlate.study import cluster
from medxlate.study import compare as compare_module
from medxlate.study.begin import Grid, begin_study, plan_study
from medxlate.study.compare import Where, compare
from medxlate.study.study import StudyFolder
from medxlate.training import train as train_module
from studies import BRIEF, Heard, call, dataset, flat, prepare_images, read_json
from tiny import debug_config, group_of

CONSTANT = Grid(methods=("constant",), repeats=1)
TWICE = Grid(methods=("constant",), repeats=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory, "classification")


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of the constant on two splits."""
    out = tmp_path_factory.mktemp("begun") / "compare"
    compare(debug_config(data), Grid(methods=("constant",), repeats=2), out=out)
    return out


@pytest.fixture
def study(begun: Path, tmp_path: Path) -> Path:
    """The finished study, to be changed."""
    return Path(shutil.copytree(begun, tmp_path / "compare"))


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be trained."""

    def train(*_: object, **__: object) -> None:
        pytest.fail("something is trained")

    monkeypatch.setattr(train_module, "set_up", train)
    monkeypatch.setattr(compare_module, "carry_out", train)


def refused(kind: type[MedxlateError], *words: str, out: Path, **arguments: Any) -> MedxlateError:
    """Compare, expect an error that holds all the words, and nothing trained."""
    before = sorted(out.rglob("cell.json"))
    with pytest.raises(kind) as caught:
        compare(arguments.pop("config", None), arguments.pop("grid", None), out=out, **arguments)
    text = flat(f"{caught.value.message} {caught.value.hint}")
    for word in words:
        assert word in text, text
    assert sorted(out.rglob("cell.json")) == before
    assert not list(out.rglob("*.failed.json"))
    return caught.value


# ----- The grid -----


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("grid", "kind", "words"),
    [
        (Grid(methods=("dan",)), ConfigError, ["method 'dan'", "dann"]),
        (Grid(methods=("something",)), ConfigError, ["something", "target-only", "multitask"]),
        (Grid(methods=("joint+flip",)), ConfigError, ["joint+flip", "joint+autoaugment"]),
        (Grid(methods=("dann+autoaugment",)), ConfigError, ["dann+autoaugment", "joint+auto"]),
        (Grid(methods=("translator",)), ConfigError, ["translator is a first stage"]),
        (Grid(methods=("source-only",)), ConfigError, ["source-only is a first stage"]),
        (Grid(sources=("ct",)), ConfigError, ["ct", "target"]),
        (Grid(sources=("mri+ct",)), ConfigError, ["mri+ct", "target"]),
        (Grid(sources=("mri+mri",)), ConfigError, ["mri+mri", "twice"]),
        (Grid(sources=("mrt",)), DataError, ["mrt", "mri"]),
        (Grid(sources=("",)), MedxlateError, ["modality"]),
        (Grid(primary="jont:target-only"), ConfigError, ["'jont'", "not a method of this study"]),
        (Grid(primary="joint"), ConfigError, ["'joint' is not of the form", "--primary"]),
        (Grid(repeats=0), UsageError, ["0 repeats"]),
        (Grid(repeats=-1), UsageError, ["-1 repeats"]),
        *(
            (
                Grid(**{f"{whose}_fractions": (1.0, bad)}),
                ConfigError,
                [f"{bad:g} is not a valid fraction", whose],
            )
            for whose in ("target", "source")
            for bad in (0.0, -0.5, 1.5, float("nan"), float("inf"))
        ),
    ],
)
def test_an_impossible_grid_is_refused(
    data: Path, tmp_path: Path, grid: Grid, kind: type[MedxlateError], words: Sequence[str]
) -> None:
    out = tmp_path / "compare"
    refused(kind, *words, out=out, config=debug_config(data), grid=grid)
    assert not out.exists()


@pytest.mark.usefixtures("untrained")
def test_a_target_that_is_not_prepared_or_not_named_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare"
    refused(DataError, "xray", out=out, config=debug_config(data, data={"target": "xray"}))
    nothing = debug_config(data, data={"target": "", "sources": []})
    refused(ConfigError, "No target modality", "--target", out=out, config=nothing)
    refused(DataError, str(tmp_path), out=out, config=debug_config(tmp_path))
    assert not out.exists()


def test_a_dataset_with_only_the_target_serves_methods_without_source(tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare_images(tmp_path, data, "ct", range(6))
    config, out = debug_config(data, data={"sources": []}, optimizer=BRIEF), tmp_path / "compare"
    refused(ConfigError, "no modality other than ct", "Prepare a source", out=out, config=config)
    grid = Grid(methods=("constant", "autoaugment"), repeats=1)
    result = compare(config, grid, out=out)
    assert not result.failed
    assert result.findings is not None
    assert len(result.findings.results) == 2
    assert (result.study.source_sets, result.study.config.data.sources) == ((), ())


# ----- The data -----


@pytest.mark.usefixtures("untrained")
def test_fewer_patients_than_a_split_needs_are_refused(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "compare"
    prepare_images(tmp_path, data, "ct", range(2))
    prepare_images(tmp_path, data, "mri", range(5, 9))
    error = refused(DataError, "no ct patient", "2 patients", out=out, config=debug_config(data))
    assert "at least 3" in error.hint
    assert not list(out.glob("*"))


@pytest.mark.usefixtures("untrained")
def test_a_source_of_which_nobody_is_left_for_training_is_refused(tmp_path: Path) -> None:
    """Both have only one patient, who is in the test of some split."""
    data, out = tmp_path / "data", tmp_path / "compare"
    prepare_images(tmp_path, data, "ct", range(6))
    prepare_images(tmp_path, data, "mri", range(1))
    refused(DataError, "No mri patient is left", "repeat", out=out, config=debug_config(data))


@pytest.mark.usefixtures("untrained")
def test_a_class_that_is_absent_from_training_or_test_is_refused(
    classes: Path, tmp_path: Path
) -> None:
    """Two of twelve patients are tested, of three classes."""
    out = tmp_path / "compare"
    refused(DataError, "is missing from the test part of ct", out=out, config=debug_config(classes))
    split = {"train": 0.4, "val": 0.2, "test": 0.4, "seed": 4}
    config = debug_config(classes, split=split)
    grid = Grid(repeats=1, target_fractions=(0.2, 1.0))
    error = refused(
        DataError, "missing from the train part", "0.2", out=out, config=config, grid=grid
    )
    assert "--seed" in error.hint


@pytest.mark.parametrize("kind", ["range", "prevalence"])
def test_unlike_labels_are_reported_with_both_histograms(
    data: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "range":
        config, grid = debug_config(data, split={"seed": 1}), Grid(("raw-mix",), repeats=1)
        words = ["labels (age) of mri and ct differ", "outside the range of ct"]
    else:
        folder = tmp_path / "data"
        prepare_images(tmp_path, folder, "ct", range(12), label=group_of)
        prepare_images(
            tmp_path, folder, "mri", range(20, 32), label=lambda n: "old" if n < 30 else group_of(n)
        )
        shares = {"train": 0.4, "val": 0.2, "test": 0.4, "seed": 4}
        config, grid = debug_config(folder, split=shares), Grid(("raw-mix",), repeats=1)
        words = ["labels (group) of mri and ct differ", "The class 'old' is"]
    heard = Heard()
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update=BRIEF)})
    compare(config, grid, out=tmp_path / "compare", listener=heard)
    notes = [event.text for event in heard.of(Warned)]
    assert not any("\n" in note for note in notes)  # which a console would write out
    first = next(event for event in heard.of(Warned) if " of mri and ct differ" in flat(event.text))
    text = flat(" ".join(notes))
    for word in (*words, "mri (12)", "ct (12)"):
        assert word in text
    assert sum(note.rstrip().endswith("#") for note in notes) > 1
    assert heard.index(first) < heard.index(heard.cells[0])


@pytest.mark.usefixtures("untrained")
def test_a_dataset_that_changed_is_noticed(data: Path, tmp_path: Path) -> None:
    """With and without options; what is finished cannot be collected any more."""
    moved, out = Path(shutil.copytree(data, tmp_path / "data")), tmp_path / "compare"
    grid = Grid(methods=("constant",), repeats=2)
    config = debug_config(moved)
    begin_study(plan_study(config, grid), StudyFolder(out), silent)
    path = moved / "ct" / "slices.parquet"
    slices = pd.read_parquet(path)
    slices["label"] += 1.0
    slices.to_parquet(path)
    refused(OutputError, "fingerprints.ct was", out=out, config=config, grid=grid)
    refused(DataError, "ct was prepared again", out=out)
    refused(DataError, "ct was prepared again", out=out, where=Where(cell=0))
    shutil.rmtree(moved)
    refused(DataError, str(moved), out=out)


# ----- The folder -----


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("sections", "grid", "key"),
    [
        (
            {"optimizer": {"epochs": 3}},
            Grid(("constant",), repeats=2),
            "config.optimizer.epochs was 2 and is now 3",
        ),
        ({"split": {"policy": "image"}}, Grid(("constant",), repeats=2), "config.split.policy"),
        ({"split": {"seed": 1}}, Grid(("constant",), repeats=2), "config.split.seed was 0"),
        ({}, Grid(("constant",), repeats=3), "repeats was 2 and is now 3"),
        ({}, Grid(("target-only",), repeats=2), "methods was"),
        ({}, Grid(("constant",), repeats=2, target_fractions=(0.5,)), "target_fractions"),
        (
            {"data": {"target": "mri", "sources": []}},
            Grid(("constant",), repeats=2),
            "config.data.target",
        ),
    ],
)
def test_a_study_of_another_configuration_is_refused(
    data: Path, begun: Path, sections: Any, grid: Grid, key: str
) -> None:
    config = debug_config(data, **sections)
    words = ["was started with another configuration", key, "--out"]
    refused(OutputError, *words, out=begun, config=config, grid=grid)


@pytest.mark.usefixtures("untrained")
def test_a_folder_that_is_no_study_is_refused(data: Path, tmp_path: Path) -> None:
    config = debug_config(data)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    refused(OutputError, "no study.json", "--out", out=other, config=config, grid=CONSTANT)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    refused(DataError, "study.json does not exist", "Start a study", out=other)
    refused(DataError, "study.json does not exist", out=tmp_path / "nowhere")
    file = other / "thesis.txt"
    refused(OutputError, "is a file", out=file, config=config, grid=CONSTANT)
    refused(OutputError, "is a file", out=file / "compare", config=config, grid=CONSTANT)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["cannot be read as JSON"]),
        ("[]", ["schema version None"]),
        ('{"schema_version": 99}', ["schema version 99"]),
        ('{"schema_version": 1}', ["is damaged"]),
        ('{"schema_version": 1, "repeats": "many"}', ["is damaged"]),
    ],
)
def test_a_damaged_study_is_named(
    data: Path, study: Path, content: str, words: Sequence[str]
) -> None:
    (study / "study.json").write_text(content)
    refused(DataError, "study.json", *words, out=study)
    grid = Grid(methods=("constant",), repeats=2)
    refused(DataError, "study.json", *words, out=study, config=debug_config(data), grid=grid)


@pytest.mark.usefixtures("untrained")
def test_a_damaged_split_is_named(study: Path) -> None:
    split = study / "splits" / "r01.json"
    values = read_json(split)
    values["patients"]["train"] += values["patients"]["test"][:1]
    split.write_text(json.dumps(values))
    refused(DataError, "split.json was changed", out=study)
    split.unlink()
    refused(DataError, "r01.json does not exist", out=study)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("index", [2, -1, 1000])
def test_a_cell_that_is_not_there_is_refused(begun: Path, index: int) -> None:
    words = [f"no cell {index}", "the study has 2", "from 0 to 1"]
    refused(UsageError, *words, out=begun, where=Where(cell=index))


# ----- Where -----


@needs_ray
@pytest.mark.usefixtures("untrained")
def test_no_cluster_is_a_quick_refusal(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    began = time.monotonic()
    words = [f"no Ray cluster at {address}", "ray start"]
    out = tmp_path / "compare"
    config = debug_config(data)
    refused(UsageError, *words, out=out, config=config, grid=CONSTANT, where=Where(ray=address))
    assert time.monotonic() - began < 10
    assert not out.exists()


@pytest.mark.usefixtures("untrained")
def test_no_jobs_and_unknown_devices_are_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare"
    refused(UsageError, "0 parallel jobs", out=out, config=debug_config(data), where=Where(jobs=0))
    config = debug_config(data, runtime={"device": "gpu"})
    refused(MedxlateError, "gpu", out=out, config=config, grid=CONSTANT)
    assert not out.exists()


# ----- Predictions and weights of others -----


@pytest.fixture
def table(begun: Path) -> pd.DataFrame:
    """Sound predictions for the two splits."""
    predictions = pd.read_parquet(begun / "predictions.parquet")
    return predictions[["repeat", "slice_id", "prediction"]].astype({"prediction": object})


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.drop(index=1),
            ["no prediction for 1 of 4 test images", "r00.csv"],
        ),
        (lambda t: t[t["repeat"] == 0], ["4 of 4 test images of repeat 1", "splits/r01.csv"]),
        (lambda t: t.drop(columns="repeat"), ["no column 'repeat'"]),
        (lambda t: t.drop(columns="slice_id"), ["no column 'slice_id'"]),
        (lambda t: t.drop(columns="prediction"), ["no column 'prediction'"]),
        (lambda t: t.assign(prediction=np.nan), ["not a number"]),
        (lambda t: t.assign(prediction="inf"), ["not a number"]),
        (lambda t: t.assign(prediction=["old", *t["prediction"][1:]]), ["not a number"]),
        (lambda t: pd.concat([t, t[:1]]), ["two predictions"]),
        (lambda t: t.iloc[:0], ["no prediction for 4 of 4"]),
    ],
)
def test_predictions_that_cannot_be_scored_are_refused(
    study: Path, tmp_path: Path, table: pd.DataFrame, change: Any, words: Sequence[str]
) -> None:
    """Also of a study that nothing of is trained yet."""
    shutil.rmtree(study / "cells")
    path = tmp_path / "other.csv"
    change(table).to_csv(path, index=False)
    refused(DataError, "other.csv", *words, out=study, predictions=[path])


@pytest.mark.usefixtures("untrained")
def test_files_that_are_no_table_and_names_that_are_taken_are_refused(
    study: Path, tmp_path: Path, table: pd.DataFrame
) -> None:
    def predictions(*paths: Path) -> dict[str, Any]:
        return {"out": study, "predictions": paths}

    empty, noise = tmp_path / "empty.csv", tmp_path / "noise.csv"
    empty.touch()
    noise.write_bytes(bytes(range(256)))
    refused(DataError, "empty.csv cannot be read", **predictions(empty))
    refused(DataError, "noise.csv", **predictions(noise))
    refused(DataError, "none.csv", **predictions(tmp_path / "none.csv"))
    refused(DataError, "cannot be read", **predictions(tmp_path))
    for name in ("constant", "joint"):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        refused(DataError, "has the name of a method", **predictions(tmp_path / f"{name}.csv"))
    (tmp_path / "more").mkdir()
    two = [tmp_path / "own.csv", tmp_path / "more" / "own.csv"]
    for path in two:
        table.to_csv(path, index=False)
    refused(DataError, "Two tables", "own", **predictions(*two))
    refused(ModelError, "none.pth", out=study, inception=tmp_path / "none.pth")


def test_an_unknown_class_is_named(classes: Path, tmp_path: Path) -> None:
    split = {"train": 0.4, "val": 0.2, "test": 0.4, "seed": 4}
    config, out = debug_config(classes, split=split), tmp_path / "compare"
    compare(config, CONSTANT, out=out)
    own = pd.read_parquet(out / "predictions.parquet")
    path = tmp_path / "other.csv"
    own.assign(prediction="aged")[["repeat", "slice_id", "prediction"]].to_csv(path, index=False)
    words = ["predicts 'aged', which is not a class", "middle, old, young"]
    refused(DataError, *words, out=out, predictions=[path])
    shares = own[["repeat", "slice_id", "p(middle)", "p(old)", "p(young)"]]
    shares.assign(**{"p(old)": np.nan}).to_csv(path, index=False)
    refused(DataError, "not a number", out=out, predictions=[path])
    shares.drop(columns="p(old)").to_csv(path, index=False)
    refused(DataError, "no column 'prediction'", out=out, predictions=[path])


# ----- The command line -----


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--method", "dan", "--target", "ct"], 2, "Did you mean"),
        (["--method", "something", "--target", "ct"], 2, "target-only"),
        (["--repeats", "0", "--target", "ct"], 2, "repeats"),
        (["--target-fraction", "half", "--target", "ct"], 2, "not a list of numbers"),
        (["--target-fraction", "0.5,2", "--target", "ct"], 2, "2 is not a valid fraction"),
        (["--source", "ct", "--target", "ct"], 2, "target"),
        (["--policy", "volume", "--target", "ct"], 2, "is not one of patient, image"),
        (["--method", "joint"], 2, "No target modality"),
        (["--target", "xray"], 1, "xray"),
        (["--target", "ct", "--set", "optimizer.epoch=3"], 2, "optimizer.epochs"),
        (["--jobs", "0", "--target", "ct"], 2, "jobs"),
    ],
)
def test_wrong_use_ends_with_its_code_and_words(
    data: Path, tmp_path: Path, words: Sequence[str], code: int, message: str
) -> None:
    place = ["--data", data, "--out", tmp_path / "compare", "--preset", "debug", "--device", "cpu"]
    result = call("compare", *words, *place, "--json")
    assert result.exit_code == code, result.output
    assert message in flat(result.stderr), result.stderr
    assert json.loads(result.stdout)["code"] == code
    assert not (tmp_path / "compare").exists()


def test_the_result_goes_to_standard_output_alone(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare"
    words = ["--target", "ct", "--data", data, "--preset", "debug", "--out", out, "--json"]
    result = call("compare", *words, "--method", "constant", "--repeats", "2", "--device", "cpu")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert (value["cells"], value["failed"], value["overhead"]) == (2, {}, None)
    assert Path(value["folder"]) == out
    assert "2/2" in result.stderr
    again = call("compare", "--out", out)
    assert again.exit_code == 0
    assert "constant" in again.stdout
    assert "report.md" in again.stdout
    missing = call("compare", "--out", out, "--cell", "2")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "no cell 2" in flat(missing.stderr)
    nothing = call("compare", "--out", tmp_path / "nowhere")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert "medxlate compare --target" in flat(nothing.stderr)
