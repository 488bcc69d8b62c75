"""``evaluate`` on tiny runs: what it measures, keeps and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from medxlate.base.errors import DataError, ModelError, OutputError, UsageError
from medxlate.base.events import Event
from medxlate.evaluation import subject
from medxlate.evaluation.evaluate import evaluate
from medxlate.evaluation.prediction_metrics import CLASSIFICATION
from medxlate.evaluation.results import read_results
from medxlate.inference.predict import Predictor, predict
from medxlate.training.train import train
from tiny import GROUP, debug_config, write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project with a joint and a target-only run."""
    root = tmp_path_factory.mktemp("evaluation")
    config = debug_config(write_dataset(root))
    train(config, runs=root / "runs", name="joint")
    train(config.model_copy(update={"method": "target-only"}), runs=root / "runs", name="alone")
    return root


@pytest.fixture(autouse=True)
def _no_inception(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def test_evaluate_measures_the_test_part(folder: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    result = evaluate(folder / "runs" / "joint", listener=events.append)
    taken = {m.label for m in result.results.metrics if m.source == "mri" and m.value is not None}
    assert taken == {"tstr", *(f"{m}[predictor]" for m in ("fid", "kid", "precision", "recall"))}
    fid = next(m for m in result.results.metrics if m.name == "fid")
    assert any("2048" in note for note in fid.notes)
    assert fid.floor is not None
    # The same images through `predict` give the same error.
    split = json.loads((folder / "runs" / "joint" / "split.json").read_text())
    slices = pd.read_parquet(folder / "data" / "ct" / "slices.parquet")
    test = slices[slices["patient"].isin(split["patients"]["test"])]
    assert result.results.images == len(test)
    assert result.results.patients == test["patient"].nunique()
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in test["file"]:
        shutil.copy(folder / "raw" / "ct" / name, raw / name)
    table = predict(raw, out=tmp_path / "p.csv", model=folder / "runs" / "joint").table
    joined = table.merge(test[["file", "label"]], on="file")
    mse = float(((joined["age"] - joined["label"]) ** 2).mean())
    assert result.figure("mse", level="image") == pytest.approx(mse, rel=1e-4)
    mean = slices[slices["patient"].isin(split["patients"]["train"])]["label"].mean()
    constant = float(((test["label"] - mean) ** 2).mean())
    assert result.figure("mse", level="image", of="constant") == pytest.approx(constant, rel=1e-5)


def test_methods_share_split_and_number_of_updates(folder: Path) -> None:
    runs = [folder / "runs" / name for name in ("joint", "alone")]
    assert (runs[0] / "split.json").read_text() == (runs[1] / "split.json").read_text()
    steps = [
        max(json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines())
        for run in runs
    ]
    assert steps[0] == steps[1]


def test_a_run_without_translator_has_no_fid(folder: Path) -> None:
    result = evaluate(folder / "runs" / "alone")
    assert not [m for m in result.results.metrics if m.group == "translation"]
    (fid,) = evaluate(folder / "runs" / "alone", metrics=["fid"]).missing
    assert fid.value is None
    assert "no translator" in fid.reason
    assert "joint" in fid.remedy


def test_metrics_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="auroc"):
        evaluate(folder / "runs" / "joint", metrics=["auroc"])


@pytest.mark.parametrize(
    ("column", "value"), [("patient", "p0000000000000000"), ("label", 99.0), ("pixel_hash", "x")]
)
def test_evaluate_refuses_a_dataset_that_changed(
    folder: Path, tmp_path: Path, column: str, value: str | float
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "data" / "ct" / "slices.parquet"
    table = pd.read_parquet(path)
    table.loc[0, column] = value
    table.to_parquet(path)
    run = tmp_path / "copy" / "runs" / "joint"
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace(str(folder), str(tmp_path / "copy")))
    with pytest.raises(DataError, match="ct was prepared again"):
        evaluate(run)


def test_classification_run_from_train_to_evaluate(tmp_path: Path) -> None:
    config = debug_config(
        write_dataset(tmp_path, "classification"), optimizer={"epochs": 1, "batch_size": 2}
    )
    train(config, runs=tmp_path / "runs", name="groups")
    result = evaluate(tmp_path / "runs" / "groups")
    names = {m.name for m in result.results.metrics if m.level == "image" and m.of == "model"}
    assert names == set(CLASSIFICATION)
    assert result.figure("is", source="mri", features="predictor") is not None
    assert set(result.results.pictures) == {"calibration"}
    assert {group.name for group in result.results.groups} <= set(GROUP.classes)


def test_the_calibration_error_says_whether_probabilities_are_calibrated(tmp_path: Path) -> None:
    train(
        debug_config(write_dataset(tmp_path, "classification")),
        runs=tmp_path / "runs",
        name="groups",
    )
    run = tmp_path / "runs" / "groups"

    def notes() -> str:
        metrics = evaluate(run, metrics=["ece"]).results.metrics
        ece = next(m for m in metrics if (m.name, m.level, m.of) == ("ece", "image", "model"))
        return " ".join(ece.notes)

    assert "not calibrated: there are" in notes()  # too few validation patients
    record = run / "model" / "model.json"
    values = json.loads(record.read_text())
    values["predictor"]["calibration"] |= {"patients": 12, "temperature": 2.0, "reason": ""}
    record.write_text(json.dumps(values))
    assert "calibrated on 12 validation patients" in notes()


def test_what_cannot_be_kept_is_said_before_anything_is_computed(
    folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "runs" / "joint", run)
    evaluate(run, metrics=["mae"])
    (run / "evaluation" / "evaluation.json").unlink()
    events: list[Event] = []
    with pytest.raises(OutputError, match=r"evaluation\.json") as caught:
        evaluate(run, metrics=["mae"], listener=events.append)
    assert "Move" in caught.value.hint
    assert events == []
    assert (run / "evaluation" / "predictions.parquet").is_file()


def test_a_foreign_model_is_not_audited(folder: Path) -> None:
    run = folder / "runs" / "joint"
    with pytest.raises(UsageError, match="audited"):
        evaluate(run, model=run, audits=True)


def test_a_predictor_that_gives_no_numbers_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Predictor, outputs: torch.Tensor) -> np.ndarray:
        values = np.ones(len(outputs), dtype=np.float32)
        values[0] = np.nan
        return values

    monkeypatch.setattr(Predictor, "calibrated", broken)
    with pytest.raises(ModelError, match="not finite for 1 of"):
        evaluate(folder / "runs" / "joint", metrics=["mae"])


def test_some_figures_are_put_among_those_that_were_kept(folder: Path) -> None:
    run = folder / "runs" / "joint"
    whole = evaluate(run).results
    again = evaluate(run, metrics=["fid", "mae"]).results
    assert {m.label for m in again.metrics} == {m.label for m in whole.metrics}
    assert again.audits == whole.audits
    assert again.pictures == whole.pictures
    assert read_results(run / "evaluation") == again
    assert (run / "evaluation" / "examples" / "mri" / "source.npy").is_file()
    table = pd.read_parquet(run / "evaluation" / "predictions.parquet")
    mse = float(((table["prediction"] - table["label"]) ** 2).mean())
    assert evaluate(run, metrics=["mse"]).figure("mse", level="image") == pytest.approx(mse)


def test_a_test_image_is_translated_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks for it: figures by several networks, pairs, audits, examples."""
    translated: list[int] = []
    run = subject.run_network

    def counting(network: Any, images: Any, **options: Any) -> torch.Tensor:
        translated.append(sum(map(len, images)))
        return run(network, images, **options)

    monkeypatch.setattr(subject, "run_network", counting)
    whole = evaluate(folder / "runs" / "joint").results
    assert sum(translated) == whole.translated["mri"]
    translated.clear()
    monkeypatch.setattr(subject, "MOST_KEPT", 2 * 4 * 32 * 32)  # two images of four bytes a pixel
    again = evaluate(folder / "runs" / "joint").results
    assert sum(translated) > whole.translated["mri"]
    assert again.metrics == whole.metrics
    assert again.audits == whole.audits


def test_the_figures_that_cannot_be_taken_have_a_reason(folder: Path) -> None:
    result = evaluate(folder / "runs" / "joint", metrics=["is", "mse"])
    (score,) = result.missing
    assert (score.name, score.value) == ("is", None)
    assert "no classes" in score.reason
    assert result.figure("mse", level="image") is not None
    lacking = evaluate(folder / "runs" / "joint", metrics=["fid"], extractors=["inception"])
    assert "weights" in lacking.missing[0].reason
    assert "--inception" in lacking.missing[0].remedy


def test_a_network_of_timm_with_local_weights_compares_images(folder: Path, tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", in_chans=3, num_classes=5)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    spec = f"test_resnet={tmp_path / 'w.safetensors'}"
    result = evaluate(folder / "runs" / "joint", metrics=["fid"], extractors=[spec])
    assert result.figure("fid", source="mri", features="test_resnet") is not None
    with pytest.raises(ModelError, match="do not exist"):
        evaluate(folder / "runs" / "joint", metrics=["fid"], extractors=["test_resnet=no.st"])
    with pytest.raises(UsageError, match="Unknown value for --features"):
        evaluate(folder / "runs" / "joint", metrics=["fid"], extractors=["resnet"])
