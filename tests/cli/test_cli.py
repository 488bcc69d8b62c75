"""The command line as a user types it: the five commands, errors, exit codes, JSON."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from safetensors import SafetensorError
from typer.testing import CliRunner, Result

from medxlate.base.errors import MedxlateError
from medxlate.base.machine import cores
from medxlate.cli.app import app
from medxlate.dataset.options import PrepareOptions
from medxlate.study.begin import Grid
from medxlate.study.compare import Where
from medxlate.training.validation import Validation
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
    assert re.search(r"read │ 24 │ .*used: images of 12 patients │ 24 │", text(result))
    again = call(*words, "--patient-column", "patient")
    assert again.exit_code == 0, again.output
    assert "nothing to do" in text(again)
    planned = call(*words, "--patient-column", "patient", "--dry-run", "--json")
    value = json.loads(planned.stdout)
    assert (value["state"], value["images"], value["scans"]) == ("planned", 24, 24)


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
    summary = json.loads(result.stdout)
    assert summary["slices"] == 24
    assert set(summary["summary"]) == {"slice"}
    result = call("evaluate", "--metric", "fid")
    assert result.exit_code == 0, result.output
    assert "fid[predictor]" in text(result)
    result = call("evaluate", "--json")
    found = json.loads(result.stdout)
    assert {m["name"] for m in found["metrics"]} >= {"mse", "mae", "r2", "fid"}
    assert found["missing"] == []
    result = call("evaluate", "--metric", "is", "--metric", "mse")
    assert result.exit_code == 1
    assert "is[predictor]: is cannot be computed" in text(result)
    assert "mse" in text(result)


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
        (["translate", "raw/mri", "--out", "x", "--model", "data"], 1, "data is not a run"),
        (
            [
                "translate",
                "raw/mri",
                "--out",
                "x",
                "--model",
                "runs/mri-to-ct-001/model/model.json",
            ],
            1,
            "model.json is not a run",
        ),
        (["translate", "raw/mri", "--out", "x", "--precision", "fp16"], 2, "'fp16'"),
        (["translate", "raw/mri", "--out", "raw/labels.csv/x"], 1, "labels.csv is a file"),
        (["predict", "raw/ct", "--out", "raw/labels.csv/x.csv"], 1, "labels.csv is a file"),
        (
            [
                "train",
                "--source",
                "mri",
                "--target",
                "ct",
                "--preset",
                "debug",
                "--runs",
                "raw/labels.csv",
            ],
            1,
            "labels.csv is a file",
        ),
        (
            ["train", "--source", "mri", "--target", "ct", "--preset", "small"],
            2,
            "--size 64",
        ),
        (
            [
                "train",
                "--source",
                "mri",
                "--target",
                "ct",
                "--set",
                "model.predictor=vit_tiny_patch16_224",
            ],
            2,
            "does not accept images of 32 px",
        ),
        (["translate", "raw/mri", "--out", "x", "--device", "tpu9"], 2, "tpu9"),
        (["predict", "raw/labels.csv"], 1, "labels.csv contains no"),
        (["evaluate", "--metric", "fib"], 2, "fid"),
        (["evaluate", "--metric", "fid", "--inception", "no.pth"], 1, "no.pth"),
        (["translate", "raw/mri", "--out", "x", "--phi", "hide"], 2, "'hide' is not one of keep"),
        (["translate", "raw/mri", "--out", "x", "--key", "no.key"], 1, "no.key is missing"),
        (["prepare", "raw/ct", "--modality", "CT"], 2, "'CT'"),
        (["prepare", "raw/ct", "--modality", "pet", "--plane", "frontal"], 2, "'frontal' is not"),
        (["prepare", "raw/ct", "--modality", "pet", "--window", "40;400"], 2, "two numbers"),
        (
            ["prepare", "raw/ct", "--modality", "pet", "--label", "PatientAgee",
             "--label-name", "age", "--patient", "file"],
            2,
            "not a DICOM attribute",
        ),
        (["prepare", "raw/ct", "--modality", "pet"], 2, "--label"),
        (["prepare", "raw/ct", "--modality", "ct", "--label", "PatientAge"], 1, "exists"),
    ],
)  # fmt: skip
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
        patch.setattr(Validation, "metrics", interrupted)
        assert call(*words).exit_code == 130
    result = call("train", "--resume", "--name", "stopped", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["epochs"] == 2


@pytest.mark.parametrize(
    ("words", "left"), [(["translate", "raw/mri"], ".x.work"), (["predict", "raw/ct"], ".x.work")]
)
def test_an_interrupted_translation_or_prediction_says_that_it_can_be_continued(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], left: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "x"
    with monkeypatch.context() as patch:
        patch.setattr("medxlate.inference.engine.Engine.start", interrupted)
        stopped = call(*words, "--out", out)
    assert stopped.exit_code == 130
    assert "The same command continues" in text(stopped)
    assert [path.name for path in tmp_path.iterdir()] == [left]
    result = call(*words, "--out", out)
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_dataset_may_move_after_training(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("data", tmp_path / "moved")
    shutil.copytree("runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    missing = call("evaluate", "--metric", "mse")
    assert missing.exit_code == 1
    assert "data is not a dataset" in text(missing)
    assert call("evaluate", "--metric", "mse", "--data", "moved").exit_code == 0
    assert call("train", "--resume", "--data", "moved").exit_code == 0


def full_disk(kind: str) -> Exception:
    """What the libraries raise: with the cause, without it, and not even an OSError."""
    return {
        "cause": OSError(errno.ENOSPC, "No space left on device", "fake/x.png"),
        "bare": OSError("1000000 requested and 262128 written"),
        "safetensors": SafetensorError("I/O error: No space left on device (os error 28)"),
    }[kind]


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        ("PIL.Image.Image.save", "cause", ["translate", "raw/mri", "--out", "fake"]),
        ("PIL.Image.Image.save", "bare", ["translate", "raw/mri", "--out", "fake"]),
        (
            "medxlate.dataset.shards.ShardWriter._header",
            "bare",
            ["prepare", "raw/ct", "--modality", "ct", "--data", "more", "--labels",
             "raw/labels.csv", "--label", "age", "--patient", "file", "--file", "patient"],
        ),
        (
            "medxlate.base.tensors.save_file",
            "safetensors",
            ["train", "--source", "mri", "--target", "ct", "--preset", "debug", "--name", "full"],
        ),
    ],
)  # fmt: skip
def test_no_space_left_is_said(
    inside: Path, monkeypatch: pytest.MonkeyPatch, function: str, kind: str, words: list[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise full_disk(kind)

    if words[0] == "prepare":  # one table whose rows are files
        rows = [f"{p.stem},{i}" for i, p in enumerate(sorted(Path("raw/ct").glob("*.png")))]
        Path("table.csv").write_text("\n".join(["patient,age", *rows]))
        words = [*words[:6], "--labels", "table.csv", *words[8:]]
    with monkeypatch.context() as patch:
        patch.setattr(function, full)
        result = call(*words)
    assert result.exit_code == 1, result.output
    assert "space" in text(result)
    assert "Traceback" not in result.output
    assert not Path("fake").exists()
    left = {path.relative_to("more").parts[0] for path in Path("more").rglob("*")}
    assert left <= {".ct.parts"}  # from which the next run continues
    assert not list(Path().rglob(".*partial"))
    assert not list(Path("runs").glob("full/checkpoints/step*"))


def spy(monkeypatch: pytest.MonkeyPatch, function: str) -> dict[str, Any]:
    """Replace a library function and return what it is called with; it ends the command."""
    seen: dict[str, Any] = {}

    def record(*args: Any, **keywords: Any) -> None:
        seen.update(keywords, args=args)
        raise MedxlateError("seen")

    monkeypatch.setattr(function, record)
    return seen


def test_every_option_of_prepare_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy(monkeypatch, "medxlate.dataset.prepare.prepare")
    call(
        "prepare", "raw", "--modality", "ct", "--label", "age", "--labels", "t.csv",
        "--file", "name", "--patient", "who", "--patient-column", "id", "--keep", "sex",
        "--keep", "site", "--task", "classification", "--label-name", "x", "--unit", "months",
        "--layout", "lgg-mri", "--size", "64", "--channel", "2", "--recipe", "ct",
        "--window", "50,350", "--percentiles", "2,98", "--exclude", "*_mask*", "--data", "d",
        "--include", "*.nii", "--include", "*.dcm", "--n4", "--plane", "coronal", "--volume", "3",
        "--dicom-modality", "PT", "--force", "--workers", "5", "--overwrite", "--strict",
        "--dry-run",
    )  # fmt: skip
    assert seen.pop("listener") is not None
    assert seen == {
        "args": (Path("raw"),),
        "modality": "ct",
        "data": Path("d"),
        "layout": "lgg-mri",
        "size": 64,
        "overwrite": True,
        "strict": True,
        "dry_run": True,
        "options": PrepareOptions(
            label="age", labels=Path("t.csv"), file="name", patient="who", patient_column="id",
            keep=("sex", "site"), task="classification", label_name="x", unit="months",
            channel=2, recipe="ct", window=(50, 350), percentiles=(2, 98), exclude=("*_mask*",),
            include=("*.nii", "*.dcm"), n4=True, plane="coronal", volume=3, dicom_modality="PT",
            force=True, workers=5,
        ),
    }  # fmt: skip


def test_the_former_name_of_layout_works_and_names_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = spy(monkeypatch, "medxlate.dataset.prepare.prepare")
    words = ("prepare", "raw", "--modality", "mri", "--preset", "lgg-mri")
    result = call(*words)
    assert seen["layout"] == "lgg-mri"
    assert "--preset lgg-mri is now called --layout lgg-mri." in result.stderr
    assert "--preset" not in call("prepare", "--help").stdout


@pytest.mark.parametrize(
    ("words", "window", "workers"),
    [
        ([], None, cores()),
        (["--window", "bone"], "bone", cores()),
        (["--window", "-600,1500", "--workers", "1"], (-600, 1500), 1),
    ],
)
def test_windows_have_names_and_there_is_a_process_a_core(
    monkeypatch: pytest.MonkeyPatch, words: list[str], window: object, workers: int
) -> None:
    seen = spy(monkeypatch, "medxlate.dataset.prepare.prepare")
    call("prepare", "raw", "--modality", "ct", "--label", "age", *words)
    assert seen["options"].window == window
    assert seen["options"].workers == workers


def test_every_option_of_train_arrives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = spy(monkeypatch, "medxlate.training.train.train")
    monkeypatch.setattr("medxlate.dataset.index.Dataset", lambda _: None)  # looked for first
    (tmp_path / "c.toml").write_text("[objective]\nlambda_cycle = 5\n")
    call(
        "train", "--source", "mri", "--source", "pet", "--target", "ct", "--preset", "small",
        "--method", "joint", "--epochs", "7", "--batch-size", "3", "--pretrained", "imagenet",
        "--seed", "9", "--data", "d", "--runs", "r", "--name", "n", "--device", "cpu",
        "--precision", "bf16", "--config", tmp_path / "c.toml", "--offline",
        "--set", "objective.lambda_identity=2",
    )  # fmt: skip
    (config,) = seen["args"]
    assert config.data.sources == ("mri", "pet")
    assert (config.data.target, config.data.folder, config.data.image_size) == ("ct", "d", 64)
    assert (config.optimizer.epochs, config.optimizer.batch_size) == (7, 3)
    assert config.model.pretrained == "imagenet"
    assert (config.split.seed, config.runtime.seed) == (9, 9)
    assert (config.runtime.device, config.runtime.precision) == ("cpu", "bf16")
    assert config.runtime.offline
    assert (config.objective.lambda_cycle, config.objective.lambda_identity) == (5, 2)
    assert (seen["runs"], seen["name"]) == (Path("r"), "n")


@pytest.mark.parametrize(
    ("function", "words", "expected"),
    [
        (
            "medxlate.inference.translate.translate",
            ["translate", "in", "--out", "o", "--source", "mri", "--phi", "remove", "--key", "k",
             "--dicom-modality", "MR", "--volume", "2", "--tile", "64", "--compile", "on",
             "--include", "*.nii", "--no-bids", "--bids-suffix", "ct"],
            {
                "out": Path("o"), "source": "mri", "batch_size": 3, "overwrite": True,
                "phi": "remove", "key": Path("k"), "dicom_modality": "MR", "volume": 2,
                "tile": 64, "compiling": "on", "include": ["*.nii"], "bids": False,
                "bids_suffix": "ct",
            },
        ),
        (
            "medxlate.inference.predict.predict",
            ["predict", "in", "--out", "o", "--patient", "folder:1", "--dicom-modality", "CT",
             "--volume", "1", "--model", "n", "--level", "0.8", "--tta"],
            {
                "out": Path("o"), "patient": "folder:1", "batch_size": 3, "overwrite": True,
                "dicom_modality": "CT", "volume": 1, "level": 0.8, "tta": True,
                "model": [Path("n"), Path("m")],
            },
        ),
    ],
)  # fmt: skip
def test_every_option_of_translate_and_predict_arrives(
    monkeypatch: pytest.MonkeyPatch, function: str, words: list[str], expected: dict[str, Any]
) -> None:
    seen = spy(monkeypatch, function)
    for check in ("check_translation", "check_prediction"):  # what they refuse: test_startup.py
        monkeypatch.setattr(f"medxlate.inference.request.{check}", lambda *_, **__: None)
    shared = ["--force", "--model", "m", "--exclude", "a*", "--exclude", "b*", "--batch-size", "3"]
    call(*words, *shared, "--device", "cpu", "--precision", "fp32", "--overwrite")
    expected = {"model": Path("m"), **expected, "exclude": ["a*", "b*"], "args": (Path("in"),)}
    expected |= {"device": "cpu", "precision": "fp32", "force": True}
    seen.pop("listener")
    assert seen == expected


def test_every_option_of_evaluate_and_demo_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy(monkeypatch, "medxlate.evaluation.evaluate.evaluate")
    monkeypatch.setattr("medxlate.artifacts.runs.find_run", lambda *_: None)  # looked for first
    call(
        "evaluate", "--metric", "fid", "--metric", "kid", "--run", "r", "--inception", "i.pth",
        "--download", "--offline", "--data", "d", "--device", "cpu", "--precision", "fp32",
        "--model", "m", "--features", "predictor", "--no-audit",
    )  # fmt: skip
    assert seen.pop("listener") is not None
    assert seen == {
        "args": (Path("r"),), "metrics": ["fid", "kid"], "extractors": ["predictor"],
        "audits": False, "inception": Path("i.pth"),
        "download": True, "offline": True, "data": Path("d"), "device": "cpu", "precision": "fp32",
        "model": Path("m"),
    }  # fmt: skip
    seen = spy(monkeypatch, "medxlate.walkthrough.demo")
    call("demo", "--out", "o", "--seed", "4", "--overwrite")
    assert (seen["args"], seen["seed"], seen["overwrite"]) == ((Path("o"),), 4, True)


def test_every_option_of_compare_and_plan_arrives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text("[objective]\nlambda_cycle = 5\n")
    words = [
        "--target", "ct", "--source", "mri", "--source", "mri+pet", "--method", "joint",
        "--method", "target-only", "--repeats", "4", "--policy", "patient",
        "--target-fraction", "0.5,1", "--source-fraction", "0.25", "--test-patients", "6",
        "--val-patients", "2", "--where", "age > 1", "--primary", "joint:target-only",
        "--preset", "small", "--config", tmp_path / "c.toml", "--set", "optimizer.epochs=7",
        "--seed", "9", "--data", "d", "--jobs", "3", "--device", "cpu",
    ]  # fmt: skip
    grid = Grid(
        methods=["joint", "target-only"],
        sources=["mri", "mri+pet"],
        target_fractions=[0.5, 1.0],
        source_fractions=[0.25],
        target_patients=[],
        repeats=4,
        primary="joint:target-only",
    )
    seen = spy(monkeypatch, "medxlate.study.compare.compare")
    call(
        "compare", *words, "--out", "o", "--cell", "5", "--ray", "auto", "--predictions", "p.csv",
        "--inception", "i.pth", "--keep-models", "--offline",
    )  # fmt: skip
    config, asked = seen["args"]
    assert asked == grid
    assert (config.data.target, config.data.folder, config.data.where) == ("ct", "d", ("age > 1",))
    assert (config.data.image_size, config.objective.lambda_cycle) == (64, 5)
    assert config.optimizer.epochs == 7
    assert (config.split.test_patients, config.split.val_patients) == (6, 2)
    assert (config.split.seed, config.runtime.seed, config.runtime.device) == (9, 9, "cpu")
    assert config.runtime.offline
    assert seen["where"] == Where(jobs=3, ray="auto", cell=5, device="cpu", keep_models=True)
    assert (seen["out"], seen["inception"]) == (Path("o"), Path("i.pth"))
    assert seen["predictions"] == [Path("p.csv")]
    seen = spy(monkeypatch, "medxlate.study.plan.plan")
    call("plan", *words, "--spread-from", "before")
    assert seen["args"] == (config.model_copy(update={"runtime": seen["args"][0].runtime}), grid)
    assert (seen["jobs"], seen["spread_from"]) == (3, Path("before"))


def test_a_study_takes_a_given_split_or_numbers_of_patients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = spy(monkeypatch, "medxlate.study.compare.compare")
    call(
        "compare", "--target", "ct", "--split", "s.csv", "--target-patients", "3,5", "--draws", "6"
    )
    config, grid = seen["args"]
    assert (config.split.file, config.runtime.offline) == ("s.csv", False)
    assert (list(grid.target_patients), grid.repeats) == ([3, 5], 6)
    call("compare", "--target", "ct", "--split-column", "part")
    assert seen["args"][0].split.column == "part"


def test_version_and_help() -> None:
    assert re.fullmatch(r"medxlate \d+\.\d+\.\d+\n", call("--version").output)
    for command in (
        "prepare",
        "train",
        "translate",
        "predict",
        "evaluate",
        "scrub",
        "demo",
        "import",
    ):
        assert f"medxlate {command}" in text(call(command, "--help"))
