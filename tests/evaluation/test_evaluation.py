"""Metrics against closed forms, and evaluate on a tiny run."""

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
import torch_fidelity
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from medxlate.base.errors import DataError, ModelError, OutputError, UsageError
from medxlate.base.events import Event
from medxlate.dataset.labels import Task
from medxlate.evaluation import subject
from medxlate.evaluation.evaluate import evaluate
from medxlate.evaluation.features import (
    Extractor,
    extract,
    find_inception,
    inception_extractor,
    open_store,
    predictor_extractor,
    to_eight_bit,
)
from medxlate.evaluation.fidelity import compare_features
from medxlate.evaluation.prediction_metrics import CLASSIFICATION, Cases, score_slices
from medxlate.evaluation.results import read_results
from medxlate.inference.predict import Predictor, predict
from medxlate.method.predictor import PredictorNetwork
from medxlate.training.train import train
from tiny import AGE, GROUP, debug_config, write_dataset


def score(
    values: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], task: Task
) -> dict[str, float | None]:
    return score_slices(Cases(values, labels, tuple(map(str, range(len(labels))))), task)[0]


def test_regression_scores_are_their_definitions() -> None:
    truth = np.array([20.0, 35.0, 50.0, 80.0])
    values = np.array([25.0, 30.0, 55.0, 70.0])
    found = score(values, truth, AGE)
    assert found["mse"] == pytest.approx(((values - truth) ** 2).mean())
    assert found["mae"] == pytest.approx(6.25)
    expected = 1 - ((values - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert found["r2"] == pytest.approx(expected)


def test_r2_of_equal_labels_is_not_defined() -> None:
    assert score(np.array([1.0, 2.0]), np.array([3.0, 3.0]), AGE)["r2"] is None


def test_classification_scores_against_counting() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 40)  # the third class never occurs
    values = random.dirichlet([1, 1, 0.2], 40).astype(np.float32)
    found = score(values, truth, GROUP)
    chosen = values.argmax(axis=1)
    assert found["accuracy"] == pytest.approx((chosen == truth).mean())
    brier = [(values[i, k] - (truth[i] == k)) ** 2 for i in range(40) for k in range(3)]
    assert found["brier"] == pytest.approx(sum(brier) / 40, abs=1e-6)
    f1, auroc = [], []
    for k in (0, 1):
        hit = ((chosen == k) & (truth == k)).sum()
        f1.append(2 * hit / ((chosen == k).sum() + (truth == k).sum()))
        positive, negative = values[truth == k, k], values[truth != k, k]
        auroc.append((positive[:, None] > negative[None]).mean())
    assert found["f1"] == pytest.approx(np.mean(f1), abs=1e-6)
    assert found["auroc"] == pytest.approx(np.mean(auroc), abs=1e-6)


def test_auroc_of_one_class_is_not_defined() -> None:
    values = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], dtype=np.float32)
    assert score(values, np.array([1, 1]), GROUP)["auroc"] is None


@pytest.fixture(scope="module")
def network() -> PredictorNetwork:
    torch.manual_seed(0)
    made = PredictorNetwork(architecture="test_resnet", outputs=3)
    made.eval()
    return made


def some_images(count: int, seed: int, contrast: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 32, 32, generator=generator) * contrast * 2 - 1


def compare(
    fakes: torch.Tensor, reals: torch.Tensor, metrics: list[str], extractor: Extractor
) -> dict[str, float]:
    cpu = torch.device("cpu")
    with open_store(None, extractor, cpu) as store:
        sets = [
            extract(map(to_eight_bit, images.split(16)), extractor, cpu, store)
            for images in (fakes, reals)
        ]
        width, has_classes = extractor.width, extractor.has_classes
        return compare_features(*sets, metrics, width=width, has_classes=has_classes)


def test_fid_and_kid_by_predictor_features_are_their_formulas(network: PredictorNetwork) -> None:
    fakes, reals = some_images(60, 1, 0.5), some_images(70, 2)
    extractor = predictor_extractor(network, has_classes=True)
    found = compare(fakes, reals, ["fid", "kid", "is"], extractor)
    assert set(found) == {"fid", "kid", "is"}

    def pooled(images: torch.Tensor) -> np.ndarray:
        eight = ((images + 1) / 2 * 255).round() / 127.5 - 1
        with torch.inference_mode():
            return network.features(eight).double().numpy()

    a, b = pooled(fakes), pooled(reals)

    def root(matrix: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    # Frechet distance of two Gaussians (Dowson and Landau 1982), in its symmetric form.
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    mixed = root(root(one) @ other @ root(one))
    fid = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other - 2 * mixed)
    assert found["fid"] == pytest.approx(fid, rel=1e-3)
    assert found["kid"] > 0


def test_fid_of_a_set_with_itself_is_zero_and_grows_with_distance(
    network: PredictorNetwork,
) -> None:
    extractor = predictor_extractor(network, has_classes=True)
    reals = some_images(50, 3)
    same = compare(reals, reals, ["fid"], extractor)["fid"]
    near = compare(some_images(50, 4, 0.9), reals, ["fid"], extractor)["fid"]
    far = compare(some_images(50, 4, 0.3), reals, ["fid"], extractor)["fid"]
    assert abs(same) < 1e-3 < near < far


def test_inception_weights_must_be_tensors_only(tmp_path: Path) -> None:
    trap = tmp_path / "trap.pth"
    torch.save({"weights": Path}, trap)  # a pickle that names a class
    with pytest.raises(ModelError, match=r"trap\.pth"):
        inception_extractor(trap)


class Listed(torch.utils.data.Dataset):
    """Images as torch-fidelity takes them."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def test_kid_and_is_of_inception_are_those_of_torch_fidelity(tmp_path: Path) -> None:
    """With random weights in a file: the published ones cannot be had without internet."""
    weights = tmp_path / "inception.pth"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        blank = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path="x")
    torch.save(blank.state_dict(), weights)
    fakes, reals = some_images(12, 5, 0.5), some_images(14, 6)
    found = compare(fakes, reals, ["kid", "is"], inception_extractor(weights))
    theirs = torch_fidelity.calculate_metrics(
        input1=Listed(to_eight_bit(fakes)),
        input2=Listed(to_eight_bit(reals)),
        feature_extractor_weights_path=str(weights),
        cuda=False, kid=True, isc=True, kid_subset_size=12, batch_size=4,
        save_cpu_ram=True, cache=False, verbose=False,
    )  # fmt: skip
    assert found["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert found["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-4)


def test_inception_is_found_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert find_inception(None, download=False) is None
    cached = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir()
    cached.write_bytes(b"x")
    assert find_inception(None, download=False) == cached
    with pytest.raises(ModelError, match="do not exist"):
        find_inception(tmp_path / "no.pth", download=True)


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
    with pytest.raises(DataError, match="ct was prepared anew"):
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
    with pytest.raises(ModelError, match="no finite number for 1 of"):
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
    with pytest.raises(UsageError, match="unknown"):
        evaluate(folder / "runs" / "joint", metrics=["fid"], extractors=["resnet"])
